"""Total variation minimisation: rebuild the image from some of its pixels with as few edges as possible.

Guo et al. 2018, "Countering Adversarial Images Using Input Transformations": half of the pixels are kept, at random,
and the image u becomes the minimum of lambda TV(u) + sum over kept pixels of (u - x)^2 with lambda = 0.03. TV is the
sum of absolute differences between neighbours, a channel at a time, as in the program they build on (split Bregman
iteration); here the same minimum is found by the primal-dual iteration of Chambolle and Pock 2011, many images at once.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["objective", "total_variation"]

Images32 = NDArray[np.float32]

# Steps of the image and of its dual (in [-1, 1]): their product is the largest that converges, their ratio that of the
# changes in each.
STEP, DUAL_STEP = np.float32(0.05 / np.sqrt(8)), np.float32(20 / np.sqrt(8))
TOGETHER = 256  # images at once, to bound the memory


def total_variation(images: Images32, *, seed: int, keep: float, weight: float, steps: int) -> Images32:
    """Images (N, H, W, C) rebuilt from the share `keep` of their pixels, with `weight` as lambda, after `steps` steps.

    The pixels are drawn from `seed`, for each image anew and the same in all its channels.
    """
    kept = np.random.default_rng(seed).random((*images.shape[:3], 1)) < keep
    pieces = [
        _minimum(images[start : start + TOGETHER], kept[start : start + TOGETHER], weight, steps)
        for start in range(0, len(images), TOGETHER)
    ]
    return np.concatenate(pieces) if pieces else images


def objective(u: Images32, images: Images32, kept: NDArray[np.bool_], weight: float) -> NDArray[np.float64]:
    """What is minimised, (N,): weight x TV(u) + squared error of the kept pixels (N, H, W, 1)."""
    edges = sum(np.abs(np.diff(u, axis=axis)).sum(axis=(1, 2, 3), dtype=np.float64) for axis in (1, 2))
    errors = (kept * (u - images) ** 2).sum(axis=(1, 2, 3), dtype=np.float64)
    total: NDArray[np.float64] = weight * edges + errors
    return total


def _minimum(images: Images32, kept: NDArray[np.bool_], weight: float, steps: int) -> Images32:
    mask = kept.astype(np.float32)
    pull = STEP * mask * np.float32(2 / weight)  # of the squared error, divided by the weight of TV
    # dropped pixels start from the mean of the kept ones and know nothing of what they were
    count = np.maximum(mask.sum(axis=(1, 2), keepdims=True), 1)
    u = mask * images + (1 - mask) * ((mask * images).sum(axis=(1, 2), keepdims=True) / count)
    ahead = u
    down = np.zeros_like(images[:, 1:])
    right = np.zeros_like(images[:, :, 1:])
    for _ in range(steps):
        down = np.clip(down + DUAL_STEP * np.diff(ahead, axis=1), -1, 1)
        right = np.clip(right + DUAL_STEP * np.diff(ahead, axis=2), -1, 1)
        moved = u.copy()  # u - STEP x (the transpose of the differences)
        moved[:, :-1] += STEP * down
        moved[:, 1:] -= STEP * down
        moved[:, :, :-1] += STEP * right
        moved[:, :, 1:] -= STEP * right
        after = (moved + pull * images) / (1 + pull)
        ahead = 2 * after - u
        u = after
    bounded: Images32 = np.clip(u, 0, 1).astype(np.float32, copy=False)
    return bounded
