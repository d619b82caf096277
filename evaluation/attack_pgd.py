"""Projected gradient steps on the margin of the logits instead of the cross-entropy."""

import torch

from pdtool.evaluation.attack_common import frozen, gradient, logits_of, margin, other_class, within

__all__ = ["pgd_margin"]


def pgd_margin(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    targeted: bool = False,
) -> torch.Tensor:
    """PGD on the difference of logits: the best other class minus the label's (Carlini and Wagner's f).

    The cross-entropy's gradient vanishes where the net is sure; this one's does not. `targeted`: a random other class
    minus the best of the rest. Of all points passed, the one with the largest difference is returned.
    """
    with frozen(net):
        if targeted:
            targets = other_class(labels, logits_of(net, images[:1]).shape[1])

        def loss(x: torch.Tensor) -> torch.Tensor:
            return -margin(net(x), targets) if targeted else margin(net(x), labels)

        start = 2 * torch.rand(images.shape).to(images) - 1
        x = (images + epsilon * start).clamp(0, 1)
        best, highest = x, torch.full_like(labels, -torch.inf, dtype=images.dtype)
        for taken in range(steps + 1):
            values, slope = gradient(loss, x)
            better = values > highest
            highest = torch.where(better, values, highest)
            best = torch.where(better[:, None, None, None], x, best)
            if taken < steps:
                x = within(x + step * slope.sign(), images, epsilon)
    return best.detach()
