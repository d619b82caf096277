"""A decision table: the sequential test reduced to numbers, so that a device only compares.

Evidence is what one member says against the original's label: 0 or 1 (label change), or a number in [0, 1] (graded).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.kinds import Kinds, levels
from pdtool.decisions import Calibration

__all__ = ["CLEAR", "CONTINUE", "FLAG", "DecisionTable", "GradedTable", "SequentialTest", "Table", "replay", "table_of"]

CONTINUE, FLAG, CLEAR = 0, 1, -1

Numbers = NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float64]


class Table(Protocol):
    """A sequential test of at most `max_models` members; after those it has decided every frame."""

    @property
    def max_models(self) -> int:
        """Most members that a frame can need."""
        ...

    @property
    def earliest(self) -> int:
        """Fewest members after which a frame can be decided: every frame needs them."""
        ...

    def running(self, evidence: Numbers) -> Numbers:
        """What is compared with the table's entries after each member, (N, M), from their evidence (N, M) in the order
        in which they were asked."""
        ...

    def decide(self, asked: int, value: Numbers, last: Numbers) -> NDArray[np.int8]:
        """FLAG, CLEAR or CONTINUE for frames (N,) after `asked` members.

        `value` (N,): of `running`, there; `last` (N,): the evidence of the last member.
        """
        ...

    def cut(self, asked: int, value: Numbers) -> NDArray[np.int8]:
        """FLAG or CLEAR for frames (N,) that are left open after `asked` members, when no more can be asked: what the
        last entry of the table would say of the same evidence. No promise about false alarms covers it."""
        ...

    def evidence(self, asked: int, value: float) -> float:
        """A value of `running` after `asked` members as evidence in [0, 1]."""
        ...


@dataclass(frozen=True)
class DecisionTable:
    """For label changes. Entry n-1 is for n models asked: at least `flag_at` changes flag, at most `clear_at` clear.

    None: that many cannot decide so. The last entries decide every count. With `after_change` a frame is decided
    only by a member that changed its label, and what the last member leaves open is clear (the `mmt` rule).
    """

    flag_at: tuple[int | None, ...]
    clear_at: tuple[int | None, ...]
    after_change: bool = False

    @staticmethod
    def of(first_flag: NDArray[np.int64], last_clear: NDArray[np.int64]) -> "DecisionTable":
        """From counts a number of models (N,): n + 1 where no count flags, -1 where none clears."""
        return DecisionTable(
            tuple(None if count > n else int(count) for n, count in enumerate(first_flag, start=1)),
            tuple(None if count < 0 else int(count) for count in last_clear),
        )

    @property
    def max_models(self) -> int:
        """Most models that a frame can need."""
        return len(self.flag_at)

    @property
    def earliest(self) -> int:
        """As `Table.earliest`."""
        return _earliest(self.flag_at, self.clear_at)

    def running(self, evidence: Numbers) -> Numbers:
        """As `Table.running`: the number of changes."""
        changes: Numbers = evidence.cumsum(axis=1)
        return changes

    def decide(self, asked: int, value: Numbers, last: Numbers) -> NDArray[np.int8]:
        """As `Table.decide`."""
        flag, clear = self.flag_at[asked - 1], self.clear_at[asked - 1]
        decision = np.full(value.shape, CONTINUE, dtype=np.int8)
        if flag is not None:
            decision[value >= flag] = FLAG
        if clear is not None:
            decision[value <= clear] = CLEAR
        if self.after_change:
            decision[~last.astype(bool)] = CLEAR if asked == self.max_models else CONTINUE
        return decision

    def cut(self, asked: int, value: Numbers) -> NDArray[np.int8]:
        """As `Table.cut`: against the share of changes that the last entries flag; none flags by `after_change`."""
        flag = None if self.after_change else self.flag_at[-1]
        if flag is None:
            return np.full(value.shape, CLEAR, dtype=np.int8)
        return np.where(value * self.max_models >= flag * asked, FLAG, CLEAR).astype(np.int8)

    def evidence(self, asked: int, value: float) -> float:
        """As `Table.evidence`: the label change rate."""
        return value / asked


@dataclass(frozen=True)
class GradedTable:
    """For graded evidence. Entry n-1 is for n asked: a mean above `flag_above` flags, at most `clear_below` clears.

    None: that many cannot decide so. The last entries are the same number, so that every frame is decided. `kinds`:
    in a mixed pool, those of the members in the order in which they are asked; the largest of the kinds' means counts.
    """

    flag_above: tuple[float | None, ...]
    clear_below: tuple[float | None, ...]
    kinds: Kinds | None = None

    @property
    def max_models(self) -> int:
        """Most models that a frame can need."""
        return len(self.flag_above)

    @property
    def earliest(self) -> int:
        """As `Table.earliest`."""
        return _earliest(self.flag_above, self.clear_below)

    def running(self, evidence: Numbers) -> Numbers:
        """As `Table.running`: the mean, or the largest of the kinds' means."""
        return levels(evidence.astype(np.float64), self.kinds)

    def decide(self, asked: int, value: Numbers, last: Numbers) -> NDArray[np.int8]:
        """As `Table.decide`."""
        del last
        flag, clear = self.flag_above[asked - 1], self.clear_below[asked - 1]
        decision = np.full(value.shape, CONTINUE, dtype=np.int8)
        if flag is not None:
            decision[value > flag] = FLAG
        if clear is not None:
            decision[value <= clear] = CLEAR
        return decision

    def cut(self, asked: int, value: Numbers) -> NDArray[np.int8]:
        """As `Table.cut`: against the mean that the last entries flag above."""
        del asked
        last = self.flag_above[-1]
        assert last is not None
        return np.where(value > last, FLAG, CLEAR).astype(np.int8)

    def evidence(self, asked: int, value: float) -> float:
        """As `Table.evidence`."""
        del asked
        return value


def _earliest(flag: Sequence[float | None], clear: Sequence[float | None]) -> int:
    decides = (n for n, entries in enumerate(zip(flag, clear, strict=True), start=1) if entries != (None, None))
    return next(decides, len(flag))


class SequentialTest:
    """The test for one frame, one member's evidence at a time.

    >>> test = SequentialTest(DecisionTable(flag_at=(None, 2, 2), clear_at=(None, None, 1)))
    >>> [test.update(changed) for changed in (True, False, True)]
    [0, 0, 1]
    >>> test = SequentialTest(GradedTable(flag_above=(0.9, 0.5), clear_below=(0.1, 0.5)))
    >>> [test.update(evidence) for evidence in (0.3, 0.2)]
    [0, -1]

    On a frame whose members change their label with chance 0.7, and on one with 0.05:

    >>> from pdtool.calibration.wald import compile_wald
    >>> votes = np.random.default_rng(7).random(16)
    >>> for chance in (0.7, 0.05):
    ...     test = SequentialTest(compile_wald(0.1, 0.5, 0.05, 0.05, 16, "threshold"))
    ...     print(next(decision for vote in votes if (decision := test.update(vote < chance))), test.models_used)
    1 5
    -1 6
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.said: list[float] = []
        self.decision = CONTINUE

    @property
    def models_used(self) -> int:
        """Members counted."""
        return len(self.said)

    def update(self, evidence: bool | float) -> int:
        """Count one member's evidence; CONTINUE (0), FLAG (1) or CLEAR (-1). Raises ValueError after a decision, or
        for evidence that is no number in [0, 1]."""
        if self.decision != CONTINUE:
            raise ValueError("the test has decided already; start a new one for the next frame")
        if not 0 <= evidence <= 1:
            raise ValueError(f"expected evidence in [0, 1], got {evidence}")
        self.said.append(float(evidence))
        said = np.array([self.said])
        self.decision = int(self.table.decide(self.models_used, self.table.running(said)[:, -1], said[:, -1])[0])
        return self.decision


def replay(table: Table, evidence: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Run the test on recorded evidence (N, M >= max_models), column k the k-th member asked.

    Returns which frames are flagged (N,) and how many models each used (N,). Raises ValueError for too few members or
    evidence that is no number in [0, 1].
    """
    frames, members = evidence.shape
    if members < table.max_models:
        raise ValueError(f"the table asks up to {table.max_models} models, the votes hold {members}")
    if not ((evidence >= 0) & (evidence <= 1)).all():
        raise ValueError("expected evidence in [0, 1]")
    values = table.running(evidence[:, : table.max_models])
    decisions = np.stack([table.decide(n + 1, values[:, n], evidence[:, n]) for n in range(table.max_models)], axis=1)
    used = (decisions != CONTINUE).argmax(axis=1) + 1
    flagged = decisions[np.arange(frames), used - 1] == FLAG
    return flagged, used


def table_of(calibration: Calibration) -> Table:
    """The table that a calibration holds. Raises ValueError where it holds none of its evidence."""
    c = calibration
    if c.evidence == "label" and c.flag_at is not None and c.clear_at is not None:
        return DecisionTable(c.flag_at, c.clear_at, c.after_change)
    if c.evidence == "graded" and c.flag_above is not None and c.clear_below is not None:
        return GradedTable(c.flag_above, c.clear_below, c.kinds)
    raise ValueError(f"the calibration holds no table for {c.evidence} evidence")
