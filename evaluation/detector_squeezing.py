"""Feature squeezing: an attacked image's probabilities change when the image is made poorer, a clean one's hardly do.

Xu, Evans and Qi 2018, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks": the largest L1
distance between the probabilities of the image and those of its squeezed copies. Their best set for CIFAR-10 is 5
bits a channel, a 2x2 median and non-local means; the last is left out here (it needs OpenCV). Nothing is fitted.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.evaluation.defence_bit_depth import bit_depth
from pdtool.evaluation.defence_median import median
from pdtool.evaluation.detector_forward import Planes, probabilities

__all__ = ["squeezing_score"]

BITS = 5
WINDOW = 2


def squeezing_score(net: nn.Module, planes: Planes) -> NDArray[np.float64]:
    """The largest L1 distance (N,), in [0, 2], that a squeezer moves the probabilities."""
    images = np.moveaxis(planes, 1, 3)
    plain = probabilities(net, planes)
    moved = []
    for squeezed in (bit_depth(images, bits=BITS), median(images, size=WINDOW)):
        given = probabilities(net, np.ascontiguousarray(np.moveaxis(squeezed, 3, 1)))
        moved.append(np.abs(given - plain).sum(axis=1))
    largest: NDArray[np.float64] = np.max(moved, axis=0)
    return largest
