"""The last step to the cheapest table: a search among whole numbers, near the table that a pair of costs gives.

Built model by model. A partial table keeps the chance of every count that is still undecided, so what it comes to if it
goes on as the base table does, members and both rates, is known exactly. Half of those kept are the cheapest at the
pair's costs. The others are the cheapest of each final pair of rates: tables that differ in next to nothing would
otherwise crowd out those that end within the rates asked for.
"""

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.induction import States, induct, sums
from pdtool.calibration.latent import Population
from pdtool.calibration.table import DecisionTable

__all__ = ["improve"]

WIDTH = 400  # partial tables kept, at least
BOUNDS = 24_000  # in all tables kept: few members leave room for more tables, up to 6 of them for every one
WINDOW = 3  # how far a bound may lie from the base table's
NEAR_FPR, NEAR_POWER = 0.01, 0.001  # final rates so close (a share of the false alarms allowed; a power) count as one

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
    Partial tables are compared at these costs either way.
    """
    members = states.members
    width = max(WIDTH, BOUNDS // members)
    if base is None:
        own_flag, own_clear = induct(states, np.array([flag_cost]), np.array([clear_cost]))
        base = own_flag[0], own_clear[0]
    to_models, to_alarms = _to_go(clean, *base)
    _, to_power = _to_go(adversarial, *base)
    flag, clear = np.empty((1, 0), dtype=np.int64), np.empty((1, 0), dtype=np.int64)
    undecided = np.ones((1, 2, 1))  # (tables, clean or adversarial, counts)
    models, flagged = np.zeros(1), np.zeros((1, 2))
    for n in range(1, members + 1):
        change = np.stack([clean.change[n - 1], adversarial.change[n - 1]])
        models = models + undecided[:, 0].sum(axis=1)
        after = np.zeros((len(undecided), 2, n + 1))
        after[..., :-1] = undecided * (1 - change)
        after[..., 1:] += undecided * change
        flags, clears = _choices(int(base[0][n - 1]), int(base[1][n - 1]), n, last=n == members)
        row, choice = np.nonzero(_distinct(after.sum(axis=1), flags, clears))
        f, c = flags[choice], clears[choice]
        above = sums(after)
        now = flagged[row] + above[row, :, -1] - above[row, :, f]
        final = [
            sofar + ahead[row, f] - ahead[row, c + 1]
            for sofar, ahead in (
                (models[row], sums(after[:, 0] * to_models[n])),
                (now[:, 0], sums(after[:, 0] * to_alarms[n])),
                (now[:, 1], sums(after[:, 1] * to_power[n])),
            )
        ]
        left = above[row, 1, f] - above[row, 1, c + 1]
        possible = np.flatnonzero((now[:, 0] <= fpr) & (now[:, 1] + left >= power))
        if len(possible) == 0:
            return None
        if len(possible) > width:
            total, alarms, sharp = (each[possible] for each in final)
            near = np.round((alarms - fpr) / (fpr * NEAR_FPR)) * 1e6 + np.round((sharp - power) / NEAR_POWER)
            possible = possible[_kept(total + flag_cost * alarms - clear_cost * sharp, near, width)]
        row, f, c = row[possible], f[possible], c[possible]
        models, flagged = models[row], now[possible]
        z = np.arange(n + 1)
        undecided = after[row] * ((z > c[:, None]) & (z < f[:, None]))[:, None]
        flag, clear = np.column_stack([flag[row], f]), np.column_stack([clear[row], c])
    kept = np.flatnonzero((flagged[:, 0] <= fpr) & (flagged[:, 1] >= power))
    if len(kept) == 0:
        return None
    best = kept[models[kept].argmin()]
    return float(models[best]), DecisionTable.of(flag[best], clear[best])


def _to_go(frames: Population, flag: Ints, clear: Ints) -> tuple[list[Floats], list[Floats]]:
    """Expected members still asked, and chance still to be flagged, of frames undecided after n = 0..N (n + 1,)."""
    models, flagged = [np.zeros(len(flag) + 1)], [np.zeros(len(flag) + 1)]
    for n in range(len(flag) - 1, -1, -1):
        z = np.arange(n + 2)
        goes_on = (z > clear[n]) & (z < flag[n])
        change = frames.change[n]
        for ahead, step, decided in ((models, 1.0, 0.0), (flagged, 0.0, z >= flag[n])):
            value = np.where(goes_on, ahead[0], decided)
            ahead.insert(0, step + value[:-1] * (1 - change) + value[1:] * change)
    return models, flagged


def _kept(cost: Floats, near: Floats, width: int) -> Ints:
    """Half the cheapest of all, half in turns the cheapest, second cheapest ... of those that are near each other."""
    order = np.argsort(cost, kind="stable")
    groups = np.argsort(near[order], kind="stable")  # within a group, by cost
    starts = np.flatnonzero(np.diff(near[order][groups], prepend=np.nan) != 0)
    turn = np.empty(len(order), dtype=np.int64)
    turn[groups] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    first = width // 2
    rest = first + np.argsort(turn[first:], kind="stable")[: width - first]
    kept: Ints = order[np.concatenate([np.arange(first), rest])]
    return kept


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
