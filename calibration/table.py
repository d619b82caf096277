"""A decision table: the sequential test reduced to integers, so that a device only compares counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLEAR", "CONTINUE", "FLAG", "DecisionTable", "SequentialTest", "decide", "replay"]

CONTINUE, FLAG, CLEAR = 0, 1, -1


@dataclass(frozen=True)
class DecisionTable:
    """Entry n-1 is for n models asked: at least `flag_at` changes flag, at most `clear_at` clear, None: neither.

    The last entries decide every count, so that `len(flag_at)` models always suffice.
    """

    flag_at: tuple[int | None, ...]
    clear_at: tuple[int | None, ...]

    @property
    def max_models(self) -> int:
        """Most models that a frame can need."""
        return len(self.flag_at)


class SequentialTest:
    """The test for one frame, one member's answer at a time.

    >>> test = SequentialTest(DecisionTable(flag_at=(None, 2, 2), clear_at=(None, None, 1)))
    >>> [test.update(changed) for changed in (True, False, True)]
    [0, 0, 1]
    """

    def __init__(self, table: DecisionTable) -> None:
        self.table = table
        self.models_used = 0
        self.changes = 0
        self.decision = CONTINUE

    def update(self, changed: bool) -> int:
        """Count one member's answer; CONTINUE (0), FLAG (1) or CLEAR (-1). Raises ValueError after a decision."""
        if self.decision != CONTINUE:
            raise ValueError("the test has decided already; start a new one for the next frame")
        self.models_used += 1
        self.changes += bool(changed)
        self.decision = int(decide(self.table, self.models_used, np.array([self.changes]))[0])
        return self.decision


def decide(table: DecisionTable, models_used: int, changes: NDArray[np.int64]) -> NDArray[np.int8]:
    """FLAG, CLEAR or CONTINUE for each of many frames (N,) after `models_used` members were asked of all of them."""
    flag, clear = table.flag_at[models_used - 1], table.clear_at[models_used - 1]
    decision = np.full(changes.shape, CONTINUE, dtype=np.int8)
    if flag is not None:
        decision[changes >= flag] = FLAG
    if clear is not None:
        decision[changes <= clear] = CLEAR
    return decision


def replay(table: DecisionTable, changed: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Run the test on recorded votes (N, M >= max_models), column k the k-th member asked.

    Returns which frames are flagged (N,) and how many models each used (N,).
    """
    frames, members = changed.shape
    if members < table.max_models:
        raise ValueError(f"the table asks up to {table.max_models} models, the votes hold {members}")
    counts = changed[:, : table.max_models].cumsum(axis=1)
    decisions = np.stack([decide(table, n + 1, counts[:, n]) for n in range(table.max_models)], axis=1)
    used = (decisions != CONTINUE).argmax(axis=1) + 1
    flagged = decisions[np.arange(frames), used - 1] == FLAG
    return flagged, used
