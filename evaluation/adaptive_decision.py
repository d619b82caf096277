"""The attacker who sees only what the device says, label and verdict: a random search without gradients.

Squares of random signs as in Andriushchenko et al. 2020 (Square attack), but no scores are to be had, so that the
search is for the smallest radius along a pattern of signs, as in Chen and Gu 2020 (RayS): a pattern that fools the
device at a smaller radius than the best so far replaces it, and the radius is halved down.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ask", "Found", "search"]

Pixels = NDArray[np.float32]
# Images (n, H, W, C) and which of the attacked ones they are (n,): whether each is labelled wrongly and cleared
Ask = Callable[[Pixels, NDArray[np.int64]], NDArray[np.bool_]]

STARTS = (1.0, 0.5, 0.25, 0.125)  # radii tried in turn while nothing has been found
GAIN = 0.95  # a new pattern has to do with that share of the radius
FINE = 0.25 / 255  # the radius is halved down to that, or to a twentieth of itself
LARGEST_SQUARE, SMALLEST_SQUARE = 0.5, 0.05  # sides as shares of the picture's, from the first query to the last


@dataclass(frozen=True)
class Found:
    """The attacked images (N, H, W, C) and the radius (N,) at which each fools the device; inf: never, and unchanged.

    `spent` (N,): queries asked for each; `first` (N, E): how many it took to come below each epsilon, -1 if never.
    """

    images: Pixels
    radius: NDArray[np.float64]
    spent: NDArray[np.int64]
    first: NDArray[np.int64]


def search(
    images: Pixels,
    ask: Ask,
    epsilons: tuple[float, ...],
    *,
    queries: int,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> Found:
    """At most `queries` questions an image; an image needs no more once it fools within the smallest epsilon.

    `advance(1)` is called after each round of questions, one an image.
    """
    count = len(images)
    signs = np.stack([_stripes(images.shape[1:], rng) for _ in range(count)]) if count else images.copy()
    trial = signs.copy()
    radius = np.full(count, np.inf)
    low = np.full(count, np.nan)  # a number while the radius is halved down between it and the best
    first = np.full((count, len(epsilons)), -1, dtype=np.int64)
    spent = np.zeros(count, dtype=np.int64)
    for query in range(queries):
        rows = np.flatnonzero(radius > min(epsilons))
        if len(rows):
            halving = ~np.isnan(low[rows])
            for i in rows[~halving]:
                trial[i] = _changed(signs[i], query / queries, rng, afresh=np.isinf(radius[i]))
            start = STARTS[query % len(STARTS)]
            middle = (radius[rows] + low[rows]) / 2
            asked = np.where(halving, middle, np.where(np.isinf(radius[rows]), start, GAIN * radius[rows]))
            worked = ask(_at(images[rows], trial[rows], asked), rows)
            spent[rows] += 1
            better = rows[worked]
            signs[better], radius[better] = trial[better], asked[worked]
            low[rows] = np.where(worked & ~halving, 0.0, np.where(halving & ~worked, asked, low[rows]))
            done = radius[rows] - np.nan_to_num(low[rows]) <= np.maximum(FINE, 0.05 * radius[rows])
            low[rows[done]] = np.nan
            for k, epsilon in enumerate(epsilons):
                new = better[(radius[better] <= epsilon) & (first[better, k] < 0)]
                first[new, k] = spent[new]
        advance(1)
    return Found(_at(images, signs, np.where(np.isinf(radius), 0.0, radius)), radius, spent, first)


def _at(images: Pixels, signs: Pixels, radius: NDArray[np.float64]) -> Pixels:
    moved: Pixels = np.clip(images + radius.astype(np.float32)[:, None, None, None] * signs, 0.0, 1.0)
    return moved


def _stripes(shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """A random sign a column and channel, as Square begins."""
    return np.broadcast_to(_signs((1, shape[1], shape[2]), rng), shape).copy()


def _changed(signs: Pixels, progress: float, rng: np.random.Generator, *, afresh: bool) -> Pixels:
    """The pattern with a random square in random signs; a new pattern of stripes, or of one colour, where `afresh`."""
    height, width, channels = signs.shape
    if afresh:
        plain = np.broadcast_to(_signs((1, 1, channels), rng), signs.shape)
        return plain.copy() if rng.random() < 0.5 else _stripes(signs.shape, rng)
    share = LARGEST_SQUARE * (SMALLEST_SQUARE / LARGEST_SQUARE) ** progress
    tall, wide = (max(1, round(share * side)) for side in (height, width))
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    changed = signs.copy()
    changed[top : top + tall, left : left + wide] = _signs((1, 1, channels), rng)
    return changed


def _signs(shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    return (2.0 * rng.integers(0, 2, shape) - 1.0).astype(np.float32)
