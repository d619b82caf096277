"""Auto-PGD: projected gradient steps whose size adapts, on the cross-entropy or the difference of logits ratio.

Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", 2020, Algorithm 1 and equation 6, with their constants.
"""

import math
from collections.abc import Callable

import torch

from pdtool.errors import UsageError
from pdtool.evaluation.attack_common import frozen, gradient, logits_of, within

__all__ = ["apgd_ce", "apgd_dlr", "checkpoints", "dlr"]

MOMENTUM = 0.75  # share of the new step; the rest repeats the last one
RISING = 0.75  # share of steps that must raise the loss between two checkpoints, else the step is halved

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def apgd_ce(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float, steps: int
) -> torch.Tensor:
    """APGD on the cross-entropy: no step size to choose."""

    def entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, truth, reduction="none")

    return _apgd(net, images, labels, entropy, epsilon, steps)


def apgd_dlr(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float, steps: int
) -> torch.Tensor:
    """APGD on the difference of logits ratio, which no scaling of the logits can flatten.

    Raises UsageError for a net of fewer than three classes, which has no such ratio.
    """
    classes = logits_of(net, images[:1]).shape[1]
    if classes < 3:
        raise UsageError(f"attack apgd-dlr: expected at least 3 classes, got {classes}; use apgd-ce")
    return _apgd(net, images, labels, dlr, epsilon, steps)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Best other logit minus that of the label, over the distance of the highest from the third highest; (N,)."""
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    highest = logits.topk(3, dim=1).values
    led = logits.masked_fill(own, -torch.inf).amax(dim=1) - logits[own]
    return led / (highest[:, 0] - highest[:, 2] + 1e-12)


def checkpoints(steps: int) -> set[int]:
    """Numbers of steps after which the step size is looked at: rarely at first, then more and more often."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(share * steps - 1e-9) for share in shares[1:] if share <= 1}


def _apgd(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Loss, epsilon: float, steps: int
) -> torch.Tensor:
    """The point of highest loss on the way, among those that fool the net where one does."""
    fooled = torch.zeros_like(labels, dtype=torch.bool)

    def ask(x: torch.Tensor) -> torch.Tensor:
        logits = net(x)
        fooled.copy_(logits.argmax(1) != labels)
        return loss(logits, labels)

    def wide(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    with frozen(net):
        start = 2 * torch.rand(images.shape).to(images) - 1
        x = last = within(images + epsilon * start / wide(start.abs().amax(dim=(1, 2, 3))), images, epsilon)
        values, slope = gradient(ask, x)
        best, best_slope, highest = x, slope, values  # to go back to
        found, found_fools, found_value = x, fooled.clone(), values  # to return
        size = torch.full_like(values, 2 * epsilon)
        rises, since = torch.zeros_like(values), 0
        halved, highest_then = torch.ones_like(fooled), values
        ends = checkpoints(steps)
        for taken in range(1, steps + 1):
            goal = within(x + wide(size) * slope.sign(), images, epsilon)
            share = 1.0 if taken == 1 else MOMENTUM
            x, last = within(x + share * (goal - x) + (1 - share) * (x - last), images, epsilon), x
            before = values
            values, slope = gradient(ask, x)
            rises, since = rises + (values > before), since + 1
            better = (fooled & ~found_fools) | ((fooled == found_fools) & (values > found_value))
            found = torch.where(wide(better), x, found)
            found_value, found_fools = torch.where(better, values, found_value), found_fools | fooled
            higher = values > highest
            best, best_slope = torch.where(wide(higher), x, best), torch.where(wide(higher), slope, best_slope)
            highest = torch.where(higher, values, highest)
            if taken in ends:
                stuck = (rises < RISING * since) | (~halved & (highest == highest_then))
                size = torch.where(stuck, size / 2, size)
                x, slope = torch.where(wide(stuck), best, x), torch.where(wide(stuck), best_slope, slope)
                values = torch.where(stuck, highest, values)
                rises, since = torch.zeros_like(rises), 0
                halved, highest_then = stuck, highest
    return found.detach()
