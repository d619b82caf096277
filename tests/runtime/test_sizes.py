"""What models take here is measured once, beside the original, and never less than the bundle says."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from pdtool.data import load_data
from pdtool.devices.memory import held_bytes
from pdtool.errors import GateError
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.need import grown, need
from pdtool.runtime.providers import open_provider
from pdtool.runtime.screener import Screener
from pdtool.runtime.sizes import OTHERS, measure_here
from pdtool.runtime.workers import Workers
from tests.runtime.test_residency import model

UNIT = 2**20  # the sizes below, in steps that stand out of the noise of a process


class Process:
    """Models take what `takes` says, or as recorded; once `accident` more; a run takes what `runs` says, for good."""

    def __init__(self, takes=None, accident=(0, 0), runs=None):
        self.takes, self.accident, self.runs = takes or {}, accident, runs or {}
        self.base, self.open, self.loads, self.scratch, self.most = 7 * UNIT, {}, [], 0, 0

    def load(self, model):
        self.loads.append(model.id)
        if len(self.loads) == self.accident[0]:
            self.base += self.accident[1]
        self.open[model.id] = self.takes.get(model.id, model.resident_bytes / UNIT) * UNIT
        self.most = max(self.most, len(self.open))
        return Handle(self, model)

    def held(self):
        return int(self.base + sum(self.open.values()) + self.scratch)


class Handle:
    measured_bytes = None

    def __init__(self, process, model):
        self.process, self.model = process, model

    def run(self, batch):
        assert batch.shape == (4, 3, 8, 8)
        self.process.scratch = max(self.process.scratch, self.process.runs.get(self.model.id, 0) * UNIT)
        return np.zeros((len(batch), 2), dtype=np.float32)

    def close(self):
        del self.process.open[self.model.id]
        if not self.process.open:
            self.process.scratch = 0


def models():
    members = [model(f"m{i}", 10 * UNIT, 14 * UNIT, (2 + i) * UNIT) for i in range(5)]
    return [model("original", 20 * UNIT, 30 * UNIT, 5 * UNIT), *members]


def measured(process, held=None):
    return measure_here(models(), process.load, held or process.held, Workers(1, 4), (3, 8, 8), 4)


def test_what_takes_no_more_than_the_bundle_says_is_left_as_it_is():
    process = Process({"m2": 10.4, "m3": 3}, runs={"original": 5, "m4": 6})
    came, larger = measured(process)
    assert [m.resident_bytes for m in came] == [m.resident_bytes for m in models()]
    assert larger == 0
    assert [m.run_bytes for m in came] == [max(m.run_bytes, grown(6 * UNIT - OTHERS)) for m in models()]
    assert process.open == {} and process.most == 2  # never more than fits the least budget
    assert process.loads == ["original", "original", "m0", "m1", "m2", "m3", "m4"]


def test_what_takes_more_is_said_and_counted():
    process = Process({"m2": 25, "original": 22}, runs={"m4": 40})
    came, larger = measured(process)
    assert [m.resident_bytes // UNIT for m in came] == [22, 10, 10, 25, 10, 10]
    assert larger == 2
    assert {m.run_bytes for m in came} == {grown(40 * UNIT - OTHERS)}


@pytest.mark.parametrize("at", [1, 2, 4])
def test_growth_that_a_second_load_does_not_show_is_not_the_models(at):
    came, larger = measured(Process(accident=(at, 30 * UNIT)))
    assert [m.resident_bytes for m in came] == [m.resident_bytes for m in models()]
    assert larger == 0


def test_where_the_system_does_not_say_the_records_are_taken():
    process = Process({"m2": 25})
    assert measured(process, held=lambda: None) == (tuple(models()), 0)
    assert process.loads == []


def test_members_of_one_file_are_measured_once_together():
    process, given = Process({"m0": 25}), models()
    given = [given[0], *(replace(member, file=given[1].file, part=i) for i, member in enumerate(given[1:]))]
    came, larger = measure_here(given, process.load, process.held, Workers(1, 4), (3, 8, 8), 4)
    assert [m.resident_bytes // UNIT for m in came] == [20] + [10] * 5  # the last of the file is loaded: m4's id
    assert process.loads == ["original", "original", "m4"] and larger == 0


@pytest.mark.skipif(held_bytes() is None, reason="the system does not say what a process holds")
def test_a_program_that_allocates_while_frames_are_screened_changes_nothing(workshop):
    """A camera's reader, another screener: their memory is not the members'."""
    opened = open_bundle(workshop / "bundle")
    least = need(opened.bundle.original, opened.bundle.members).least
    images = load_data("digits", (1, 32, 32), role="test", limit=60).images
    with Screener.open(workshop / "bundle", seed=3) as screener:
        expected = [(v.label, v.verdict, v.models_used) for v in screener.screen(images)]
    stop = threading.Event()

    def reader():
        kept = []
        while not stop.is_set():
            kept.append(np.ones(2**20, dtype=np.float64))
            del kept[:-8]

    with Screener.open(workshop / "bundle", seed=3, memory_budget=least) as screener:
        thread = threading.Thread(target=reader)
        thread.start()
        try:
            for _ in range(5):
                came = [v for image in images for v in screener.screen(image[None])]
                assert [(v.label, v.verdict, v.models_used) for v in came] == expected
        finally:
            stop.set()
            thread.join()
        assert screener.residency.counters.evictions > 0 and screener.residency.counters.larger == 0


@pytest.mark.skipif(held_bytes() is None, reason="the system does not say what a process holds")
def test_what_is_too_large_here_is_told_before_the_first_frame(workshop, monkeypatch):
    opened = open_bundle(workshop / "bundle")
    least = need(opened.bundle.original, opened.bundle.members).least
    real, taken = held_bytes, []

    def growing():  # every load seems to take 64 MiB
        taken.append(64 * UNIT)
        return (real() or 0) + sum(taken)

    with open_provider(opened, "onnxruntime") as provider:
        monkeypatch.setattr(
            "pdtool.runtime.screener.open_calibrated", lambda opened, **more: replace(provider, held=growing)
        )
        with pytest.raises(GateError, match=r"too small.*9 take more here than at export"):
            Screener.open(workshop / "bundle", memory_budget=least + UNIT)
