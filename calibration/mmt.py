"""The `mmt` rule: what the published MMT program does, for comparison (Wang et al. 2019, model mutation testing).

Its code departs from Wald's test in three ways. It looks at its bounds only after a member that changed the label; it
computes the ratio before that change is counted (n includes the member, z does not); and a frame that exhausts the pool
is clean. With z counting it, a change flags where L(n, z - 1) >= A and clears where L(n, z - 1) <= B: a table in (n, z)
that is consulted after changes only.
"""

from math import log

import numpy as np

from pdtool.calibration.table import DecisionTable
from pdtool.calibration.wald import check_hypotheses, log_ratio

__all__ = ["compile_mmt"]


def compile_mmt(p0: float, p1: float, alpha: float, beta: float, max_models: int) -> DecisionTable:
    """The table for at most `max_models` members. Raises UsageError as `compile_wald` does.

    >>> compile_mmt(0.1, 0.5, 0.05, 0.05, 4)
    DecisionTable(flag_at=(None, None, None, 4), clear_at=(None, None, None, 3), after_change=True)
    """
    check_hypotheses(p0, p1, alpha, beta, max_models)
    upper, lower = log((1 - beta) / alpha), log(beta / (1 - alpha))
    flag_at: list[int | None] = []
    clear_at: list[int | None] = []
    for n in range(1, max_models + 1):
        stale = log_ratio(n, np.arange(n), p0, p1)  # of z = 1..n changes: the last one is not counted yet
        flags, clears = np.flatnonzero(stale >= upper), np.flatnonzero(stale <= lower)
        flag_at.append(int(flags[0]) + 1 if len(flags) else None)
        clear_at.append(int(clears[-1]) + 1 if len(clears) else None)
    last = flag_at[-1]
    clear_at[-1] = max_models if last is None else last - 1
    return DecisionTable(tuple(flag_at), tuple(clear_at), after_change=True)
