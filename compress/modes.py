"""Evaluation mode, and weights that want no gradient, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "frozen"]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode again afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """No gradients of the weights inside, those of the inputs alone; afterwards as before."""
    wanted = {parameter: parameter.requires_grad for parameter in net.parameters()}
    net.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, want in wanted.items():
            parameter.requires_grad_(want)
