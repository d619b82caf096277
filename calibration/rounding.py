"""The last step to the cheapest table: a search among whole numbers, near the table that a pair of costs gives.

Built model by model. A partial table keeps the chance of every count that is still undecided, so each choice of the
next two bounds has an exact price: what it costs more than the pair's own decisions. Only the least dear are kept.
"""

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.induction import States, induct
from pdtool.calibration.latent import Population
from pdtool.calibration.table import DecisionTable

__all__ = ["improve"]

WIDTH = 400  # partial tables kept, at least
BOUNDS = 24_000  # in all tables kept: few members leave room for more tables, up to 6 of them for every one
WINDOW = 3  # how far a bound may lie from the pair's own

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def improve(
    clean: Population,
    adversarial: Population,
    states: States,
    base: tuple[Ints, Ints] | None,
    *,
    flag_cost: float,
    clear_cost: float,
    fpr: float,
    power: float,
) -> tuple[float, DecisionTable] | None:
    """The table near `base` that asks fewest members while it keeps both rates, and how many; None where none does.

    `base`: first flagging and last clearing counts (N,); None: those of the table that is best for the two costs.
    Prices are reckoned with these costs either way.
    """
    members = states.members
    width = max(WIDTH, BOUNDS // members)
    own_flag, own_clear, regrets = induct(states, np.array([flag_cost]), np.array([clear_cost]))
    own = (own_flag[0], own_clear[0]) if base is None else base
    flag, clear = np.empty((1, 0), dtype=np.int64), np.empty((1, 0), dtype=np.int64)
    undecided = np.ones((1, 1, 1)) * np.ones((1, 2, 1))  # (tables, clean or adversarial, counts)
    models, flagged, price = np.zeros(1), np.zeros((1, 2)), np.zeros(1)
    change = [np.stack([clean.change[n], adversarial.change[n]]) for n in range(members)]
    for n in range(1, members + 1):
        models = models + undecided[:, 0].sum(axis=1)
        after = np.zeros((len(undecided), 2, n + 1))
        after[..., :-1] = undecided * (1 - change[n - 1])
        after[..., 1:] += undecided * change[n - 1]
        regret, both = regrets[n - 1], after.sum(axis=1)
        going_on = np.where(np.isfinite(regret.go_on), regret.go_on, 0.0)
        on, off, out = (_sums(both * each) for each in (going_on, regret.clear, regret.flag))
        above = _sums(after)
        flags, clears = _choices(int(own[0][n - 1]), int(own[1][n - 1]), n, last=n == members)
        row, choice = np.nonzero(_distinct(both, flags, clears))
        f, c = flags[choice], clears[choice]
        dearer = price[row] + off[row, c + 1] + on[row, f] - on[row, c + 1] + out[row, -1] - out[row, f]
        if len(dearer) > width:
            kept = np.argpartition(dearer, width)[:width]
            row, f, c, dearer = row[kept], f[kept], c[kept], dearer[kept]
        models, price = models[row], dearer
        flagged = flagged[row] + above[row, :, -1] - above[row, :, f]
        z = np.arange(n + 1)
        stays = (z > c[:, None]) & (z < f[:, None])
        undecided = after[row] * stays[:, None]
        flag, clear = np.column_stack([flag[row], f]), np.column_stack([clear[row], c])
    kept = np.flatnonzero((flagged[:, 0] <= fpr) & (flagged[:, 1] >= power))
    if len(kept) == 0:
        return None
    best = kept[models[kept].argmin()]
    return float(models[best]), DecisionTable.of(flag[best], clear[best])


def _choices(own_flag: int, own_clear: int, n: int, *, last: bool) -> tuple[Ints, Ints]:
    """First flagging and last clearing counts within WINDOW of the table's own; the table's own come first."""
    offsets = np.array(sorted(range(-WINDOW, WINDOW + 1), key=abs))
    flags, clears = (grid.ravel() for grid in np.meshgrid(own_flag + offsets, own_clear + offsets, indexing="ij"))
    kept = (clears < flags) & (clears >= -1) & (flags <= n + 1) & (not last or (clears == flags - 1))
    return flags[kept], clears[kept]


def _distinct(undecided: Floats, flags: Ints, clears: Ints) -> NDArray[np.bool_]:
    """Which choices (K,) differ in what they do to the counts that each table (B, n + 1) still has undecided."""
    alive = undecided > 0
    some = alive.any(axis=1)
    lowest = np.where(some, alive.argmax(axis=1), 0)[:, None]
    highest = np.where(some, alive.shape[1] - 1 - alive[:, ::-1].argmax(axis=1), 0)[:, None]
    differ = (clears >= lowest - 1) & (clears <= highest) & (flags >= lowest) & (flags <= highest + 1)
    differ[~some | ~differ.any(axis=1)] = np.arange(len(flags)) == 0
    return differ


def _sums(values: Floats) -> Floats:
    """Sum of the first k values of the last axis, k = 0..S."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
