"""Checks of the adaptive attacks themselves: what holds, what fails, what tells nothing."""

import dataclasses

import numpy as np

from pdtool.artifacts import FileEntry
from pdtool.evaluation.adaptive_checks import check_attacks, check_disturbances, curves_of
from pdtool.evaluation.adaptive_results import Cell, Disturbance, Goal
from pdtool.evaluation.metrics import mean_of, rate


def test_checks_say_where_they_tell_nothing() -> None:
    def cell(steps: int, evaded: int, *, again: bool = False) -> Cell:
        some, nothing = rate(np.arange(20) < evaded), mean_of(np.zeros(0))
        return Cell(
            threat="full", surrogates=None, epsilon=0.1, steps=steps, again=again, attempts=1, attacked=20,
            fooled=some, evasion=some, flagged=some, unscreened=0, models_used=nothing, linf=nothing, spent=nothing,
            queries=nothing, evaded=tuple(range(evaded)), file=FileEntry(path="a", bytes=1, sha256="0" * 64),
        )  # fmt: skip

    def checked(usual: int, few: int, again: int) -> list[tuple[bool, str | None]]:
        cells = [cell(50, usual)]
        checks = check_attacks(curves_of(cells), cells, [cell(10, few), cell(50, again, again=True)], 0.1)
        assert [check.name.partition(": ")[2][:8] for check in checks] == ["more ste", "one more"]
        return [(check.holds, check.empty) for check in checks]

    assert checked(0, 0, 0) == [(True, "no success")] * 2
    assert checked(20, 20, 20) == [(True, "saturated")] * 2
    assert checked(12, 10, 13) == [(True, None)] * 2
    assert checked(10, 12, 12) == [(False, None)] * 2

    def disturbed(goal: Goal | None, steps: int, kept: int, flagged: int, used: float) -> Disturbance:
        return Disturbance(
            goal=goal, share=None, epsilon=0.1, steps=steps, attacked=20, kept=rate(np.arange(20) < kept),
            flagged=rate(np.arange(20) < flagged), models_used=mean_of(np.full(kept, used)), file=None,
        )  # fmt: skip

    def judged(clean: Disturbance, few: Disturbance, many: Disturbance) -> list[tuple[bool, str | None]]:
        return [(c.holds, c.empty) for c in check_disturbances([clean, many], [few], 0.1, 8)]

    clean = disturbed(None, 0, 20, 2, 3.0)
    assert judged(clean, disturbed("alarm", 10, 20, 9, 2), disturbed("alarm", 50, 18, 12, 2)) == [(True, None)] * 2
    assert judged(clean, disturbed("alarm", 10, 20, 9, 2), disturbed("alarm", 50, 18, 2, 2)) == [(False, None)] * 2
    assert judged(clean, disturbed("delay", 10, 20, 0, 4), disturbed("delay", 50, 20, 0, 5)) == [(True, None)] * 2
    assert judged(clean, disturbed("delay", 10, 20, 0, 4), disturbed("delay", 50, 12, 0, 5)) == [(False, None)] * 2
    agreed = dataclasses.replace(disturbed("delay", 50, 20, 0, 3), share=0.0)  # what asks most: all members agree
    assert judged(clean, dataclasses.replace(agreed, steps=10), agreed) == [(True, "saturated")] * 2
    capped = disturbed(None, 0, 20, 0, 8.0)
    assert (
        judged(capped, disturbed("delay", 10, 20, 0, 8), disturbed("delay", 50, 20, 0, 8)) == [(True, "saturated")] * 2
    )
