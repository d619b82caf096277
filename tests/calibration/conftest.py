"""Shared by the tests of the sequential test: every table there is, and frames whose members change labels."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pdtool.calibration.evidence import Evidence

Tables = tuple[NDArray[np.int64], NDArray[np.int64]]


@pytest.fixture(scope="session")
def every_table() -> Callable[[int], Tables]:
    """Every table for so many members as first flagging and last clearing counts (T, N), each behaviour once."""

    def make(members: int) -> Tables:
        flag, clear = np.empty((1, 0), dtype=np.int64), np.empty((1, 0), dtype=np.int64)
        low, high = np.zeros((2, 1), dtype=np.int64)  # counts that are still undecided
        done: list[Tables] = []
        for n in range(1, members + 1):
            high = high + 1
            first, last = (each.ravel() for each in np.meshgrid(np.arange(n + 2), np.arange(-1, n + 1), indexing="ij"))
            possible = last == first - 1 if n == members else last < first
            first, last = first[possible], last[possible]
            differ = (last >= low[:, None] - 1) & (first >= low[:, None]) & (first <= high[:, None] + 1)
            row, choice = np.nonzero(differ & (last <= high[:, None]))
            flag, clear = (np.column_stack([sofar[row], new[choice]]) for sofar, new in ((flag, first), (clear, last)))
            low, high = np.maximum(low[row], last[choice] + 1), np.minimum(high[row], first[choice] - 1)
            decided = low > high  # all counts: what follows is never reached
            rest = np.tile(np.arange(n + 1, members + 1), (decided.sum(), 1))
            done.append((np.hstack([flag[decided], rest + 1]), np.hstack([clear[decided], rest])))
            flag, clear, low, high = flag[~decided], clear[~decided], low[~decided], high[~decided]
        return np.concatenate([pair[0] for pair in done]), np.concatenate([pair[1] for pair in done])

    return make


@pytest.fixture(scope="session")
def votes() -> Callable[..., Evidence]:
    """Evidence of frames whose members change their label with chance p (F,); `bias` (M,) makes members differ.

    A member changes the label where a hidden number, the frame's plus its own noise, lies above 0; the graded evidence
    rises with it, so that label change and graded evidence belong together as those of real members do.
    """

    def make(p: NDArray[np.float64], members: int, rng: np.random.Generator, bias: object = 0.0) -> Evidence:
        from scipy.special import expit, ndtri

        hidden = ndtri(np.clip(p, 1e-9, 1 - 1e-9))[:, None] + rng.standard_normal((len(p), members)) + bias
        return Evidence(hidden > 0, expit(2 * hidden))

    return make
