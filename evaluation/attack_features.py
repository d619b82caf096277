"""A layer in the middle of any net, and what it says: for attacks on features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pdtool.errors import InputError

__all__ = ["features_of", "middle_layer"]


def middle_layer(net: torch.nn.Module, images: torch.Tensor, depth: float) -> torch.nn.Module:
    """The convolution that runs when the share `depth` (0 to 1) of them has run; of a net without any, the module.

    Raises InputError for a net that runs no modules to choose from.
    """
    ran: list[torch.nn.Module] = []
    leaves = [module for module in net.modules() if not list(module.children())]
    with torch.no_grad(), _hooked(leaves, lambda module, out: ran.append(module)):
        net(images[:1])
    chosen = [module for module in ran if isinstance(module, torch.nn.Conv2d)] or ran
    if not chosen:
        raise InputError(
            "the net runs no layers (torch modules), so that no middle one can be attacked; use another attack"
        )
    return chosen[min(int(depth * len(chosen)), len(chosen) - 1)]


def features_of(
    net: torch.nn.Module, layer: torch.nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `layer` says (N, ...) and the logits (N, classes); gradients flow where the images want them."""
    heard: list[torch.Tensor] = []
    with _hooked([layer], lambda module, out: heard.append(out)):
        logits: torch.Tensor = net(images)
    return heard[-1], logits


@contextmanager
def _hooked(modules: list[torch.nn.Module], hear: Any) -> Iterator[None]:
    handles = [m.register_forward_hook(lambda module, given, out: hear(module, out)) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
