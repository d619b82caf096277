"""Wald's sequential probability ratio test, compiled to a decision table.

For a frame x let p(x) be the chance that a member drawn from the pool changes its label. Clean: p <= p0,
adversarial: p >= p1, 0 < p0 < p1 < 1. After n members with z changes, in nats,

    L(n, z) = z ln(p1/p0) + (n - z) ln((1 - p1)/(1 - p0)),   A = ln((1 - beta)/alpha),   B = ln(beta/(1 - alpha)):

L >= A flags, L <= B clears, otherwise the next member is asked, after every member (Wald 1945; the papers' eq. 13 to 15
and Algorithm 1 print the ratio without its logarithm, the hypotheses swapped and a loop that never runs).
"""

from math import log

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.table import DecisionTable
from pdtool.decisions import AtCap
from pdtool.errors import UsageError

__all__ = ["check_hypotheses", "compile_wald", "log_ratio"]


def log_ratio(n: int, z: NDArray[np.int64] | int, p0: float, p1: float) -> NDArray[np.float64]:
    """L(n, z) in nats for one or many counts z of n votes; rises with z.

    >>> log_ratio(2, np.arange(3), 0.1, 0.5).round(4).tolist()
    [-1.1756, 1.0217, 3.2189]
    """
    changed = np.asarray(z)
    return changed * log(p1 / p0) + (n - changed) * log((1 - p1) / (1 - p0))


def check_hypotheses(p0: float, p1: float, alpha: float, beta: float, max_models: int) -> None:
    """Raise UsageError unless 0 < p0 < p1 < 1, alpha and beta lie in (0, 0.5) and max_models >= 1."""
    if not 0 < p0 < p1 < 1:
        raise UsageError(f"expected 0 < p0 < p1 < 1, got p0 = {p0}, p1 = {p1}")
    if not (0 < alpha < 0.5 and 0 < beta < 0.5):
        raise UsageError(f"expected alpha and beta between 0 and 0.5, got {alpha} and {beta}")
    if max_models < 1:
        raise UsageError(f"expected at least 1 model, got {max_models}")


def compile_wald(p0: float, p1: float, alpha: float, beta: float, max_models: int, at_cap: AtCap) -> DecisionTable:
    """The test's integer table for at most `max_models` members.

    Where the last member leaves a frame undecided, `at_cap` decides: "adversarial", "clean", or "threshold" (the
    likelier hypothesis: flag where L >= 0). Raises UsageError as `check_hypotheses` does.

    >>> table = compile_wald(0.1, 0.5, 0.05, 0.05, 8, "threshold")
    >>> table.flag_at
    (None, 2, 3, 3, 3, 3, 4, 3)
    >>> table.clear_at
    (None, None, None, None, None, 0, 0, 2)
    """
    check_hypotheses(p0, p1, alpha, beta, max_models)
    upper, lower = log((1 - beta) / alpha), log(beta / (1 - alpha))
    flag_at: list[int | None] = []
    clear_at: list[int | None] = []
    for n in range(1, max_models + 1):
        ratios = log_ratio(n, np.arange(n + 1), p0, p1)
        flags, clears = np.flatnonzero(ratios >= upper), np.flatnonzero(ratios <= lower)
        flag_at.append(int(flags[0]) if len(flags) else None)
        clear_at.append(int(clears[-1]) if len(clears) else None)
    last_flag, last_clear = flag_at[-1], clear_at[-1]
    if at_cap == "clean":
        last_clear = max_models if last_flag is None else last_flag - 1
    elif at_cap == "adversarial":
        last_flag = 0 if last_clear is None else last_clear + 1
    else:
        likelier = np.flatnonzero(ratios >= 0)
        last_flag = int(likelier[0]) if len(likelier) else None
        last_clear = max_models if last_flag is None else last_flag - 1
    flag_at[-1] = last_flag
    clear_at[-1] = None if last_clear == -1 else last_clear
    return DecisionTable(tuple(flag_at), tuple(clear_at))
