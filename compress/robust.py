"""Nets that are attacked while they are trained, one step from a random start (FGSM-RI: Wong et al. 2020, "Fast is
better than free", algorithm 3).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.precision import device_of, half_of
from pdtool.compress.training_set import FORMAT, TrainingSet

__all__ = ["Robust", "attacked"]

SCALE = 2.0**10  # of a loss whose gradient's sign alone counts: float16 would round small ones to zero
STRIDE = 1.25  # of epsilon: the step, as in the paper


@dataclass(frozen=True)
class Robust:
    """How far images move, at most, in every pixel of [0, 1]; and which share of a batch's clean images does."""

    epsilon: float
    share: float

    def of(self, clean: int) -> int:
        """How many of so many clean images are attacked; at least two, of which batch norm can tell the variance."""
        return max(min(2, clean), round(self.share * clean))


def attacked(
    net: nn.Module, data: TrainingSet, pixels: Tensor, labels: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """The images (B, C, H, W) in [0, 1] moved by at most `epsilon` to where the net is less sure of their labels (B,).

    The net is asked in the mode that it is in.
    """
    device = device_of(net)
    half = half_of(device)
    # drawn on the CPU, so that every device draws the same
    start = epsilon * (2 * torch.rand(pixels.shape, generator=generator) - 1).to(device)
    point = (pixels + start).clamp_(0, 1).requires_grad_(True)
    with torch.enable_grad(), torch.autocast(device.type, dtype=half, enabled=half is not None):
        logits = net(((point - data.mean) / data.std).contiguous(memory_format=FORMAT))
        loss = SCALE * F.cross_entropy(logits.float(), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, point)
    change = (start + STRIDE * epsilon * gradient.sign()).clamp_(-epsilon, epsilon)
    return (pixels + change).clamp_(0, 1)
