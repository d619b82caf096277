"""Random channel pruning (Chen et al. 2021, section 3; Wang et al. 2021, section III-C1)."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from pdtool.compress.channels import channel_method
from pdtool.compress.prune import Unit
from pdtool.compress.rates import check_groups, grouped, random_counts, spread_over_blocks

__all__ = ["METHOD", "select"]


def select(
    units: Sequence[Unit],
    net: nn.Module,
    rate: float,
    group_rates: Mapping[int, float],
    rng: np.random.Generator,
    *,
    round_to: int = 1,
) -> dict[str, tuple[int, ...]]:
    """The channels that each unit loses: unit name -> sorted indices.

    Units with the same number of channels form a group. A group loses `group_rates[channels]` of its filters, or
    `rate` where it is not named, split over its units at random (the papers' "30 % and 20 %" of a group's filters
    at 50 % are 60 % and 40 % of two equally large layers). Which channels go is random.
    Raises UsageError for a rate outside [0, 1) or a group that the net does not have.
    """
    check_groups(units, group_rates)
    chosen = {}
    for channels, group in grouped(units).items():
        counts = random_counts(group, group_rates.get(channels, rate), rng, round_to=round_to)
        for unit, count in zip(group, counts, strict=True):
            positions = rng.choice(unit.channels // unit.blocks, size=count, replace=False)
            chosen[unit.name] = spread_over_blocks(unit, positions.tolist())
    return {unit.name: chosen[unit.name] for unit in units}


METHOD = channel_method(select)
