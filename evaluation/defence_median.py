"""Median smoothing: every value becomes the median of its window, channel by channel (Xu et al. 2018)."""

import numpy as np
from numpy.typing import NDArray

from pdtool.extras import require

__all__ = ["median"]


def median(images: NDArray[np.float32], *, size: int) -> NDArray[np.float32]:
    """Images (N, H, W, C) smoothed over `size` x `size` pixels, borders mirrored; the upper of two medians."""
    smooth = require("scipy.ndimage", "smooth images").median_filter
    smoothed: NDArray[np.float32] = smooth(images, size=(1, size, size, 1), mode="reflect")
    return smoothed
