"""An attacker's own members attacked in their middle layers, together with the original: what may transfer further.

FIA (Wang et al. 2021) and ILA (Huang et al. 2019) on several nets at once: what each net's middle layer says of an
image is pushed along a direction of that net's own, by the steps of `descend`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.evaluation.adaptive_descent import descend
from pdtool.evaluation.attack_features import features_of, middle_layer
from pdtool.jsonform import JsonValue

__all__ = ["FEATURES", "SETTINGS", "Features", "push_features"]

Features = Literal["fia", "ila"]
FEATURES: tuple[Features, ...] = ("fia", "ila")
DEPTH = 0.5  # share of the convolutions before the layer
# A feature's importance is averaged over so many copies of the image, of whose values the share DROP is blackened
MASKS = 30
DROP = 0.3
SETTINGS: dict[str, JsonValue] = {"ways": list(FEATURES), "depth": DEPTH, "masks": MASKS, "drop": DROP}


def push_features(
    original: nn.Module,
    members: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    way: Features,
    base: Callable[[], Tensor],
    epsilon: float,
    steps: int,
    at_once: int,
    generator: torch.Generator,
    random_start: bool = False,
) -> Tensor:
    """Images (N, C, H, W) within `epsilon`, of labels (N,), whose middle layers have been pushed in all nets.

    `fia`: away from what speaks for the label. `ila`: along the change that the images of `base()` make there. Every
    net's direction is a unit vector for each image. Every step pushes the original and `at_once` members, drawn anew,
    which together weigh as much as the original.
    """
    nets = (original, *members)
    layers = [middle_layer(net, images, DEPTH) for net in nets]
    if way == "fia":
        wanted = [-_importance(net, layer, images, labels, generator) for net, layer in zip(nets, layers, strict=True)]
    else:
        moved = base()
        wanted = [_change(net, layer, images, moved) for net, layer in zip(nets, layers, strict=True)]
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))

    def look(x: Tensor, rows: Tensor, step: int, last: bool) -> tuple[Tensor, None]:
        moving = x.clone().requires_grad_(True)
        drawn = 1 + rng.permutation(len(members))[:at_once]
        gained = torch.zeros(())
        for i in (0, *drawn):
            pushed = (features_of(nets[i], layers[i], moving)[0].flatten(1) * wanted[i][rows]).sum()
            gained = gained + (pushed if i == 0 else pushed / len(drawn))
        (gradient,) = torch.autograd.grad(-gained, moving)
        return gradient, None

    return descend(images, look, epsilon=epsilon, steps=steps, generator=generator, random_start=random_start)


def _importance(net: nn.Module, layer: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """The slope of the label's logit (N, D) by what the layer says, averaged over images with holes; unit vectors."""
    slopes = torch.zeros(())
    for _ in range(MASKS):
        kept = (torch.rand(images.shape, generator=generator) >= DROP).to(images)
        heard, logits = features_of(net, layer, (images * kept).requires_grad_(True))
        slopes = slopes + torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), heard)[0]
    return F.normalize(slopes.flatten(1), dim=1)


def _change(net: nn.Module, layer: nn.Module, images: Tensor, moved: Tensor) -> Tensor:
    """How the layer's answer (N, D) changes from the images to the moved ones; unit vectors."""
    with torch.no_grad():
        before, after = (features_of(net, layer, x)[0].flatten(1) for x in (images, moved))
    return F.normalize(after - before, dim=1)
