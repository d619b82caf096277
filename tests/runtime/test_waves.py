"""The time budget: what is late is never silently clean."""

import numpy as np
import pytest

from pdtool.artifacts import BundleModel, FileEntry, Parity
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, GradedTable
from pdtool.data import load_data
from pdtool.errors import UsageError
from pdtool.runtime import waves
from pdtool.runtime.residency import Residency
from pdtool.runtime.screener import Screener
from pdtool.runtime.waves import TimeBudget, ask

TABLE = DecisionTable(flag_at=(None, None, 3, 3), clear_at=(None, None, 0, 2))


class Clock:
    """A clock that moves when an engine runs."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(waves, "time", clock)
    return clock


def model(name):
    entry = FileEntry(path=f"models/{name}.onnx", bytes=1, sha256="0" * 64)
    parity = Parity(images=1, label_agreement=1.0, max_difference=0.0)
    return BundleModel(
        id=name, file=entry, part=0, weights_sha256="0" * 64, macs=1, parameters=1, accuracy=1.0, resident_bytes=10,
        load_peak_bytes=14, run_bytes=0, parity=parity,
    )  # fmt: skip


class Says:
    """An engine that takes `ms` and changes the label of frames whose pixel says so: member k reads bit k."""

    measured_bytes = None

    def __init__(self, clock, bit, ms):
        self.clock, self.bit, self.ms = clock, bit, ms

    def run(self, batch):
        self.clock.now += self.ms / 1e3
        changed = (batch[:, 0, 0, 0].astype(int) >> self.bit) & 1 if self.bit >= 0 else np.zeros(len(batch), int)
        return np.eye(2, dtype=np.float32)[changed]

    def close(self):
        pass


def answers(clock, frames, budget, table=TABLE, ms=(4, 5, 5, 5, 5)):
    """`frames`: the members' votes as bits; the original and the members take `ms`."""
    places = {"original": 0, **{f"m{k}": k + 1 for k in range(4)}}
    residency = Residency(
        model("original"), [model(f"m{k}") for k in range(4)], None,
        lambda m: Says(clock, places[m.id] - 1, ms[places[m.id]]),
    )  # fmt: skip
    batch = np.array(frames, dtype=np.float32).reshape(-1, 1, 1, 1)
    return ask(batch, residency, table, classes=2, scales=None, started=clock.now, budget=budget)


ALL, NONE, FIRST, TWO = 0b1111, 0b0000, 0b0001, 0b0011


def test_without_a_budget_or_with_enough_time_everything_is_decided(clock):
    for budget in (None, TimeBudget(24), TimeBudget(24, "decide")):
        came = answers(clock, [ALL, NONE, FIRST], budget)
        assert [(a.decision, a.used, a.late) for a in came] == [(FLAG, 3, False), (CLEAR, 3, False), (CLEAR, 4, False)]


def test_what_is_late_is_left_open(clock):
    came = answers(clock, [ALL, NONE, FIRST], TimeBudget(19))  # 4 + 5 + 5 + 5: three members, not the fourth
    assert [(a.decision, a.used, a.late) for a in came] == [(FLAG, 3, False), (CLEAR, 3, False), (CONTINUE, 3, True)]
    assert clock.now == pytest.approx(100.019)


def test_no_member_is_begun_that_would_end_too_late(clock):
    answers(clock, [FIRST], TimeBudget(18.9))
    assert clock.now == pytest.approx(100.014)
    clock.now = 100.0
    answers(clock, [FIRST], TimeBudget(24.9), ms=(10, 5, 5, 5, 5))  # the slowest so far took 10
    assert clock.now == pytest.approx(100.015)


@pytest.mark.parametrize("late", ["unscreened", "decide"])
def test_a_member_slower_than_foreseen_is_late_and_said_to_be(clock, late):
    came = answers(clock, [ALL, NONE], TimeBudget(19, late), ms=(4, 5, 5, 6, 5))  # the third ends at 20
    for answer, decided in zip(came, (FLAG, CLEAR), strict=True):
        assert answer.late and answer.used == 3
        assert answer.decision == (CONTINUE if late == "unscreened" else decided)


def test_a_slow_load_makes_the_frame_late_and_not_the_next_one(clock):
    residency = Residency(model("original"), [model(f"m{k}") for k in range(4)], None, lambda m: None)  # type: ignore[arg-type,return-value]

    def load(wanted):
        clock.now += 0.02
        return Says(clock, int(wanted.id[1:]) if wanted.id != "original" else -1, 1)

    residency.load = load
    batch = np.array([ALL], dtype=np.float32).reshape(-1, 1, 1, 1)
    said = []
    for _ in range(5):
        came = ask(batch, residency, TABLE, classes=2, scales=None, started=clock.now, budget=TimeBudget(25))
        said.append((came[0].late, came[0].used, came[0].decision))
    # 21 ms for the original, no time for a member that took as long; then one is loaded a frame, the last one in time
    assert said == [
        (True, 0, CONTINUE),
        (True, 1, CONTINUE),
        (True, 2, CONTINUE),
        (False, 3, FLAG),
        (False, 3, FLAG),
    ]


def test_the_original_alone_may_be_too_slow(clock):
    for late in ("unscreened", "decide"):
        came = answers(clock, [ALL], TimeBudget(3, late))
        assert [(a.label, a.decision, a.used, a.late) for a in came] == [(0, CONTINUE, 0, True)]


def test_decide_is_the_cap_s_answer_to_the_same_share(clock):
    came = answers(clock, [FIRST, TWO, ALL], TimeBudget(14, "decide"))  # two members asked; the cap flags 3 of 4
    assert [(a.decision, a.used, a.changes, a.late) for a in came] == [
        (CLEAR, 2, 1, True), (FLAG, 2, 2, True), (FLAG, 2, 2, True),
    ]  # fmt: skip


def test_cut_agrees_with_the_last_entry_wherever_the_share_is_the_same():
    for cap, flag in ((4, 3), (5, 1), (6, 6), (3, 0)):
        table = DecisionTable((None,) * (cap - 1) + (flag,), (None,) * (cap - 1) + (flag - 1 if flag else None,))
        for z in range(cap + 1):
            assert table.cut(cap, np.array([z])) == table.decide(cap, np.array([z]), np.array([1]))
    graded = GradedTable((None, 0.4), (None, 0.4))
    assert graded.cut(1, np.array([0.4, 0.41])).tolist() == [CLEAR, FLAG]
    never = DecisionTable((None, None), (None, 2))
    assert never.cut(1, np.array([1])).tolist() == [CLEAR]


@pytest.mark.parametrize("late", ["unscreened", "decide"])
def test_a_screener_says_that_the_time_ran_out(workshop, late, monkeypatch):
    images = load_data("digits", (1, 32, 32), role="test", limit=20).images
    with Screener.open(workshop / "bundle", seed=5, latency_ms=1e-6, late=late) as screener:
        verdicts = screener.screen(images)
    assert {v.verdict for v in verdicts} == {"unscreened"}
    assert {v.reason for v in verdicts} == {"the time budget of 1e-06 ms ran out after 0 members"}
    with Screener.open(workshop / "bundle", seed=5) as screener:
        plain = [(v.label, v.verdict, v.models_used) for v in screener.screen(images)]
    with Screener.open(workshop / "bundle", seed=5, latency_ms=1e9, late=late) as screener:
        assert [(v.label, v.verdict, v.models_used) for v in screener.screen(images)] == plain
    clock = Clock()
    monkeypatch.setattr(waves, "time", clock)
    monkeypatch.setattr("pdtool.runtime.screener.time", clock, raising=True)
    with Screener.open(workshop / "bundle", seed=5, threads=1, latency_ms=5.5, late=late) as screener:
        real = screener.residency.load
        screener.residency.load = lambda m: Slow(real(m), clock)
        verdicts = screener.screen(images)  # a ms each: the original and four members
    early = [(label, verdict, used) for label, verdict, used in plain if used <= 4]
    assert early and len(early) < len(plain)
    for came, (label, verdict, used) in zip(verdicts, plain, strict=True):
        if used <= 4:
            assert (came.label, came.verdict, came.models_used, came.reason) == (label, verdict, used, None)
        else:
            assert came.reason == "the time budget of 5.5 ms ran out after 4 members"
            assert (came.verdict == "unscreened") == (late == "unscreened")
            assert came.models_used == (4 if late == "decide" else 0)


class Slow:
    measured_bytes = None

    def __init__(self, engine, clock):
        self.engine, self.clock = engine, clock

    def run(self, batch):
        self.clock.now += 1e-3
        return self.engine.run(batch)

    def close(self):
        self.engine.close()


@pytest.mark.parametrize("ms", [0, -1, float("nan"), float("inf")])
def test_no_time_is_a_usage_error(ms):
    with pytest.raises(UsageError, match="should be a number of ms above 0"):
        TimeBudget(ms)
    with pytest.raises(UsageError, match="should be unscreened or decide"):
        TimeBudget(1.0, "clean")  # type: ignore[arg-type]
