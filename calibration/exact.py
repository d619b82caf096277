"""Exact operating characteristics of a decision table, by dynamic programming over (models asked, changes)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, decide

__all__ = ["Operating", "operating"]


@dataclass(frozen=True)
class Operating:
    """What a table does to a frame whose members change its label with chance p, independently.

    `flag` and `clear` are chances and sum to 1; `used[n-1]` is the chance that exactly n models are asked.
    """

    p: float
    flag: float
    clear: float
    used: NDArray[np.float64]

    @property
    def mean_models(self) -> float:
        """Expected models asked."""
        return float(self.used @ np.arange(1, len(self.used) + 1))


def operating(table: DecisionTable, p: float) -> Operating:
    """Exact chances for one p in [0, 1] (no approximation: Wald's formulas hold only without a cap).

    >>> operating(DecisionTable(flag_at=(1,), clear_at=(0,)), 0.25).flag
    0.25
    """
    if not 0 <= p <= 1:
        raise ValueError(f"expected a chance in [0, 1], got {p}")
    reach = np.array([1.0])  # reach[z]: chance to be undecided with z changes
    flag = clear = 0.0
    used = np.zeros(table.max_models)
    for n in range(1, table.max_models + 1):
        after = np.zeros(n + 1)
        after[:-1] += reach * (1 - p)
        after[1:] += reach * p
        decisions = decide(table, n, np.arange(n + 1))
        flagged, cleared = float(after[decisions == FLAG].sum()), float(after[decisions == CLEAR].sum())
        flag, clear, used[n - 1] = flag + flagged, clear + cleared, flagged + cleared
        reach = np.where(decisions == CONTINUE, after, 0.0)
    return Operating(p, flag, clear, used)
