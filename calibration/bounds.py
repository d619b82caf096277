"""Upper confidence bounds of a rate: counted in independent frames, or in sources whose frames hang together."""

from math import ceil, exp, log, log1p

import numpy as np
from numpy.typing import NDArray

from pdtool.extras import require

__all__ = ["longest", "rate_bound", "reachable", "source_bound", "sources_needed", "upper_bound"]

PURPOSE = "bound the false-alarm rate"


def rate_bound(events: NDArray[np.bool_], groups: NDArray[np.int64], confidence: float) -> float:
    """One-sided upper bound of the rate of events (N,) in frames of which those of a group (N,) share a source.

    Neighbouring frames of a track or a video are no independent trials. Where every frame is its own source the
    bound is Clopper and Pearson's; otherwise `source_bound` of the events a source, as shares of the frames of the
    longest one: so it is a bound of the rate of frames, whatever the sources' lengths, and dear where one is far longer
    than the others.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if (sizes == 1).all():
        return upper_bound(int(events.sum()), len(events), confidence)
    shares = np.bincount(inverse, weights=events) / sizes.max()
    return min(1.0, source_bound(float(shares.mean()), len(sizes), confidence) * longest(groups))


def longest(groups: NDArray[np.int64]) -> float:
    """Frames of the longest source, in those of the mean one."""
    _, sizes = np.unique(groups, return_counts=True)
    return float(sizes.max() / sizes.mean())


def upper_bound(events: int, trials: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound of a rate (Clopper and Pearson 1934); 1 where there are no trials.

    >>> round(upper_bound(0, 59, 0.95), 4)
    0.0495
    """
    if not 0 <= events <= trials:
        raise ValueError(f"expected 0 <= events <= trials, got {events} of {trials}")
    if events == trials:
        return 1.0
    beta = require("scipy.stats", PURPOSE).beta
    return float(beta.ppf(confidence, events + 1, trials - events))


def source_bound(mean: float, sources: int, confidence: float) -> float:
    """One-sided upper bound of the expectation of numbers in [0, 1], given the mean of so many independent ones.

    Hoeffding's and Bentkus' inequalities, whichever is sharper (Bates et al. 2021, Distribution-free risk-controlling
    prediction sets, section 3.1).

    >>> round(source_bound(0.0, 59, 0.95), 4), round(source_bound(0.01, 59, 0.95), 4)
    (0.0495, 0.0789)
    """
    binomial = require("scipy.stats", PURPOSE).binom

    def p_value(rate: float) -> float:
        """At most how likely a mean this small is where the expectation is `rate`."""
        if rate >= 1:
            return 1.0  # where the search ends for a mean just below 1
        distance = (1 - mean) * log((1 - mean) / (1 - rate)) if mean < 1 else 0.0
        distance += mean * log(mean / rate) if mean > 0 else 0.0
        return min(exp(-sources * distance), exp(1) * float(binomial.cdf(ceil(sources * mean), sources, rate)))

    low, high = mean, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) > 1 - confidence else (low, middle)
    return high


def reachable(target: float, groups: NDArray[np.int64], confidence: float) -> float:
    """The largest rate measured on frames of these sources (N,) whose bound (`rate_bound`) stays within `target`.

    0 where even no event at all would not do.

    >>> reachable(0.05, np.arange(59), 0.95), round(reachable(0.2, np.arange(530) // 10, 0.95), 3)
    (0.0, 0.079)
    """
    frames, sources, scale = len(groups), len(np.unique(groups)), longest(groups)
    if sources == frames:
        enough = [k for k in range(frames + 1) if k / frames <= target and upper_bound(k, frames, confidence) <= target]
        return max(enough, default=0) / frames
    low, high = 0.0, min(1.0, target / scale)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if source_bound(middle, sources, confidence) * scale <= target else (low, middle)
    return low * scale


def sources_needed(
    rate: float, target: float, confidence: float, *, single: bool = True, largest: int = 10_000_000
) -> int | None:
    """Fewest independent sources at which a test that flags the share `rate` gets its bound under `target`.

    `single`: every source is one frame. None where no number within `largest` suffices (rate at or above target).

    >>> sources_needed(0.0, 0.05, 0.95)
    59
    """
    if rate >= target:
        return None

    def enough(n: int) -> bool:
        bound = upper_bound(ceil(rate * n), n, confidence) if single else source_bound(rate, n, confidence)
        return bound <= target

    low, high = 1, max(2, ceil(log1p(-confidence) / log1p(-target)))
    while not enough(high):
        low, high = high, high * 2
        if high > largest:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
