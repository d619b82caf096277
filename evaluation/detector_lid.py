"""Local intrinsic dimensionality: around an attacked image the net's activations spread in more directions.

Ma et al. 2018, "Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality": at each layer, the maximum
likelihood estimate -1 / mean(log(r_i / r_k)) from the distances r_1..r_k to the k = 20 nearest of a minibatch of 100
clean images. As in the paper's code, but:

- The paper weighs the layers by a logistic regression on attacked images. Here nothing attacked is ever seen: each
  layer's estimate is standardised by its mean and deviation over clean images that are in no minibatch, and the score
  is the mean over layers. That is weaker on attacks that the paper trains on, and the same for those it does not.
- Averaged over up to ten minibatches instead of one, which takes luck out of it; these are kept, so that a score
  belongs to an image and not to the batch it came in.
- A point whose neighbours all lie upon it, as images do that leave a layer dead, has the dimension 0 (the estimate is
  0 / 0 there); one whose neighbours are all equally far has ten times as many as the layer has features.
- Convolutions' activations are averaged over positions, as Lee et al. 2018 do when they compare with it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.evaluation.detector_forward import Planes, halves, layer_features, layers
from pdtool.images import Images

__all__ = ["estimate", "fit_lid"]

Floats = NDArray[np.float64]

NEIGHBOURS = 20
MINIBATCH = 100
MINIBATCHES = 10
LARGEST = 10  # times the layer's features: where all neighbours are equally far the estimate has no end
SAME = 1e-12  # of the squared lengths: features are float32, a squared distance below this is rounding


def fit_lid(
    net: nn.Module, images: Images, labels: NDArray[np.int64], *, seed: int, batch: int
) -> Callable[[Planes], Floats]:
    """The score of a batch of planes. Clean images (N, H, W, C); their labels play no part."""
    features = layer_features(net, images, batch)
    near, rest = halves(len(images), seed)
    near = np.random.default_rng(seed).permutation(near)
    # fewer than one minibatch: all of them; else whole minibatches only
    count = min(len(near) // MINIBATCH, MINIBATCHES) * MINIBATCH or len(near)
    references = [layer[near[:count]].reshape(-1, min(count, MINIBATCH), layer.shape[1]) for layer in features]
    clean = [estimate(layer[rest], reference) for layer, reference in zip(features, references, strict=True)]
    centres = [(float(values.mean()), float(values.std())) for values in clean]

    def score(planes: Planes) -> Floats:
        total = np.zeros(len(planes))
        for layer, reference, (middle, spread) in zip(layers(net, planes), references, centres, strict=True):
            if spread > 0:  # a dead layer says nothing
                total += (estimate(layer, reference) - middle) / spread
        return total / len(references)

    return score


def estimate(points: Floats, references: Floats) -> Floats:
    """The local intrinsic dimensionality (N,) of points (N, D), a mean over the minibatches (B, M, D)."""
    count, size, width = references.shape
    flat = references.reshape(-1, width)
    own, others = (points**2).sum(1)[:, None], (flat**2).sum(1)
    floor = SAME * (own + others.max()) + np.finfo(np.float64).tiny
    squared = np.maximum(own + others - 2 * points @ flat.T, floor)
    k = min(NEIGHBOURS, size - 1)
    nearest = np.partition(squared.reshape(-1, count, size), k - 1, axis=2)[:, :, :k]
    farthest = nearest.max(axis=2, keepdims=True)
    logs = 0.5 * np.log(nearest / farthest).mean(axis=2)
    each = np.where(farthest[:, :, 0] > floor, 1 / np.maximum(-logs, 1 / (LARGEST * width)), 0.0)
    dimensions: Floats = each.mean(axis=1)
    return dimensions
