"""Which layer makes the logits."""

import torch
from torch import nn

from pdtool.compress.modes import evaluating
from pdtool.compress.training import device_of
from pdtool.images import Size

__all__ = ["last_linear"]


def last_linear(net: nn.Module, size: Size) -> str | None:
    """The name of the linear layer whose output is the net's own for pictures of `size`; None where there is none."""
    outputs: dict[str, object] = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.__setitem__(name, output))
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad(), evaluating(net):
            logits = net(torch.zeros(1, *size, device=device_of(net)))
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, output in outputs.items() if output is logits), None)
