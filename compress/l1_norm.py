"""L1-norm pruning (Li et al. 2017, "Pruning filters for efficient ConvNets"; Wang et al. 2021, section III-C2)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pdtool.compress.prune import Unit
from pdtool.compress.rates import random_counts, spread_over_blocks
from pdtool.errors import UsageError

__all__ = ["norms", "select"]


def select(
    units: Sequence[Unit], net: nn.Module, rate: float, group_rates: Mapping[int, float], rng: np.random.Generator
) -> dict[str, tuple[int, ...]]:
    """The channels that each unit loses: unit name -> sorted indices.

    Each unit's rate is random while the overall rate, over all units' filters, is `rate`; within a unit the filters
    of the smallest L1 norm go. Raises UsageError for group rates (the method has one overall rate).
    """
    if group_rates:
        raise UsageError("l1-norm has one overall rate; leave --group-rate out or use --method random-channel")
    chosen = {}
    for unit, count in zip(units, random_counts(units, rate, rng), strict=True):
        per_position = norms(net, unit).reshape(unit.blocks, -1).sum(0)
        chosen[unit.name] = spread_over_blocks(unit, torch.argsort(per_position, stable=True)[:count].tolist())
    return chosen


def norms(net: nn.Module, unit: Unit) -> Tensor:
    """The L1 norm of each channel's filters, summed over the unit's coupled layers: float64 (channels,)."""
    total = torch.zeros(unit.channels, dtype=torch.float64)
    for name in unit.layers:
        weight = net.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        total += weight.detach().cpu().double().abs().flatten(1).sum(1)
    return total
