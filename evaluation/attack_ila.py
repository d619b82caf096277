"""Intermediate level attack: push a middle layer further the way that another attack moved it."""

import torch

from pdtool.evaluation.attack_common import frozen, gradient, within
from pdtool.evaluation.attack_features import features_of, middle_layer

__all__ = ["ila"]


def ila(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    base_epsilon: float,
    base_step: float,
    base_steps: int,
    depth: float,
) -> torch.Tensor:
    """Signed steps from the image along the projection of a middle layer's change on the change that BIM makes there.

    Source: Huang et al. 2019, Algorithm 1 with the projection loss. BIM runs with the `base_` settings; `depth`: the
    share of convolutions before the layer (see `middle_layer`). The change of the image stays within `epsilon`.
    """

    def entropy(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(net(x), labels, reduction="none")

    with frozen(net):
        layer = middle_layer(net, images, depth)
        base = images
        for _ in range(base_steps):
            _, slope = gradient(entropy, base)
            base = within(base + base_step * slope.sign(), images, base_epsilon)
        with torch.no_grad():
            clean = features_of(net, layer, images)[0]
            wanted = (features_of(net, layer, base)[0] - clean).flatten(1)

        def projection(x: torch.Tensor) -> torch.Tensor:
            return ((features_of(net, layer, x)[0] - clean).flatten(1) * wanted).sum(dim=1)

        x = images
        for _ in range(steps):
            _, slope = gradient(projection, x)
            x = within(x + step * slope.sign(), images, epsilon)
    return x
