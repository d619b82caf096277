"""Confidence bounds of a rate counted in independent trials."""

from math import ceil, log

from pdtool.extras import require

__all__ = ["images_needed", "upper_bound"]


def upper_bound(events: int, trials: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound of a rate (Clopper and Pearson 1934); 1 where there are no trials.

    >>> round(upper_bound(0, 59, 0.95), 4)
    0.0495
    """
    if not 0 <= events <= trials:
        raise ValueError(f"expected 0 <= events <= trials, got {events} of {trials}")
    if events == trials:
        return 1.0
    beta = require("scipy.stats", "bound the false-alarm rate").beta
    return float(beta.ppf(confidence, events + 1, trials - events))


def images_needed(rate: float, target: float, confidence: float, largest: int = 10_000_000) -> int | None:
    """Fewest clean check images at which a test that flags the share `rate` of them gets its bound under `target`.

    None where no number within `largest` suffices (rate at or above the target).

    >>> images_needed(0.0, 0.05, 0.95)
    59
    """
    if rate >= target:
        return None
    low, high = 1, max(2, ceil(log(1 - confidence) / log(1 - target)))

    def enough(n: int) -> bool:
        return upper_bound(ceil(rate * n), n, confidence) <= target

    while not enough(high):
        low, high = high, high * 2
        if high > largest:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
