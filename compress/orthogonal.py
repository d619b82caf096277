"""Nets whose gradients stand at right angles to those of given nets, so that attacks on them do not carry over.

L. Bian et al. 2021 (SORS), equation 6: the squared cosine between two nets' gradients of the cross-entropy with respect
to the same image. There all nets are trained; here those compared with are given, and stay: the original, and with it
nets of the kind that an attacker would train.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.modes import frozen

__all__ = ["orthogonality"]


def orthogonality(
    given: Sequence[nn.Module], weight: float, images: int
) -> Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]:
    """The term of a net's loss: `weight` x the squared cosine, mean over the first so many images of a batch and summed
    over the given nets.

    All nets take normalised inputs (B, C, H, W) with labels (B,); a function for `training.Hooks.loss`. In float32:
    the gradient of a gradient loses too much below. The net is asked in the mode that it is in.
    """

    def term(net: nn.Module, inputs: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        point, here = inputs[:images].detach().contiguous().requires_grad_(True), labels[:images]
        with torch.autocast(inputs.device.type, enabled=False):
            theirs = list[Tensor]()
            for each in given:
                with frozen(each):
                    loss = F.cross_entropy(each(point), here, reduction="sum")
                    theirs += torch.autograd.grad(loss, point)
            own = F.cross_entropy(net(point), here, reduction="sum")
            (of_net,) = torch.autograd.grad(own, point, create_graph=True)
            cosines = [F.cosine_similarity(of_net.flatten(1), of_given.flatten(1)) for of_given in theirs]
        return weight * torch.stack([cosine.square().mean() for cosine in cosines]).sum()

    return term
