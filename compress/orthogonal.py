"""Nets whose gradients stand at right angles to the original's, so that attacks on it do not carry over.

L. Bian et al. 2021 (SORS), equation 6: the squared cosine between two nets' gradients of the cross-entropy with respect
to the same image. There both nets are trained; here the original is given, and stays.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.modes import frozen

__all__ = ["orthogonality"]


def orthogonality(
    original: nn.Module, weight: float, images: int
) -> Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]:
    """The term of a net's loss: `weight` x the mean squared cosine over the first so many images of a batch.

    Both nets take normalised inputs (B, C, H, W) with labels (B,); a function for `training.Hooks.loss`. In float32:
    the gradient of a gradient loses too much below. The net is asked in the mode that it is in.
    """

    def term(net: nn.Module, inputs: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        point, here = inputs[:images].detach().contiguous().requires_grad_(True), labels[:images]
        with torch.autocast(inputs.device.type, enabled=False):
            with frozen(original):
                given = F.cross_entropy(original(point), here, reduction="sum")
                (of_original,) = torch.autograd.grad(given, point)
            own = F.cross_entropy(net(point), here, reduction="sum")
            (of_net,) = torch.autograd.grad(own, point, create_graph=True)
            cosine = F.cosine_similarity(of_net.flatten(1), of_original.flatten(1))
        return weight * cosine.square().mean()

    return term
