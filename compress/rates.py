"""How many channels each unit loses: random, with the overall rate fixed."""

from collections.abc import Mapping, Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pdtool.compress.prune import Unit
from pdtool.errors import UsageError

__all__ = [
    "PRESETS", "check_groups", "check_rate", "grouped", "preset_rates", "random_counts", "rounding_leaves_whole",
    "spread_over_blocks",
]  # fmt: skip

_WINDOW = 8  # most positions that the last changes take from or give to a unit

# Rates of the groups of layers with c, 2c, 4c and 8c channels (64 to 512 in the papers). Chen et al. 2021, Table 1: the
# "65 % and 70 % overall" that they give for ResNet-18 and VGG-16 are means over layers; of all channels it is 73 and
# 76 %. Wang et al. 2021, section IV-B: 50 % for all the groups, however many there are.
PRESETS: dict[str, tuple[float, ...]] = {"chen-2021": (0.5, 0.6, 0.7, 0.8), "wang-2021": (0.5,)}


def check_rate(rate: float, name: str = "rate", *, of: str = "channels to remove") -> float:
    """The rate itself. Raises UsageError unless it lies in [0, 1)."""
    if not 0 <= rate < 1:
        raise UsageError(f"{name} should be a share of {of} in [0, 1), is {rate}")
    return rate


def grouped(units: Sequence[Unit]) -> dict[int, list[Unit]]:
    """The units by their number of channels, fewest first: the papers' groups."""
    return {channels: [u for u in units if u.channels == channels] for channels in sorted({u.channels for u in units})}


def check_groups(units: Sequence[Unit], group_rates: Mapping[int, float]) -> None:
    """Raise UsageError for a group's rate outside [0, 1) and for a group that the net does not have."""
    known = sorted({unit.channels for unit in units})
    for channels, rate in group_rates.items():
        check_rate(rate, f"group rate of {channels} channels")
        if channels not in known:
            raise UsageError(
                f"no prunable layer has {channels} channels; this model's groups are {', '.join(map(str, known))}"
            )


def preset_rates(name: str, units: Sequence[Unit]) -> dict[int, float]:
    """The rate of each of the net's groups as a paper has it. Raises UsageError for a net of other groups."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    rates, groups = PRESETS[name], sorted({unit.channels for unit in units})
    if len(rates) == 1:
        return dict.fromkeys(groups, rates[0])
    if groups != [groups[0] * 2**i for i in range(len(rates))]:
        raise UsageError(
            f"preset {name} is for layers of c, 2c, 4c and 8c channels (resnet18, vgg16); this model's groups are "
            f"{', '.join(map(str, groups))}: give their rates with --group-rate"
        )
    return dict(zip(groups, rates, strict=True))


def rounding_leaves_whole(units: Sequence[Unit], multiple: int) -> list[Unit]:
    """The units that cannot lose a channel and keep a multiple of `multiple`."""
    return [unit for unit in units if multiple > 1 and _allowed(unit, multiple) == [0]]


def random_counts(units: Sequence[Unit], rate: float, rng: np.random.Generator, *, round_to: int = 1) -> list[int]:
    """Positions that each unit loses in every block: random shares whose mean over all filters is `rate`.

    The papers fix the overall rate and split it at random over the layers of a group. Here each unit's rate is
    drawn uniformly and the draws are scaled (towards 0 or towards the most allowed) until their mean, weighted by
    the units' filters, is `rate`. The most allowed leaves a unit a fifth of what `rate` would leave it, at least
    one channel. Counts are then rounded so that the total removed is as near to the rate as whole channels allow:
    one by one, then, where units lose several filters at once, some more in one unit for some fewer in another, and
    one by one again.
    With `round_to` units keep a multiple of so many channels, those that have no more stay whole, and the total is as
    near to the rate as changes of one unit at a time bring it.
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
    wanted = shares * positions
    counts = _one_by_one(counts, positions, step, goal, wanted)
    counts = _one_by_one(counts + _last_changes(counts, positions, step, goal), positions, step, goal, wanted)
    return [int(count) for count in (counts if round_to == 1 else _rounded(units, counts, step, goal, round_to))]


def _one_by_one(
    counts: NDArray[np.int64],
    positions: NDArray[np.int64],
    step: NDArray[np.float64],
    goal: float,
    wanted: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Counts changed by one at a time, the rounding nearest to `wanted` first, while the total comes nearer to goal."""
    counts = counts.copy()
    for _ in range(int(positions.sum())):
        error = float((counts * step).sum()) - goal
        change = -1 if error > 0 else 1
        after = np.abs(error + change * step)
        allowed = (counts + change >= 0) & (counts + change <= positions - 1) & (after < abs(error) - 1e-9)
        if not allowed.any():
            break
        distance = np.abs(counts + change - wanted)
        best = min(np.flatnonzero(allowed), key=lambda i: (round(float(after[i]), 9), distance[i], i))
        counts[best] += change
    return counts


def _allowed(unit: Unit, multiple: int) -> list[int]:
    """How many positions the unit may lose to keep a multiple of `multiple` channels, ascending; [0] where none."""
    size, step = unit.channels // unit.blocks, multiple // gcd(multiple, unit.blocks)
    return [size - left for left in range(size // step * step, 0, -step)] or [0]


def _rounded(
    units: Sequence[Unit], counts: NDArray[np.int64], step: NDArray[np.float64], goal: float, multiple: int
) -> list[int]:
    """The allowed counts nearest to `counts`, changed one unit at a time while the total comes nearer to `goal`."""
    allowed = [_allowed(unit, multiple) for unit in units]
    place = [
        min(range(len(some)), key=lambda i: (abs(some[i] - count), i))
        for some, count in zip(allowed, counts, strict=True)
    ]
    while True:
        now = [some[i] for some, i in zip(allowed, place, strict=True)]
        error = float((np.array(now) * step).sum()) - goal
        moves = []
        for unit, some in enumerate(allowed):
            to = place[unit] + (-1 if error > 0 else 1)
            if 0 <= to < len(some):
                after = abs(error + (some[to] - now[unit]) * float(step[unit]))
                moves.append((round(after, 9), abs(some[to] - int(counts[unit])), unit, to))
        if not moves or min(moves)[0] >= abs(error) - 1e-9:
            return now
        _, _, unit, to = min(moves)
        place[unit] = to


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
