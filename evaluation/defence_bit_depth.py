"""Bit depth reduction: every value becomes the nearest of a few levels (Xu et al. 2018; Guo et al. 2018)."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["bit_depth"]


def bit_depth(images: NDArray[np.float32], *, bits: int) -> NDArray[np.float32]:
    """Images (N, H, W, C) in 2^bits levels from 0 to 1."""
    levels = np.float32(2**bits - 1)
    reduced: NDArray[np.float32] = np.rint(images * levels) / levels
    return reduced
