"""Image quilting: put the image together anew from small patches of clean training images.

Guo et al. 2018, "Countering Adversarial Images Using Input Transformations", after Efros and Freeman 2001: patches of
5x5 that overlap by 2, each the nearest of a library (or one of several nearest, at random), joined along the cut
through the overlap where they differ least. Their library has 1,000,000 patches of ImageNet, this one 20,000 of the
original's own training images.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import InputError
from pdtool.images import Images, as_input

__all__ = ["patch_library", "quilt"]

Images32 = NDArray[np.float32]

TOGETHER = 256  # images at once, to bound the memory


def patch_library(clean: Images, *, size: int, count: int, seed: int) -> Images32:
    """Patches (count, size, size, C) from clean training images (N, H, W, C), at places drawn from `seed`.

    Raises InputError for images smaller than a patch, or none.
    """
    if len(clean) == 0 or min(clean.shape[1:3]) < size:
        raise InputError(f"expected clean images of at least {size}x{size} pixels to cut patches from: {clean.shape}")
    rng = np.random.default_rng(seed)
    which = rng.integers(len(clean), size=count)
    rows = rng.integers(clean.shape[1] - size + 1, size=count)
    columns = rng.integers(clean.shape[2] - size + 1, size=count)
    places = np.arange(size)
    cut = clean[which[:, None, None], rows[:, None, None] + places[:, None], columns[:, None, None] + places]
    return np.ascontiguousarray(np.moveaxis(as_input(cut), 1, 3))


def quilt(images: Images32, *, seed: int, library: Images32, overlap: int, neighbours: int) -> Images32:
    """Images (N, H, W, C) made of patches of `library`, one of the `neighbours` nearest each, drawn from `seed`.

    Raises InputError where the images have other channels than the library, or are smaller than a patch.
    """
    size = library.shape[1]
    if images.shape[3] != library.shape[3] or min(images.shape[1:3]) < size:
        raise InputError(f"patches of shape {library.shape[1:]} do not fit images of shape {images.shape[1:]}")
    rng = np.random.default_rng(seed)
    pieces = [
        _quilted(images[start : start + TOGETHER], library, overlap, neighbours, rng)
        for start in range(0, len(images), TOGETHER)
    ]
    return np.concatenate(pieces) if pieces else images


def _quilted(images: Images32, library: Images32, overlap: int, neighbours: int, rng: np.random.Generator) -> Images32:
    size = library.shape[1]
    flat = library.reshape(len(library), -1)
    norms = (flat**2).sum(axis=1)
    rows, columns = (_starts(side, size, size - overlap) for side in images.shape[1:3])
    made = np.zeros_like(images)
    # rows and columns of the patch that lie on what is there already; the last patch may overlap more
    above = dict(zip(rows, [0, *(before + size - at for before, at in pairwise(rows))], strict=True))
    left = dict(zip(columns, [0, *(before + size - at for before, at in pairwise(columns))], strict=True))
    for row in rows:
        for column in columns:
            there = (slice(None), slice(row, row + size), slice(column, column + size))
            wanted = images[there].reshape(len(images), -1)
            far = norms - 2 * wanted @ flat.T
            if neighbours == 1:
                nearest = far.argmin(axis=1)
            else:
                near = np.argpartition(far, neighbours - 1, axis=1)[:, :neighbours]
                nearest = near[np.arange(len(near)), rng.integers(neighbours, size=len(near))]
            patch = library[nearest]
            error = ((patch - made[there]) ** 2).sum(axis=3)
            new = np.ones(error.shape, dtype=bool)
            if left[column]:
                new[:, :, : left[column]] &= _beyond_cut(error[:, :, : left[column]])
            if above[row]:
                over = _beyond_cut(np.swapaxes(error[:, : above[row]], 1, 2))
                new[:, : above[row]] &= np.swapaxes(over, 1, 2)
            made[there] = np.where(new[..., None], patch, made[there])
    return made


def _starts(side: int, size: int, step: int) -> list[int]:
    """Where patches start along a side, the last one ending with it."""
    return sorted({*range(0, side - size, step), side - size})


def _beyond_cut(error: NDArray[np.float32]) -> NDArray[np.bool_]:
    """True (N, L, W) from the cut on: the way down of least error, a column a row, each next to the one above."""
    count, length, width = error.shape
    best = error.copy()
    for at in range(1, length):
        padded = np.pad(best[:, at - 1], ((0, 0), (1, 1)), constant_values=np.inf)
        best[:, at] += np.min([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=0)
    cut = np.empty((count, length), dtype=np.int64)
    cut[:, -1] = best[:, -1].argmin(axis=1)
    for at in range(length - 2, -1, -1):
        close = np.abs(np.arange(width) - cut[:, at + 1, None]) <= 1
        cut[:, at] = np.where(close, best[:, at], np.inf).argmin(axis=1)
    return np.arange(width) >= cut[:, :, None]
