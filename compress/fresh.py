"""Layers that forget: some of a net's begin with random weights again."""

import numpy as np
import torch
from torch import nn

from pdtool.compress.masks import weight_layers

__all__ = ["fresh_layers", "refresh"]


def fresh_layers(net: nn.Module, share: float, seed: int) -> tuple[str, ...]:
    """The names of that share of the net's convolutions and linear layers, drawn by the seed, in the net's order."""
    layers = weight_layers(net)
    rng = np.random.default_rng([seed, len(layers)])
    return tuple(layers[index] for index in sorted(rng.permutation(len(layers))[: round(share * len(layers))].tolist()))


def refresh(net: nn.Module, share: float, seed: int) -> None:
    """Initialise `fresh_layers` anew, in place, as torch does, with weights drawn by the seed.

    Norms keep their weights. torch's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name in fresh_layers(net, share, seed):
            layer = net.get_submodule(name)
            place = next(layer.parameters()).device
            layer.cpu()  # drawn there, so that every device draws the same
            layer.reset_parameters()  # type: ignore[operator]  # convolutions and linear layers have it
            layer.to(place)
