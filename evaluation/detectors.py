"""Detectors to compare with, by name in `DETECTORS`: each scores an image, higher means more adversarial.

All are fitted on clean training images alone: no attacked image is ever seen, and where a paper tunes on attacked ones
its detector says what it does instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.compress.split import Labelled, spread
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.detector_forward import Planes
from pdtool.evaluation.detector_lid import fit_lid
from pdtool.evaluation.detector_mahalanobis import fit_mahalanobis
from pdtool.evaluation.detector_softmax import softmax_score
from pdtool.evaluation.detector_squeezing import squeezing_score
from pdtool.images import Images, as_input

__all__ = ["DETECTORS", "FIT_IMAGES", "Detector", "Fitted", "fit_detector"]

FIT_IMAGES = 5000  # most clean images that a fit looks at, evenly over the classes

Score = Callable[[Planes], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What a detector is, where it comes from and what it costs beside fitting.

    `passes`: forward passes of the original a frame, that which labels it included. One of `score` (net, planes) and
    `fit` (net, images, labels, seed=, batch=) is given: a detector that is not fitted has no `fit`.
    """

    name: str
    description: str
    source: str
    passes: float
    score: Callable[[nn.Module, Planes], NDArray[np.float64]] | None = None
    fit: Callable[..., Score] | None = None


DETECTORS: dict[str, Detector] = {
    detector.name: detector
    for detector in (
        Detector(
            name="softmax",
            description="one minus the largest probability",
            source="Hendrycks and Gimpel 2017",
            passes=1,
            score=softmax_score,
        ),
        Detector(
            name="squeezing",
            description="largest L1 change of the probabilities under 5 bits a channel or a 2x2 median",
            source="Xu et al. 2018, without non-local means",
            passes=3,
            score=squeezing_score,
        ),
        Detector(
            name="lid",
            description="mean over layers of the local intrinsic dimensionality, standardised on clean images",
            source="Ma et al. 2018, layers not weighed on attacked images",
            passes=1,
            fit=fit_lid,
        ),
        Detector(
            name="mahalanobis",
            description="mean over layers of the distance to the nearest class, standardised on clean images",
            source="Lee et al. 2018, layers not weighed on attacked images",
            passes=1,
            fit=fit_mahalanobis,
        ),
    )
}


@dataclass(frozen=True)
class Fitted:
    """A detector ready to score images of `shape` (H, W, C)."""

    detector: Detector
    n_fit: int  # clean images that it was fitted on
    shape: tuple[int, ...]
    function: Score

    def score(
        self, images: Images, *, batch: int = 128, advance: Callable[[int], None] = lambda steps: None
    ) -> NDArray[np.float64]:
        """A score (N,) for each image (N, H, W, C); `advance(n)` is called after n images.

        Raises InputError for images of another size than those it was fitted on.
        """
        if images.shape[1:] != self.shape:
            raise InputError(
                f"the detector {self.detector.name} was fitted on images of shape {self.shape}, got {images.shape[1:]}"
            )
        pieces = [np.zeros(0)]
        for start in range(0, len(images), batch):
            planes = as_input(images[start : start + batch])
            pieces.append(self.function(planes))
            advance(len(planes))
        return np.concatenate(pieces)


def fit_detector(
    name: str, net: nn.Module, images: Images, labels: NDArray[np.int64], *, seed: int = 0, batch: int = 128
) -> Fitted:
    """Fit a detector for `net` (takes pixels in [0, 1]) on clean training images (N, H, W, C) with true labels (N,).

    Of more than 5,000 images as many are taken, evenly over the classes. Same seed, same scores. Raises UsageError
    for an unknown name, InputError for too few images, MissingError without scikit-learn or SciPy.
    """
    if name not in DETECTORS:
        raise UsageError(f"unknown detector {name!r}; expected one of {', '.join(DETECTORS)}")
    detector, shape = DETECTORS[name], images.shape[1:]
    if detector.score is not None:
        return Fitted(detector, 0, shape, partial(detector.score, net))
    assert detector.fit is not None
    used = spread(Labelled(images, labels), FIT_IMAGES)
    return Fitted(detector, len(used), shape, detector.fit(net, used.images, used.labels, seed=seed, batch=batch))
