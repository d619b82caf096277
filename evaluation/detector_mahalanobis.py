"""Mahalanobis distance: an attacked image's activations lie far from those of every class.

Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks": at each
layer a Gaussian a class with one covariance for all, and the distance to the nearest class. As in the paper, but:

- The paper weighs the layers by a logistic regression, and chooses the strength of a noise that it adds to the image,
  both on attacked images. Here nothing attacked is ever seen: each layer's distance is standardised by its mean and
  deviation over clean images that the Gaussians were not fitted on, the score is the mean over layers, and no noise
  is added.
- The covariance is Ledoit and Wolf's (2004) instead of the empirical one, which is singular where channels are dead
  or images are few.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.errors import InputError
from pdtool.evaluation.detector_forward import Planes, halves_by_class, layer_features, layers
from pdtool.extras import require
from pdtool.images import Images

__all__ = ["fit_mahalanobis"]

Floats = NDArray[np.float64]


def fit_mahalanobis(
    net: nn.Module, images: Images, labels: NDArray[np.int64], *, seed: int, batch: int
) -> Callable[[Planes], Floats]:
    """The score of a batch of planes. Clean images (N, H, W, C) with their true labels (N,).

    Raises InputError for fewer than two images a class, on average, in the half that the Gaussians are fitted on: of
    one image a class no covariance can be known.
    """
    features = layer_features(net, images, batch)
    inside, outside = halves_by_class(labels, seed)
    classes = len(np.unique(labels[inside]))
    if len(inside) < 2 * classes:
        raise InputError(
            f"expected at least 2 images a class, on average, in the half of the clean images that the detector "
            f"mahalanobis is fitted on, got {len(inside)} images of {classes} classes; give more images"
        )
    gaussians = [_gaussian(layer[inside], labels[inside]) for layer in features]
    clean = [_nearest(layer[outside], *gaussian) for layer, gaussian in zip(features, gaussians, strict=True)]
    centres = [(float(values.mean()), float(values.std())) for values in clean]

    def score(planes: Planes) -> Floats:
        total = np.zeros(len(planes))
        for layer, gaussian, (middle, spread) in zip(layers(net, planes), gaussians, centres, strict=True):
            if spread > 0:  # a dead layer says nothing
                total += (_nearest(layer, *gaussian) - middle) / spread
        return total / len(gaussians)

    return score


def _gaussian(layer: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """A matrix (D, D) under which squared distances are Mahalanobis', and the class means (K, D) under it."""
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([layer[index == k].mean(axis=0) for k in range(len(classes))])
    covariance, _ = require("sklearn.covariance", "fit a detector").ledoit_wolf(layer - means[index])
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values.max(initial=0) * 1e-12
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    return whiten, means @ whiten


def _nearest(layer: Floats, whiten: Floats, means: Floats) -> Floats:
    """The squared distance (N,) to the nearest class."""
    middle = means.mean(axis=0)  # taken off first: large numbers would leave a small difference
    points, centres = layer @ whiten - middle, means - middle
    squared = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    nearest: Floats = np.maximum(squared.min(axis=1), 0)
    return nearest
