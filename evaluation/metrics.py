"""What a reviewer counts: rates with their interval and their n, areas under curves, costs. Pure NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import BundleModel

__all__ = [
    "Area",
    "Mean",
    "Rate",
    "auroc",
    "auroc_interval",
    "mean",
    "mean_of",
    "rate",
    "relative_cost",
    "roc_curve",
    "run_macs",
    "threshold_at",
    "tpr_at",
    "wilson",
    "worst_per_input",
]

Scores = NDArray[np.floating[Any]]  # higher: more adversarial
Z = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`events` of `count` frames, and the 95 % Wilson interval; `share` and interval are None where count is 0."""

    events: int
    count: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Area:
    """An AUROC with its interval (`auroc_interval`), from `clean` and `attacked` frames; None where one has none."""

    value: float | None
    low: float | None
    high: float | None
    clean: int
    attacked: int


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of `count` numbers with its 95 % interval, value -+ 1.96 s / sqrt(count).

    All None where there are none; the interval is None for a single number, which shows no spread.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


def rate(happened: NDArray[np.bool_]) -> Rate:
    """How often it happened among the frames given."""
    events, count = int(happened.sum()), len(happened)
    if count == 0:
        return Rate(events=0, count=0, share=None, low=None, high=None)
    low, high = wilson(events, count)
    return Rate(events=events, count=count, share=events / count, low=low, high=high)


def wilson(events: int, count: int, z: float = Z) -> tuple[float, float]:
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


def auroc(clean: Scores, attacked: Scores) -> float | None:
    """Chance that a random attacked frame scores higher than a random clean one; ties count half.

    The Mann-Whitney form (Hanley and McNeil 1982). None where either side is empty.
    """
    if len(clean) == 0 or len(attacked) == 0:
        return None
    return float(_placements(clean, attacked).mean())


def auroc_interval(clean: Scores, attacked: Scores) -> Area:
    """The AUROC with an interval of at least 95 %; nothing is drawn at random.

    At either end the wider one of two: DeLong et al. 1988 on the logit scale, which sees ties and frames of two kinds
    but too little spread where hardly a frame is out of order, and Newcombe 2006 (method 5), which has it the other
    way round. Each alone covers as little as 90 % of simulated pools of 16 members, the wider one 95 % and more.
    """
    n, m = len(clean), len(attacked)
    area = auroc(clean, attacked)
    if area is None:
        return Area(value=None, low=None, high=None, clean=n, attacked=m)
    low, high = _newcombe(area, n, m)
    if min(n, m) > 1 and 0 < area < 1:
        variance = sum(
            float(_placements(*pair).var(ddof=1)) / len(pair[1]) for pair in ((clean, attacked), (attacked, clean))
        )
        logit, half = log(area / (1 - area)), Z * sqrt(variance) / (area * (1 - area))
        low, high = min(low, _expit(logit - half)), max(high, _expit(logit + half))
    return Area(value=area, low=low, high=high, clean=n, attacked=m)


def threshold_at(clean: Scores, fpr: float) -> float:
    """The lowest of the clean scores that at most the share `fpr` of them lie strictly above; inf without any.

    A frame is flagged strictly above it. Where clean scores tie at that place (a label change rate has few values)
    all of them stay below, so that the realised share is smaller than `fpr`, never larger: nothing is interpolated and
    no tie is broken by chance. With fewer than 1/fpr clean scores it is their largest.

    >>> threshold_at(np.array([0.0, 0.1, 0.1, 0.3]), 0.25)
    0.1
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"expected a share of false alarms in [0, 1], got {fpr}")
    if len(clean) == 0:
        return inf
    above = int(fpr * len(clean) + 1e-9)  # 0.29 * 100 is a little less than 29
    return float(np.sort(clean)[len(clean) - 1 - above]) if above < len(clean) else -inf


def tpr_at(clean_scores: Scores, attacked_scores: Scores, fpr: float) -> Rate:
    """How many attacked frames score strictly above `threshold_at(clean_scores, fpr)`; of none without clean scores.

    The interval is that of the attacked frames' count; what the threshold itself owes to chance is not in it.
    """
    if len(clean_scores) == 0:
        return rate(np.zeros(0, dtype=bool))
    return rate(np.asarray(attacked_scores > threshold_at(clean_scores, fpr)))


def roc_curve(clean: Scores, attacked: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true alarm rates (T,) from (0, 0) to (1, 1), a point a distinct score; ties are a slanted line.

    The area under the straight lines between the points is `auroc`. Raises ValueError where either side is empty.
    """
    if len(clean) == 0 or len(attacked) == 0:
        raise ValueError(f"expected clean and attacked scores, got {len(clean)} and {len(attacked)}")
    thresholds = np.unique(np.concatenate([clean, attacked]))[::-1]
    shares = []
    for scores in (clean, attacked):
        above = len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
        shares.append(np.concatenate([[0.0], above / len(scores)]))
    return shares[0], shares[1]


def worst_per_input(
    sources: Sequence[NDArray[np.int64]], scores: Sequence[Scores]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For every image that an attack was counted on, the lowest score that any attack got with it.

    Entry k of both: source image and score of the k-th attack's frames that fool the original. Returns the images
    (sorted, each once) and their lowest scores: what an attacker gets who tries every attack on each image.
    """
    images = np.concatenate([np.zeros(0, dtype=np.int64), *sources])
    values = np.concatenate([np.zeros(0), *(np.asarray(each, dtype=np.float64) for each in scores)])
    kept, place = np.unique(images, return_inverse=True)
    lowest = np.full(len(kept), inf)
    np.minimum.at(lowest, place, values)
    return kept, lowest


def _placements(below: Scores, of: Scores) -> NDArray[np.float64]:
    """For each of `of`, the share of `below` that lies below it, ties half."""
    ordered = np.sort(below)
    less = np.searchsorted(ordered, of, side="left")
    tied = np.searchsorted(ordered, of, side="right") - less
    return (less + 0.5 * tied) / len(below)


def _expit(logit: float) -> float:
    return 1 / (1 + exp(-min(max(logit, -700.0), 700.0)))


def _newcombe(area: float, n: int, m: int) -> tuple[float, float]:
    """Where |area - t| = Z sqrt(V(t)), V of Hanley and McNeil with (n + m) / 2 - 1 on both sides, by bisection."""

    def outside(t: float) -> bool:
        spread = 1 + ((n + m) / 2 - 1) * ((1 - t) / (2 - t) + t / (1 + t))
        return abs(area - t) > Z * sqrt(max(t * (1 - t), 0.0) * spread / (n * m))

    def edge(end: float) -> float:
        far, near = end, area
        for _ in range(60):
            middle = (far + near) / 2
            far, near = (middle, near) if outside(middle) else (far, middle)
        return near

    return (0.0 if area == 0 else edge(0.0)), (1.0 if area == 1 else edge(1.0))


def mean(values: NDArray[Any]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if len(values) else None


def mean_of(values: NDArray[Any], least: float = 0.0, most: float = inf) -> Mean:
    """The mean with its interval and its n; the interval stays within `least` and `most`, as the values do."""
    n = len(values)
    if n < 2:
        return Mean(value=mean(values), low=None, high=None, count=n)
    middle, half = float(np.mean(values)), Z * float(np.std(values, ddof=1)) / sqrt(n)
    return Mean(value=middle, low=max(least, middle - half), high=min(most, middle + half), count=n)


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
