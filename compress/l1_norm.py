"""L1-norm pruning (Li et al. 2017, section 3; Wang et al. 2021, sections III-C2 and IV-B)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pdtool.compress.channels import channel_method
from pdtool.compress.prune import Unit
from pdtool.compress.rates import check_groups, grouped, random_counts, spread_over_blocks

__all__ = ["METHOD", "norms", "select"]


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

    Each unit's rate is random while the overall rate, over all units' filters, is `rate` (the paper: "randomly set
    for each layer while keeping the overall pruning rate the same for all models"); units of a number of channels
    that is named in `group_rates` form a group with that overall rate of its own. Within a unit the filters of the
    smallest L1 norm go. Raises UsageError for a rate outside [0, 1) or a group that the net does not have.
    """
    check_groups(units, group_rates)
    parts = [[unit for unit in units if unit.channels not in group_rates]]
    parts += [group for channels, group in grouped(units).items() if channels in group_rates]
    chosen = {}
    for part in filter(None, parts):
        counts = random_counts(part, group_rates.get(part[0].channels, rate), rng, round_to=round_to)
        for unit, count in zip(part, counts, strict=True):
            per_position = norms(net, unit).reshape(unit.blocks, -1).sum(0)
            chosen[unit.name] = spread_over_blocks(unit, torch.argsort(per_position, stable=True)[:count].tolist())
    return {unit.name: chosen[unit.name] for unit in units}


def norms(net: nn.Module, unit: Unit) -> Tensor:
    """The L1 norm of each channel's filters, summed over the unit's coupled layers: float64 (channels,)."""
    total = torch.zeros(unit.channels, dtype=torch.float64)
    for name in unit.layers:
        weight = net.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        total += weight.detach().cpu().double().abs().flatten(1).sum(1)
    return total


METHOD = channel_method(select)
