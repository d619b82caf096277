"""Attacks that Foolbox carries out: FGSM, BIM, PGD, MIM, DeepFool and Carlini and Wagner's L2.

Each takes a net of pixels in [0, 1] that gives logits, images (N, C, H, W), labels (N,) and its settings, and returns
images. `targeted`: towards a random other class (drawn from torch's random state) instead of away from the label.
"""

import warnings
from types import ModuleType
from typing import Any

import torch

from pdtool.evaluation.attack_common import device_of, frozen, logits_of, other_class
from pdtool.extras import require

__all__ = ["SMALLER_LEADS", "bim", "cw", "deepfool", "fgsm", "library", "mim", "pgd"]

SMALLER_LEADS = "where the confidence was out of reach a smaller lead was taken: half of it, a quarter and so on to 0"


def library() -> ModuleType:
    """Foolbox. Raises MissingError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by its own imports
        return require("foolbox", "attack the original")


def fgsm(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float, targeted: bool = False
) -> torch.Tensor:
    """One step of `epsilon` along the sign of the gradient of the cross-entropy."""
    attack = library().attacks.LinfBasicIterativeAttack(rel_stepsize=1.0, steps=1, random_start=False)
    return _call(attack, net, images, labels, epsilon, targeted)


def bim(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    targeted: bool = False,
) -> torch.Tensor:
    """`steps` signed gradient steps of `step`, held within `epsilon` of the image."""
    attack = library().attacks.LinfBasicIterativeAttack(abs_stepsize=step, steps=steps, random_start=False)
    return _call(attack, net, images, labels, epsilon, targeted)


def pgd(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    targeted: bool = False,
) -> torch.Tensor:
    """BIM from a random point within `epsilon` of the image."""
    attack = library().attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=True)
    return _call(attack, net, images, labels, epsilon, targeted)


def mim(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    momentum: float,
    targeted: bool = False,
) -> torch.Tensor:
    """BIM along a running sum of the gradients, each of mean absolute value 1; the sum fades by `momentum` a step."""
    attack = library().attacks.LinfMomentumIterativeFastGradientMethod(
        abs_stepsize=step, steps=steps, momentum=momentum
    )
    # Foolbox 3.3.4 adds up signs; the paper's equation 6 adds up gradients divided by their L1 norm
    attack.normalize = lambda gradients, **_: gradients / (gradients.abs().mean(axis=(1, 2, 3), keepdims=True) + 1e-30)
    return _call(attack, net, images, labels, epsilon, targeted)


def deepfool(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, steps: int, overshoot: float
) -> torch.Tensor:
    """Steps over the nearest linearised boundary, `overshoot` beyond it: a small L2 change."""
    attack = library().attacks.L2DeepFoolAttack(steps=steps, candidates=10, overshoot=overshoot, loss="logits")
    return _call(attack, net, images, labels, None)


def cw(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    const: float,
    searches: int,
    steps: int,
    step: float,
    confidence: float,
) -> torch.Tensor:
    """Adam on the squared L2 change plus `const` x the margin; `searches` values of `const` are tried.

    `confidence` (kappa): by how much the wrong logit must lead. Where none of the `const` tried reached it, half of it
    is asked for, and so on down to 0: as sure as can be. `const` is multiplied by ten until one reaches it, so give 20
    and more some searches. An image where nothing was found comes back unchanged.
    """
    found, left = images, torch.arange(len(images), device=images.device)
    while len(left):
        attack = library().attacks.L2CarliniWagnerAttack(
            binary_search_steps=searches, steps=steps, stepsize=step, confidence=confidence, initial_const=const
        )
        got = _call(attack, net, images[left], labels[left], None)
        # Foolbox 3.3.4 returns an all-black image where it found nothing; black would count as a success
        nothing = (got == 0).flatten(1).all(dim=1)
        found = found.index_copy(0, left[~nothing], got[~nothing])
        left = left[nothing]
        if confidence == 0:
            break
        confidence = confidence / 2 if confidence > 1 else 0.0
    return found


def _call(
    attack: Any,
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | None,
    targeted: bool = False,
) -> torch.Tensor:
    foolbox = library()
    with frozen(net):
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device=device_of(net))
        wanted = foolbox.criteria.Misclassification(labels)
        if targeted:
            classes = logits_of(net, images[:1]).shape[1]
            wanted = foolbox.criteria.TargetedMisclassification(other_class(labels, classes))
        found: torch.Tensor = attack(model, images, wanted, epsilons=epsilon)[1]
    return found
