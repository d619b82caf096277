"""A plan: what it says of a pool is what the pool then is, and its time is that of the steps, by a clock of our own."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from pdtool.compress.contract import TRAINING, Draft, Method, Task
from pdtool.compress.hardening import Hardening
from pdtool.compress.models import build
from pdtool.compress.plan import fits_board, plan_pool
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.compress.prepare import METHODS
from pdtool.compress.recipe import RECIPES
from pdtool.compress.timing import AT_MOST, PATIENCE, STEPS
from pdtool.devices.catalogue import find
from pdtool.errors import GateError
from pdtool.jsonform import JsonValue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of plans: seconds in a list of one, which only the test moves on."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def planned(request_of: PoolRequest, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> Callable[..., PoolRequest]:
    """A request for members of a method whose `tune` is given, of `steps` ticks."""

    def of(tune: Callable[[Task], None], steps: int, members: int, *, start: float = 0.0) -> PoolRequest:
        def begin(task: Task) -> Draft:
            clock[0] += start
            return Draft(net=build(task.original.spec))

        def tuned(task: Task, net: nn.Module) -> dict[str, JsonValue]:
            tune(task)
            return {}

        monkeypatch.setitem(
            METHODS,
            "slow",
            Method(
                options={**TRAINING},
                removes="weights",
                settle=lambda task: (task.settings, ()),
                start=begin,
                tune=tuned,
                steps=lambda task: steps,
            ),
        )
        return replace(request_of, method="slow", members=members)

    return of


def test_a_plan_writes_nothing_and_says_what_the_pool_will_be(
    request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = replace(request_of, method="l1-norm", members=4, max_drop=1.0)
    plan = plan_pool(request, find("jetson-nano"))
    assert os.listdir(tmp_path) == []
    pool = make_pool(request, tmp_path / "POOL")
    macs = [member.model.macs for member in pool.members]
    assert plan.started == 4 and len(set(macs)) > 1
    assert (plan.member_macs.least, plan.member_macs.most) == (min(macs), max(macs))
    assert plan.member_macs.mean == pytest.approx(sum(macs) / 4)
    assert plan.original_macs == pool.original.macs and plan.original_accuracy == pool.original.accuracy
    assert plan.parameters == pool.original.parameters + sum(member.model.parameters for member in pool.members)
    files = [pool.original.file.bytes, *(member.model.file.bytes for member in pool.members)]
    assert plan.bytes == pytest.approx(sum(files), rel=0.05)  # without the text in the files' headers
    assert plan.left_whole == {"fc3": "the output comes from it"} and plan.units == 4
    assert plan.held_images == pool.original.accuracy_images
    assert plan.board is not None and plan.board.fp32.need_bytes == 4 * plan.parameters


def test_the_time_is_that_of_the_steps(planned: Callable[..., PoolRequest], clock: list[float]) -> None:
    def tune(task: Task) -> None:
        for i in range(1000):
            clock[0] += 0.005 if i % 2 else 0.015
            task.tick(1)

    plan = plan_pool(planned(tune, steps=1000, members=3, start=0.25))
    assert plan.timed == STEPS
    assert plan.seconds.mean == pytest.approx(3 * (0.25 + 1000 * 0.01))
    assert plan.seconds.least == pytest.approx(3 * (0.25 + 1000 * 0.005))
    assert plan.seconds.most == pytest.approx(3 * (0.25 + 1000 * 0.015))


def test_every_kind_of_a_mixed_pool_is_timed_and_counted_as_often_as_it_is_there(
    planned: Callable[..., PoolRequest], clock: list[float]
) -> None:
    takes = {"hardened": 0.01, "robust": 0.03, "plain": 0.002}

    def tune(task: Task) -> None:
        for _ in range(100):
            clock[0] += takes[task.kind]
            task.tick(1)

    hardening = Hardening(robust=0.02, robust_members=0.5, plain_members=0.25)
    request = replace(planned(tune, steps=100, members=8), recipe=RECIPES["hardened"], hardening=hardening)
    kinds = [hardening.kind(index) for index in range(8)]
    assert len(set(kinds)) == 3
    assert plan_pool(request).seconds.mean == pytest.approx(sum(100 * takes[kind] for kind in kinds))


def test_slow_steps_are_timed_for_a_while_only(planned: Callable[..., PoolRequest], clock: list[float]) -> None:
    def tune(task: Task) -> None:
        for _ in range(1000):
            clock[0] += 0.3
            task.tick(1)

    plan = plan_pool(planned(tune, steps=1000, members=2))
    assert plan.seconds.mean == pytest.approx(600) and clock[0] == pytest.approx(PATIENCE, abs=0.3)


def test_a_step_a_member_is_timed_over_many_members(planned: Callable[..., PoolRequest], clock: list[float]) -> None:
    seen: list[int] = []

    def tune(task: Task) -> None:  # mutants: some are drawn once, some often
        seen.append(task.seed)
        clock[0] += 0.1 * len(seen)
        task.tick(1)

    plan = plan_pool(planned(tune, steps=1, members=5))
    assert plan.timed == len(set(seen)) == 5
    assert plan.seconds.mean == pytest.approx(0.1 + 0.2 + 0.3 + 0.4 + 0.5)


def test_a_step_that_does_not_end_is_given_up_and_said(planned: Callable[..., PoolRequest], clock: list[float]) -> None:
    def tune(task: Task) -> None:
        while True:
            clock[0] += 3
            task.tick(0)

    plan = plan_pool(planned(tune, steps=1, members=4))
    assert AT_MOST < clock[0] < AT_MOST + 3 and plan.seconds.mean == pytest.approx(4 * clock[0])
    assert plan.notes == ("a step took more than 10 s: the time is the least that it can take",)


def test_members_that_are_given_up_take_their_time_and_are_named(
    planned: Callable[..., PoolRequest], clock: list[float]
) -> None:
    def tune(task: Task) -> None:
        clock[0] += 0.5
        raise GateError("no mutant will do")

    plan = plan_pool(planned(tune, steps=1, members=2))
    assert plan.notes == ("m001: no mutant will do", "m000: no mutant will do")
    assert plan.seconds.mean == pytest.approx(1.0)


def test_weights_fit_a_board_at_one_format_before_the_other() -> None:
    nano = find("jetson-nano")  # 4 GB
    small, middle, large = (fits_board(count, nano) for count in (900_000_000, 1_900_000_000, 2_100_000_000))
    assert [(fit.fp32.fits, fit.fp16.fits) for fit in (small, middle, large)] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert small.fp32.need_bytes == 3_600_000_000 and small.fp16.need_bytes == 1_800_000_000
    assert "estimate from the weights alone" in small.fp32.note and "measured with" not in small.fp32.note
