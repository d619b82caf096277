"""How many channels each unit loses: random, with the overall rate fixed."""

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pdtool.compress.prune import Unit
from pdtool.errors import UsageError

__all__ = ["check_rate", "random_counts", "spread_over_blocks"]

_WINDOW = 8  # most positions that the last changes take from or give to a unit


def check_rate(rate: float, name: str = "rate") -> float:
    """The rate itself. Raises UsageError unless it lies in [0, 1)."""
    if not 0 <= rate < 1:
        raise UsageError(f"{name} should be a share of channels to remove in [0, 1), is {rate}")
    return rate


def random_counts(units: Sequence[Unit], rate: float, rng: np.random.Generator) -> list[int]:
    """Positions that each unit loses in every block: random shares whose mean over all filters is `rate`.

    The papers fix the overall rate and split it at random over the layers of a group. Here each unit's rate is
    drawn uniformly and the draws are scaled (towards 0 or towards the most allowed) until their mean, weighted by
    the units' filters, is `rate`. The most allowed leaves a unit a fifth of what `rate` would leave it, at least
    one channel. Counts are then rounded so that the total removed is as near to the rate as whole channels allow:
    one by one, then, where units lose several filters at once, some more in one unit for some fewer in another.
    """
    check_rate(rate)
    positions = np.array([unit.channels // unit.blocks for unit in units])
    step = np.array([unit.filters / (unit.channels // unit.blocks) for unit in units])  # filters that one position is
    filters = np.array([unit.filters for unit in units], dtype=float)
    most = np.minimum(1 - (1 - rate) / 5, (positions - 1) / positions)
    target = min(rate * filters.sum(), float((most * filters).sum()))
    shares = rng.random(len(units)) * most
    drawn = float((shares * filters).sum())
    if drawn > target:
        shares = shares * (target / drawn)
    else:
        room = float((most * filters).sum())
        shares = most - (most - shares) * ((room - target) / (room - drawn) if room > drawn else 0.0)
    counts = np.minimum(np.floor(shares * positions + 0.5).astype(int), positions - 1)
    goal = rate * float(filters.sum())
    for _ in range(int(positions.sum())):  # each round brings the total nearer; the rounding nearest to the draw first
        error = float((counts * step).sum()) - goal
        change = -1 if error > 0 else 1
        after = np.abs(error + change * step)
        allowed = (counts + change >= 0) & (counts + change <= positions - 1) & (after < abs(error) - 1e-9)
        if not allowed.any():
            break
        distance = np.abs(counts + change - shares * positions)
        best = min(np.flatnonzero(allowed), key=lambda i: (round(float(after[i]), 9), distance[i], i))
        counts[best] += change
    counts = counts + _last_changes(counts, positions, step, goal)
    return [int(count) for count in counts]


def _last_changes(
    counts: NDArray[np.int64], positions: NDArray[np.int64], step: NDArray[np.float64], goal: float
) -> NDArray[np.int64]:
    """The fewest changes (U,) of several units at once that bring the total nearer to `goal`; zeros where none does."""
    error = float((counts * step).sum()) - goal
    sizes = [int(size) for size in step]
    nothing = np.zeros(len(counts), dtype=np.int64)
    if any(size != exact for size, exact in zip(sizes, step, strict=True)) or abs(error) <= gcd(*sizes) / 2 + 1e-9:
        return nothing  # totals lie at least a gcd apart: no other is nearer
    window = min(max(sizes), _WINDOW)
    reach: dict[int, tuple[int, ...]] = {0: ()}  # change of the total -> the fewest changes of the units that make it
    for count, most, size in zip(counts, positions - 1, sizes, strict=True):
        after: dict[int, tuple[int, ...]] = {}
        for offset, changes in reach.items():
            for change in range(max(-window, -int(count)), min(window, int(most - count)) + 1):
                total, now = offset + change * size, (*changes, change)
                if abs(total) <= window * max(sizes) and (total not in after or _cost(now) < _cost(after[total])):
                    after[total] = now
        reach = after
    best = min(reach, key=lambda total: (round(abs(error + total), 9), _cost(reach[total])))
    return np.array(reach[best], dtype=np.int64) if abs(error + best) < abs(error) - 1e-9 else nothing


def _cost(changes: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return sum(map(abs, changes)), changes


def spread_over_blocks(unit: Unit, positions: Sequence[int]) -> tuple[int, ...]:
    """The channel indices of those positions in every block of the unit, sorted."""
    size = unit.channels // unit.blocks
    return tuple(sorted(block * size + int(position) for block in range(unit.blocks) for position in positions))
