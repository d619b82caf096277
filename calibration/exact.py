"""Exact operating characteristics of a decision table, by dynamic programming over (models asked, changes)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdtool.calibration.latent import Population
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable

__all__ = ["Operating", "Rates", "change_rate_flagged", "operating", "rates"]


@dataclass(frozen=True)
class Operating:
    """What a table does to frames whose members change their label with chance p (P,), independently.

    `flagged` and `cleared` (P, max_models): chance of that decision after exactly n models; together they sum to 1.
    """

    p: NDArray[np.float64]
    flagged: NDArray[np.float64]
    cleared: NDArray[np.float64]

    @property
    def flag(self) -> NDArray[np.float64]:
        """Chance to be flagged (P,)."""
        chance: NDArray[np.float64] = self.flagged.sum(axis=1)
        return chance

    @property
    def clear(self) -> NDArray[np.float64]:
        """Chance to be cleared (P,)."""
        chance: NDArray[np.float64] = self.cleared.sum(axis=1)
        return chance

    @property
    def used(self) -> NDArray[np.float64]:
        """Chance that exactly n models are asked (P, max_models); the last column is the chance to reach the cap."""
        return self.flagged + self.cleared

    @property
    def mean_models(self) -> NDArray[np.float64]:
        """Expected models asked (P,)."""
        mean: NDArray[np.float64] = self.used @ np.arange(1, self.used.shape[1] + 1)
        return mean

    def models(self, quantile: float) -> NDArray[np.int64]:
        """Fewest models that suffice for this share of the frames (P,): 0.99 for the p99, 1 for the maximum."""
        if not 0 < quantile <= 1:
            raise ValueError(f"expected a share of the frames above 0 and up to 1, got {quantile}")
        left = 1 - np.cumsum(self.used, axis=1)  # rounding must not ask one model more
        fewest: NDArray[np.int64] = (left <= 1 - quantile + 1e-12).argmax(axis=1) + 1
        return fewest

    def over(self, weights: ArrayLike) -> "Operating":
        """The same for a population of which the share `weights` (P,) has each p: one row, its p their mean."""
        share = np.asarray(weights, dtype=np.float64)[None]
        if share.shape[1] != len(self.p) or (share < 0).any() or not np.isclose(share.sum(), 1.0):
            raise ValueError(f"expected {len(self.p)} shares that sum to 1, got {weights!r}")
        return Operating(share @ self.p, share @ self.flagged, share @ self.cleared)


def operating(table: DecisionTable, p: ArrayLike) -> Operating:
    """Exact chances for each p in [0, 1] (no approximation: Wald's formulas hold only without a cap).

    >>> operating(DecisionTable(flag_at=(1,), clear_at=(0,)), [0.25, 0.5]).flag
    array([0.25, 0.5 ])
    """
    chance = np.atleast_1d(np.asarray(p, dtype=np.float64))[:, None]
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError(f"expected chances in [0, 1], got {chance[:, 0]}")
    reach = np.ones((len(chance), 1))  # reach[:, z]: chance to be undecided with z changes
    flagged, cleared = (np.zeros((len(chance), table.max_models)) for _ in range(2))
    for n in range(1, table.max_models + 1):
        undecided = np.zeros((len(chance), n + 1))
        for changed, arrive in ((False, reach * (1 - chance)), (True, reach * chance)):
            counts = np.arange(n) + changed
            decisions = table.decide(n, counts, np.full(n, changed))
            flagged[:, n - 1] += arrive[:, decisions == FLAG].sum(axis=1)
            cleared[:, n - 1] += arrive[:, decisions == CLEAR].sum(axis=1)
            undecided[:, counts] += np.where(decisions == CONTINUE, arrive, 0.0)
        reach = undecided
    return Operating(chance[:, 0], flagged, cleared)


def change_rate_flagged(table: DecisionTable, within: int, share: float = 0.9) -> float | None:
    """The least label change rate at which `share` of the frames are flagged after at most `within` models.

    None where even frames that every member changes are not.

    >>> change_rate_flagged(DecisionTable(flag_at=(1,), clear_at=(0,)), within=4)
    0.9
    """
    rates_tried = np.linspace(0, 1, 1001)
    enough = operating(table, rates_tried).flagged[:, :within].sum(axis=1) >= share - 1e-12
    return float(rates_tried[enough.argmax()]) if enough.any() else None


@dataclass(frozen=True)
class Rates:
    """What many tables do to a population of frames: chance to be flagged and expected members asked (L,)."""

    flag: NDArray[np.float64]
    models: NDArray[np.float64]


def rates(frames: Population, first_flag: NDArray[np.int64], last_clear: NDArray[np.int64]) -> Rates:
    """Exact, for tables given as first flagging and last clearing counts (L, N), as `DecisionTable.of` takes them."""
    undecided = np.ones((len(first_flag), 1))
    flag, models = np.zeros(len(first_flag)), np.zeros(len(first_flag))
    for n in range(1, first_flag.shape[1] + 1):
        models += undecided.sum(axis=1)
        change = frames.change[n - 1]
        after = np.zeros((len(first_flag), n + 1))
        after[:, :-1] = undecided * (1 - change)
        after[:, 1:] += undecided * change
        z = np.arange(n + 1)
        flags, clears = z >= first_flag[:, n - 1 : n], z <= last_clear[:, n - 1 : n]
        flag += (after * flags).sum(axis=1)
        undecided = np.where(flags | clears, 0.0, after)
    return Rates(flag, models)
