"""Maximum softmax probability: an image of whose label the original is unsure looks attacked.

Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples". Nothing is
fitted. The score is one minus the largest probability, summed from the others so that sure answers keep their order.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.evaluation.detector_forward import Planes, probabilities

__all__ = ["softmax_score"]


def softmax_score(net: nn.Module, planes: Planes) -> NDArray[np.float64]:
    """The probability (N,) of all labels but the likeliest."""
    others: NDArray[np.float64] = np.sort(probabilities(net, planes), axis=1)[:, :-1].sum(axis=1)
    return others
