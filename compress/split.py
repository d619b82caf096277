"""Labelled data made ready: labels in the model's class order, a part held back, pixel statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import Preprocessing
from pdtool.data import Dataset, labels_as
from pdtool.errors import InputError
from pdtool.images import Images

__all__ = ["Labelled", "align", "hold_back", "preprocessing_of", "spread"]

HELD_BACK = 0.1  # share of the images, a class
SPLIT_SEED = 20211  # one split for `train` and `compress`, so that what `train` held back stays unseen in `compress`


@dataclass(frozen=True)
class Labelled:
    """Images (N, H, W, C) with labels (N,) int64."""

    images: Images
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def align(data: Dataset, classes: Sequence[str]) -> Labelled:
    """The data with labels as indices into `classes`. Raises InputError for unlabelled data or an unknown class."""
    labels = labels_as(data, tuple(classes))
    if labels is None:
        raise InputError(f"{data.spec}: has no labels; expected folders named after classes, or an npz with labels")
    return Labelled(data.images, labels)


def hold_back(data: Labelled, groups: NDArray[np.int64], *, spec: str) -> tuple[Labelled, Labelled]:
    """(to train on, held back): about 10 % of every class, whole groups (tracks) only, the same split every time.

    A class of fewer than five groups gives none. Raises InputError where nothing can be held back.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    held = np.zeros(len(data), dtype=bool)
    for label in np.unique(data.labels):
        members = np.unique(groups[data.labels == label])
        if len(members) >= 5:
            chosen = rng.permutation(members)[: max(1, round(HELD_BACK * len(members)))]
            held |= (data.labels == label) & np.isin(groups, chosen)
    if not held.any():
        raise InputError(
            f"{spec}: too few images to hold some back; expected a class with at least 5 (tracks count as one); add "
            f"images, or, in compress, name other data with --holdout"
        )
    return _take(data, ~held), _take(data, held)


def preprocessing_of(images: Images) -> Preprocessing:
    """Size, and mean and standard deviation a channel of the images in [0, 1], rounded to 4 digits."""
    _, height, width, channels = images.shape
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    mean = [float(images[..., c].mean(dtype=np.float64)) / scale for c in range(channels)]
    std = [float(images[..., c].std(dtype=np.float64)) / scale for c in range(channels)]
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(round(value, 4) for value in mean),
        std=tuple(max(round(value, 4), 0.01) for value in std),
    )


def spread(data: Labelled, count: int) -> Labelled:
    """At most `count` images, evenly over the data sorted by class."""
    order = np.argsort(data.labels, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    return _take(data, picked)


def _take(data: Labelled, index: NDArray[np.bool_] | NDArray[np.intp]) -> Labelled:
    return Labelled(data.images[index], data.labels[index])
