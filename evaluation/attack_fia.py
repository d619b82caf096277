"""Feature importance-aware attack: weaken what a middle layer says for the label, whatever covers the image."""

import torch

from pdtool.evaluation.attack_common import frozen, gradient, within
from pdtool.evaluation.attack_features import features_of, middle_layer

__all__ = ["fia"]


def fia(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    momentum: float,
    masks: int,
    drop: float,
    depth: float,
) -> torch.Tensor:
    """Signed steps with `momentum` against the features of a middle layer that speak for the label.

    Source: Wang et al. 2021, Algorithm 1. A feature's importance is the slope of the label's logit, averaged over
    `masks` copies of the image of whose values the share `drop` is blackened at random; `depth`: the share of
    convolutions before the layer (see `middle_layer`). The change of the image stays within `epsilon`: code of the
    papers' authors held the image itself within it instead, which leaves a pattern without an image.
    """
    with frozen(net):
        layer = middle_layer(net, images, depth)
        importance = torch.zeros(())
        for _ in range(masks):
            kept = (torch.rand(images.shape) >= drop).to(images)
            heard, logits = features_of(net, layer, (images * kept).requires_grad_(True))
            importance = importance.to(images) + torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), heard)[0]
        importance = torch.nn.functional.normalize(importance.flatten(1), dim=1)

        def weight(x: torch.Tensor) -> torch.Tensor:
            return -(features_of(net, layer, x)[0].flatten(1) * importance).sum(dim=1)

        x, running = images, torch.zeros_like(images)
        for _ in range(steps):
            _, slope = gradient(weight, x)
            running = momentum * running + slope / (slope.abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-30)
            x = within(x + step * running.sign(), images, epsilon)
    return x
