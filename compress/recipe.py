"""How a net is trained, as data: the named recipes."""

import math
from dataclasses import dataclass, replace

from pdtool.errors import UsageError

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained: SGD with Nesterov momentum, learning rate warmed up over 20 % of the steps to `lr`, then
    a cosine down to 0; every image shifted by up to `shift` pixels, edges repeated, and made brighter or darker by
    up to the share `light`; batch norm estimated anew at the end.

    With a teacher the loss is (1 - distill) x cross-entropy + distill x temperature^2 x KL(teacher || net), both
    softened by `temperature` (Hinton et al. 2015, section 2).
    """

    name: str
    epochs: int
    batch: int | None = None  # None: 32 below 4,000 images, 64 below 20,000, else 128
    lr: float = 0.1  # for a batch of 128; scaled by sqrt(batch / 128)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 2.0  # largest norm of a step's gradient: nets without batch norm survive high learning rates
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    shift: int = 2
    light: float = 0.4
    flip: bool = False  # off: traffic signs and digits change their meaning in a mirror
    norm_images: int = 2048  # images that batch norm is estimated on at the end

    def __post_init__(self) -> None:
        """Raise UsageError for a number that no training can use."""
        for name in ("lr", "clip", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} should be a number above 0, is {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay should be a number of at least 0, is {self.weight_decay}")
        for name in ("momentum", "label_smoothing", "distill", "light"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} should lie in [0, 1], is {getattr(self, name)}")

    def resolved(self, images: int) -> "Recipe":
        """The recipe for so many images, nothing left open."""
        batch = self.batch or (32 if images < 4_000 else 64 if images < 20_000 else 128)
        return replace(self, batch=min(images, batch))

    def steps(self, images: int) -> int:
        """Optimiser steps on so many images; those left over at the end of an epoch are dropped until the next."""
        batch = self.resolved(images).batch
        assert batch is not None
        return self.epochs * (images // batch)


# "paper": every pruned member is trained on the training data again, as in the papers. "distilled": it imitates the
# original too. Accuracy measured at rate 0.5: LeNet-5 on digits 0.990 and 0.992 (mean of 8); ResNet-18 of width 16 on
# 43 traffic signs (original 0.960) 0.947 and 0.920, the latter in 1.6 times the time: imitation is no default. (With
# batch norm as it was estimated up to November 2026, which made all of them worse; to be measured again.)
RECIPES = {
    "train": Recipe(name="train", epochs=16),
    "paper": Recipe(name="paper", epochs=10),
    "distilled": Recipe(name="distilled", epochs=10, distill=0.3, temperature=2.0),
    "hardened": Recipe(name="hardened", epochs=10, distill=0.9, temperature=2.0),
}
