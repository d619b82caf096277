"""How often members change the label of a frame, p(x), over all frames: a distribution, never one number.

Given p, votes are independent; over frames they are not: z changes among n say much about the next vote. A
`Population` holds the two things that a test needs: the chance of every (n, z), and of the next change after it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.extras import require

__all__ = ["ASSUMED", "Latent", "Population", "estimate", "population"]

STEPS = 100  # of the EM iteration: from a flat start, few steps keep the estimate smooth (more fit the noise)
GRID = np.concatenate([[0.0, 0.001, 0.0025, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.9975, 0.999, 1.0]])


@dataclass(frozen=True)
class Latent:
    """A discrete distribution of p(x): support p (J,) in [0, 1], weights (J,) that sum to 1."""

    p: NDArray[np.float64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.p.shape != self.weights.shape or not ((self.p >= 0) & (self.p <= 1)).all():
            raise ValueError(f"expected chances in [0, 1] and a weight each, got {self.p}")
        if (self.weights < 0).any() or not np.isclose(self.weights.sum(), 1.0):
            raise ValueError(f"expected weights that sum to 1, got {self.weights}")

    @property
    def mean(self) -> float:
        """The expected label change rate."""
        return float(self.p @ self.weights)


# What is assumed of adversarial frames where none are at hand: the chance p that a member changes their label lies in
# 0.3 to 1 with a density that rises as p^2 (mean 0.78). An attack that fools the original and changes few members'
# labels is flagged less often than this promises. benchmarks/README.md shows what real attacks do.
_TRIED = np.linspace(0.3, 1.0, 15)
ASSUMED = Latent(_TRIED, _TRIED**2 / (_TRIED**2).sum())


@dataclass(frozen=True)
class Population:
    """Frames of one latent distribution, for up to N members asked of each.

    `log_weight[n]` (n + 1,): log chance of one given sequence of n votes with z changes (-inf: impossible);
    `change[n]` (n + 1,): chance that the next vote changes the label after z of n did (0 where impossible). n = 0..N,
    `change` to N - 1.
    """

    log_weight: tuple[NDArray[np.float64], ...]
    change: tuple[NDArray[np.float64], ...]


def estimate(changes: NDArray[np.int64], members: int) -> Latent:
    """The distribution of p(x) that makes the observed changes (N,) among `members` votes each most likely.

    Non-parametric maximum likelihood of a binomial mixture (Kiefer and Wolfowitz 1956) on a grid, by EM (Laird 1978).
    """
    special = require("scipy.special", "estimate how often members change labels")
    if len(changes) == 0 or not ((changes >= 0) & (changes <= members)).all():
        raise ValueError(f"expected at least one count of changes in 0..{members}")
    seen, frames = np.unique(changes, return_counts=True)
    log_chance = special.xlogy(seen[:, None], GRID) + special.xlog1py(members - seen[:, None], -GRID)
    chance = np.exp(log_chance - log_chance.max(axis=1, keepdims=True))  # scaling a row does not move the maximum
    weights = np.full(len(GRID), 1 / len(GRID))
    for _ in range(STEPS):
        share = chance * weights
        weights = frames @ (share / share.sum(axis=1, keepdims=True)) / frames.sum()
    kept = weights > 1e-9
    return Latent(GRID[kept], weights[kept] / weights[kept].sum())


def population(latent: Latent, members: int) -> Population:
    """The chances of all counts of up to `members` votes."""
    special = require("scipy.special", "estimate how often members change labels")
    with np.errstate(divide="ignore"):
        log_prior = np.log(latent.weights)
    log_weight = []
    for n in range(members + 1):
        z = np.arange(n + 1)[:, None]
        terms = log_prior + special.xlogy(z, latent.p) + special.xlog1py(n - z, -latent.p)
        log_weight.append(special.logsumexp(terms, axis=1))
    change = []
    for n in range(members):
        with np.errstate(invalid="ignore"):
            change.append(np.nan_to_num(np.exp(log_weight[n + 1][1:] - log_weight[n])))
    return Population(tuple(log_weight), tuple(change))
