"""Residency with recording engines: order of loads, the budget, and what is given back."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtool.artifacts import BundleModel, FileEntry, Parity
from pdtool.errors import GateError, InputError
from pdtool.runtime.forecast import expected_loads
from pdtool.runtime.need import need
from pdtool.runtime.residency import Residency, draw_order


class Recorder:
    """Hands out engines that record loads and closes, and checks the bytes that are open at every moment."""

    def __init__(self):
        self.open, self.loads, self.most = {}, [], 0

    def load(self, model):
        self.loads.append(model.id)
        self.open[model.id] = model
        held = sum(m.resident_bytes for m in self.open.values())
        self.most = max(self.most, held - model.resident_bytes + model.load_peak_bytes, held)
        return Handle(self, model)


class Handle:
    measured_bytes = None

    def __init__(self, recorder, model):
        self.recorder, self.model = recorder, model

    def run(self, batch):
        return np.zeros((len(batch), 2), dtype=np.float32)

    def close(self):
        del self.recorder.open[self.model.id]


def model(name, resident=10, peak=14, run=0):
    return BundleModel(
        id=name,
        file=FileEntry(path=f"models/{name}.onnx", bytes=1, sha256="0" * 64),
        part=0,
        weights_sha256="0" * 64,
        macs=1,
        parameters=1,
        accuracy=1.0,
        resident_bytes=resident,
        load_peak_bytes=peak,
        run_bytes=run,
        parity=Parity(images=1, label_agreement=1.0, max_difference=0.0),
    )


def residency_of(count, budget, load):
    members = [model(f"m{i}", run=6) for i in range(count)]  # scratch: 4 to load one, 6 to run one
    return Residency(model("original", 20, 30), members, budget, load)


def scan(residency, frames, depth):
    for _ in range(frames):
        residency.engine(residency.original)
        for member in residency.order[:depth]:
            residency.engine(member)


def test_everything_is_loaded_once_without_a_budget():
    recorder = Recorder()
    residency = residency_of(5, None, recorder.load)
    scan(residency, 10, 5)
    assert recorder.loads == ["original", "m0", "m1", "m2", "m3", "m4"]
    assert residency.counters.evictions == 0
    residency.close()
    assert recorder.open == {}
    assert residency.reserved == 0


def test_a_prefix_stays_and_one_place_cycles():
    recorder = Recorder()
    # scratch 10, original 20, so 40 is left for members: four of ten bytes
    residency = residency_of(8, 70, recorder.load)
    assert residency.stays() == 3
    scan(residency, 3, 8)
    assert recorder.loads[:5] == ["original", "m0", "m1", "m2", "m3"]
    assert {"m0", "m1", "m2"} <= set(residency.resident)
    assert [recorder.loads.count(f"m{i}") for i in range(8)][:3] == [1, 1, 1]
    # least recently used would load all eight members in every scan
    assert len(recorder.loads) == 1 + 8 + 2 * 5


def test_frames_that_stop_early_load_nothing_more():
    recorder = Recorder()
    residency = residency_of(8, 70, recorder.load)
    scan(residency, 1, 8)
    loads = len(recorder.loads)
    scan(residency, 100, 3)
    assert len(recorder.loads) == loads


@pytest.mark.parametrize("budget", [1, 39])
def test_a_budget_that_can_never_work(budget):
    with pytest.raises(GateError, match=rf"memory budget {budget} bytes is too small.*need 40 bytes"):
        residency_of(3, budget, Recorder().load)


def test_the_least_budget_works():
    original, members = model("original", 20, 30), [model(f"m{i}") for i in range(4)]
    recorder = Recorder()
    residency = Residency(original, members, need(original, members).least, recorder.load)
    assert residency.stays() == 0
    scan(residency, 2, 4)
    assert recorder.most <= 40


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30)), min_size=1, max_size=12),
    st.integers(0, 300),
    st.lists(st.integers(0, 12), min_size=1, max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_budget_holds_for_any_sizes_depths_and_orders(sizes, spare, depths, random):
    original = model("original", 20, 30)
    members = [model(f"m{i}", size, size + extra) for i, (size, extra) in enumerate(sizes)]
    budget = need(original, members).least + spare
    recorder = Recorder()
    residency = Residency(original, members, budget, recorder.load)
    for depth in depths:
        order = list(range(len(members)))
        random.shuffle(order)
        residency.set_order(order)
        scan(residency, 2, depth)
        assert recorder.most <= budget
        assert residency.counters.peak_bytes <= budget
        assert set(residency.resident) == set(recorder.open)
    residency.close()
    assert recorder.open == {}


@pytest.mark.parametrize("rotate", [1, 7])
def test_expected_loads_of_an_order_drawn_again_and_again(rotate):
    shares, rng = (0.2, 0.3, 0.1, 0.0, 0.2, 0.0, 0.1, 0.1), np.random.default_rng(11)
    residency = residency_of(8, 70, Recorder().load)
    loads = 0
    for frame, depth in enumerate(rng.choice(8, size=3000, p=shares) + 1):
        if frame == 200:
            loads = residency.counters.loads
        if frame % rotate == 0:
            residency.set_order(draw_order(rng, residency.members))
        scan(residency, 1, depth)
    real = (residency.counters.loads - loads) / 2800
    assert expected_loads(residency, shares, rotate=rotate) == pytest.approx(real, rel=0.1)
    assert rotate > 1 or expected_loads(residency, shares) < 0.8 * real


def test_the_members_of_a_file_stay_together_in_every_order():
    members = [replace(model(f"m{i}"), file=model(f"p{i // 3}").file, part=i % 3) for i in range(8)]
    orders = [draw_order(np.random.default_rng(seed), members) for seed in range(20)]
    for order in orders:
        assert sorted(order) == list(range(8))
        assert [k for k, g in itertools.groupby(order, key=lambda i: i // 3)] in [
            list(p) for p in itertools.permutations(range(3))
        ]
    assert len({tuple(order) for order in orders}) > 10


def test_expected_loads_are_those_of_real_frames():
    shares = (0.5, 0.2, 0.1, 0.0, 0.1, 0.0, 0.0, 0.1)
    for budget in (None, 110, 70, 40):
        residency = residency_of(8, budget, Recorder().load)
        residency.set_order([3, 1, 4, 0, 5, 7, 2, 6])
        depths = np.random.default_rng(7).choice(8, size=3000, p=shares) + 1
        scan(residency, 20, 8)
        before = residency.counters.loads
        for depth in depths:
            scan(residency, 1, depth)
        real = (residency.counters.loads - before) / len(depths)
        assert expected_loads(residency, shares) == pytest.approx(real, abs=0.1 * real + 0.02)
        assert (real == 0) == (budget in (None, 110))


# -- loaded ahead


def ahead_of(count, budget, recorder, **more):
    members = [model(f"m{i}", run=6, **more) for i in range(count)]
    return Residency(model("original", 20, 30), members, budget, recorder.load, in_background=True)


def frame(residency, depth):
    """As `waves.ask`: after each engine is there, the next one is begun; after the frame, the first one missing."""
    for rank, member in enumerate((residency.original, *residency.order[:depth])):
        engine = residency.engine(member)
        residency.prefetch(rank)
        assert engine.model is member and member.id in residency.resident  # nothing that runs is evicted
    residency.prefetch(0)


def test_after_a_deep_frame_the_first_one_missing_is_loaded_before_it_is_asked_for():
    recorder = Recorder()
    residency = ahead_of(8, 70, recorder)  # three stay, one place cycles
    frame(residency, 8)
    loads, ahead = residency.counters.loads, residency.counters.ahead
    for _ in range(5):
        frame(residency, 4)  # the fourth lies in the place since the frame before
    assert residency.counters.loads == loads + 1
    assert residency.counters.ahead == ahead + 1
    residency.close()
    assert recorder.open == {}
    assert residency.reserved == 0


def test_ahead_costs_no_more_loads_than_waiting():
    rng = np.random.default_rng(3)
    depths = rng.integers(1, 9, 200)
    counts = []
    for in_background in (False, True):
        recorder = Recorder()
        residency = Residency(
            model("original", 20, 30),
            [model(f"m{i}") for i in range(8)],
            70,
            recorder.load,
            in_background=in_background,
        )
        for depth in depths:
            frame(residency, depth)
        residency.close()
        counts.append(len(recorder.loads))
        assert residency.counters.loads == len(recorder.loads)
    assert counts[1] <= counts[0] + 1


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=12),
    st.integers(0, 300),
    st.lists(st.integers(0, 12), min_size=1, max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_budget_holds_with_loads_ahead(sizes, spare, depths, random):
    original = model("original", 20, 30, 5)
    members = [model(f"m{i}", size, size + extra, run) for i, (size, extra, run) in enumerate(sizes)]
    needed = need(original, members)
    runs = max(5, *(run for _, _, run in sizes))
    assert needed.scratch == runs + max(extra for _, extra, _ in sizes)
    assert needed.least == max(30, 20 + max(size for size, _, _ in sizes) + needed.scratch)
    budget = needed.least + spare
    recorder = Recorder()
    residency = Residency(original, members, budget, recorder.load, in_background=True)
    residency.engine(original)  # nothing runs yet
    assert recorder.most <= budget
    recorder.most = 0
    for depth in depths:
        order = list(range(len(members)))
        random.shuffle(order)
        residency.set_order(order)
        for _ in range(2):
            frame(residency, depth)
        assert recorder.most + runs <= budget  # while one is loaded, another may run
        assert residency.reserved <= budget and residency.counters.peak_bytes <= budget
    residency.close()
    assert recorder.open == {} and residency.reserved == 0


def test_a_load_ahead_that_fails_is_told_to_whoever_needs_the_model():
    recorder = Recorder()
    broken = {"on": False}

    def load(wanted):
        if broken["on"] and wanted.id == "m3":
            raise InputError("m3: the file is gone")
        return recorder.load(wanted)

    residency = Residency(model("original", 20, 30), [model(f"m{i}") for i in range(8)], 70, load, in_background=True)
    frame(residency, 8)
    residency.engine(residency.order[7])  # m3, loaded ahead, makes room
    broken["on"] = True
    residency.prefetch(0)
    frame(residency, 3)
    with pytest.raises(InputError, match="m3: the file is gone"):
        residency.engine(residency.order[3])
    broken["on"] = False
    frame(residency, 8)
    residency.close()
    assert recorder.open == {} and residency.reserved == 0
