"""What a reviewer counts: rates with their interval and their n, areas under curves, costs. Pure NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import BundleModel

__all__ = ["Rate", "auroc", "mean", "rate", "relative_cost", "run_macs", "wilson"]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`events` of `count` frames, and the 95 % Wilson interval; `share` and interval are None where count is 0."""

    events: int
    count: int
    share: float | None
    low: float | None
    high: float | None


def rate(happened: NDArray[np.bool_]) -> Rate:
    """How often it happened among the frames given."""
    events, count = int(happened.sum()), len(happened)
    if count == 0:
        return Rate(events=0, count=0, share=None, low=None, high=None)
    low, high = wilson(events, count)
    return Rate(events=events, count=count, share=events / count, low=low, high=high)


def wilson(events: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Two-sided score interval of a rate (Wilson 1927); `z` 1.96 gives 95 %.

    >>> tuple(round(bound, 4) for bound in wilson(9, 10))
    (0.5958, 0.9821)
    """
    if not 0 <= events <= count or count == 0:
        raise ValueError(f"expected 0 <= events <= count and count above 0, got {events} of {count}")
    share = events / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # rounding must not push a bound past a share of exactly 0 or 1
    return (0.0 if events == 0 else middle - half), (1.0 if events == count else middle + half)


def auroc(clean: NDArray[np.floating[Any]], attacked: NDArray[np.floating[Any]]) -> float | None:
    """Chance that a random attacked frame scores higher than a random clean one; ties count half.

    The Mann-Whitney form (Hanley and McNeil 1982). None where either side is empty.
    """
    if len(clean) == 0 or len(attacked) == 0:
        return None
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, attacked, side="left")
    tied = np.searchsorted(ordered, attacked, side="right") - below
    return float((below + 0.5 * tied).sum() / (len(clean) * len(attacked)))


def mean(values: NDArray[Any]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if len(values) else None


def relative_cost(used: NDArray[np.int64], original: int, members: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each frame cost, in runs of the original: 1 for the original plus the members asked, by their MACs.

    used (N,): members asked; `original`: its MACs; members (M,): MACs in the order in which they were asked
    (`run_macs`).
    """
    total = np.concatenate([[0], np.cumsum(members)])
    return 1.0 + total[used] / original


def run_macs(order: Sequence[BundleModel]) -> NDArray[np.int64]:
    """MACs that each member adds when it is asked, in that order: a pack's all come with the first of it."""
    macs, first = np.zeros(len(order), dtype=np.int64), dict[str, int]()
    for i, model in enumerate(order):
        macs[first.setdefault(model.file.path, i)] += model.macs
    return macs
