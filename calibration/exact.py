"""Exact operating characteristics of a decision table, by dynamic programming over (models asked, changes)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, decide

__all__ = ["Operating", "operating"]


@dataclass(frozen=True)
class Operating:
    """What a table does to frames whose members change their label with chance p (P,), independently.

    `flag` and `clear` (P,) are chances and sum to 1; `used` (P, max_models): chance that exactly n models are asked.
    """

    p: NDArray[np.float64]
    flag: NDArray[np.float64]
    clear: NDArray[np.float64]
    used: NDArray[np.float64]

    @property
    def mean_models(self) -> NDArray[np.float64]:
        """Expected models asked (P,)."""
        mean: NDArray[np.float64] = self.used @ np.arange(1, self.used.shape[1] + 1)
        return mean


def operating(table: DecisionTable, p: ArrayLike) -> Operating:
    """Exact chances for each p in [0, 1] (no approximation: Wald's formulas hold only without a cap).

    >>> operating(DecisionTable(flag_at=(1,), clear_at=(0,)), [0.25, 0.5]).flag
    array([0.25, 0.5 ])
    """
    chance = np.atleast_1d(np.asarray(p, dtype=np.float64))[:, None]
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError(f"expected chances in [0, 1], got {chance[:, 0]}")
    reach = np.ones((len(chance), 1))  # reach[:, z]: chance to be undecided with z changes
    flag, clear = np.zeros(len(chance)), np.zeros(len(chance))
    used = np.zeros((len(chance), table.max_models))
    for n in range(1, table.max_models + 1):
        after = np.zeros((len(chance), n + 1))
        after[:, :-1] += reach * (1 - chance)
        after[:, 1:] += reach * chance
        decisions = decide(table, n, np.arange(n + 1))
        flagged, cleared = after[:, decisions == FLAG].sum(axis=1), after[:, decisions == CLEAR].sum(axis=1)
        flag, clear, used[:, n - 1] = flag + flagged, clear + cleared, flagged + cleared
        reach = np.where(decisions == CONTINUE, after, 0.0)
    return Operating(chance[:, 0], flag, clear, used)
