"""Jacobian-based saliency map attack: the few values that matter most, one after another."""

import torch

from pdtool.evaluation.attack_common import frozen, other_class

__all__ = ["jsma"]


def jsma(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, theta: float, gamma: float
) -> torch.Tensor:
    """Raise by `theta` the value that speaks most for a random other class, until the net names it.

    Saliency of a value (Papernot et al. 2016, equation 8): the slope of the target's logit times that of all the
    others' sum, where raising helps the one and hurts the others. At most the share `gamma` of an image's values
    (pixels times colours) is changed. One value a step, as in the code that the screener's papers measured with; the
    paper of 2016 takes pairs. Images that the net gets wrong already come back unchanged.
    """
    with frozen(net):
        x = images.clone().flatten(1)
        budget = int(gamma * x.shape[1])
        left = torch.arange(len(x), device=x.device)
        targets = labels
        for step in range(budget):
            given = x[left].reshape(-1, *images.shape[1:]).requires_grad_(True)
            logits = net(given)
            if step == 0:
                targets = other_class(labels, logits.shape[1])
                going = logits.argmax(1) == labels
            else:
                going = logits.argmax(1) != targets[left]
            wanted = logits.gather(1, targets[left, None]).sum()
            (toward,) = torch.autograd.grad(wanted, given, retain_graph=True)
            (whole,) = torch.autograd.grad(logits.sum(), given)
            others = whole - toward
            helps = (toward > 0) & (others < 0) & (given < 1)
            salient, value = torch.where(helps, -toward * others, 0).flatten(1).max(dim=1)
            going &= salient > 0
            left, value = left[going], value[going]
            if not len(left):
                break
            x[left, value] = (x[left, value] + theta).clamp(0, 1)
    return x.reshape(images.shape)
