"""What nets are trained on, in memory: images as they are, and images that were crafted from them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdtool.artifacts import Preprocessing
from pdtool.compress.recipe import Recipe
from pdtool.images import Images

__all__ = ["FORMAT", "Crafted", "TrainingSet", "as_pixels"]


# Nets are trained with the channels last in memory. CPU time a step with one thread, first in last: ResNet-18 of width
# 16, batch 128: 591 -> 434 ms, half its channels pruned 253 -> 203, three quarters 148 -> 134; VGG-16 of width 16: 277
# -> 212, pruned 139 -> 106; LeNet-5 the same; slower only with some 2 channels a layer left (91 -> 102).
FORMAT = torch.channels_last


@dataclass(frozen=True)
class TrainingSet:
    """Images (N, H, W, C), uint8 or float32 in [0, 1], and labels (N,) int64, in memory; how nets normalise them."""

    images: Tensor
    labels: Tensor
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)

    @staticmethod
    def of(
        images: Images, labels: NDArray[np.int64], preprocessing: Preprocessing, device: str = "cpu"
    ) -> "TrainingSet":
        """From arrays; everything is put on `device`."""
        return TrainingSet(
            torch.from_numpy(np.ascontiguousarray(images)).to(device),
            torch.from_numpy(np.ascontiguousarray(labels)).to(device),
            torch.tensor(preprocessing.mean, device=device).reshape(1, -1, 1, 1),
            torch.tensor(preprocessing.std, device=device).reshape(1, -1, 1, 1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> "TrainingSet":
        """The same on another device."""
        return TrainingSet(*(part.to(device) for part in (self.images, self.labels, self.mean, self.std)))

    def pixels(self, index: Tensor | slice) -> Tensor:
        """Those images as float32 (B, C, H, W) in [0, 1]."""
        return as_pixels(self.images[index])

    def shifted(self, index: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
        """Those images, each shifted (and mirrored) at random, as float32 (B, C, H, W) in [0, 1]."""
        count, (height, width), device = len(index), self.images.shape[1:3], self.images.device
        shifts = torch.randint(-recipe.shift, recipe.shift + 1, (2, count, 1), generator=generator).to(device)
        rows = (torch.arange(height, device=device) + shifts[0]).clamp_(0, height - 1)
        columns = (torch.arange(width, device=device) + shifts[1]).clamp_(0, width - 1)
        if recipe.flip:
            mirrored = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
            columns = torch.where(mirrored, columns.flip(1), columns)
        pixels = as_pixels(self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]])
        light = 1 + recipe.light * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
        return pixels.mul_(light.to(device)).clamp_(0, 1)


def as_pixels(images: Tensor) -> Tensor:
    """Images (B, H, W, C), uint8 or float32 in [0, 1], as float32 (B, C, H, W) in [0, 1]."""
    planes = images.permute(0, 3, 1, 2).contiguous()
    return planes.float().div_(255) if images.dtype == torch.uint8 else planes


@dataclass(frozen=True)
class Crafted:
    """Changed training images (S, H, W, C) uint8, their true labels (S,) int64 and what changed them.

    `kinds` (S,) int64 are indices into `crafting.KINDS`, `attacked` (S,) bool says which of them were attacks: there a
    teacher that was attacked is no teacher. `share` of every batch is drawn from them.
    """

    images: Tensor
    labels: Tensor
    kinds: Tensor
    attacked: Tensor
    share: float

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> "Crafted":
        """The same on another device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return Crafted(images, labels, self.kinds.to(device), self.attacked.to(device), self.share)
