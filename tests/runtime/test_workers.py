"""Engines and parts of a batch at once: the same answers, at most so many images under way, no error lost."""

import threading
import time

import numpy as np
import pytest

from pdtool.runtime.workers import Workers


class Counts:
    """An engine that says each image's own number, and how many images were under way at once."""

    measured_bytes = None
    lock = threading.Lock()
    under_way = most = 0

    def __init__(self, factor, fails=False):
        self.factor, self.fails = factor, fails

    def run(self, batch):
        with Counts.lock:
            Counts.under_way += len(batch)
            Counts.most = max(Counts.most, Counts.under_way)
        time.sleep(0.001)
        with Counts.lock:
            Counts.under_way -= len(batch)
        if self.fails:
            raise MemoryError("no memory to run it")
        return batch[:, 0, 0, :2] * self.factor

    def close(self):
        pass


@pytest.fixture(autouse=True)
def fresh():
    Counts.under_way = Counts.most = 0


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("images", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("engines", [1, 2, 3])
def test_answers_come_in_order_and_no_more_images_run_than_memory_was_measured_for(count, images, engines):
    workers = Workers(count, most=8)
    batch = np.arange(images * 4, dtype=np.float32).reshape(images, 1, 2, 2)
    said = workers.run([Counts(k + 1) for k in range(engines)], batch)
    for k, logits in enumerate(said):
        np.testing.assert_array_equal(logits, batch[:, 0, 0, :2] * (k + 1))
    assert Counts.most <= 8
    workers.close()


def test_several_do_run_at_once():
    workers = Workers(2, most=8)
    for _ in range(20):
        workers.run([Counts(1), Counts(2)], np.zeros((1, 1, 2, 2), dtype=np.float32))
    assert Counts.most == 2
    workers.close()


def test_memory_for_one_image_means_one_at_a_time():
    workers = Workers(4, most=1)
    workers.run([Counts(1), Counts(2), Counts(3)], np.zeros((1, 1, 2, 2), dtype=np.float32))
    assert Counts.most == 1


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_an_error_is_raised_when_all_have_ended(broken):
    workers = Workers(2, most=8)
    engines = [Counts(1, fails=k == broken) for k in range(3)]
    with pytest.raises(MemoryError):
        workers.run(engines, np.zeros((4, 1, 2, 2), dtype=np.float32))
    assert Counts.under_way == 0
    assert len(workers.run([Counts(1)], np.zeros((4, 1, 2, 2), dtype=np.float32))[0]) == 4
    workers.close()
