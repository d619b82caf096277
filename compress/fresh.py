"""Layers that forget: some of a net's begin with random weights again."""

import numpy as np
import torch
from torch import nn

from pdtool.compress.masks import weight_layers

__all__ = ["refresh"]


def refresh(net: nn.Module, share: float, seed: int) -> tuple[str, ...]:
    """Initialise `share` of the net's convolutions and linear layers anew, in place, as torch does; their names.

    Which ones is drawn by the seed, and so are their weights. Norms keep theirs: they are estimated anew in any case.
    torch's global random state is left as it was.
    """
    layers = weight_layers(net)
    rng = np.random.default_rng([seed, len(layers)])
    chosen = sorted(rng.permutation(len(layers))[: round(share * len(layers))].tolist())
    names = tuple(layers[index] for index in chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            layer = net.get_submodule(name)
            place = next(layer.parameters()).device
            layer.cpu()  # drawn there, so that every device draws the same
            layer.reset_parameters()  # type: ignore[operator]  # convolutions and linear layers have it
            layer.to(place)
    return names
