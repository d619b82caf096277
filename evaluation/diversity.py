"""How different the members' votes are: a pool of 32 copies of one vote is worth one member."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Diversity", "diversity", "pair_correlations"]


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Of the label changes on one set of frames.

    `correlation`: mean over all pairs of members, of their changes on the same frames (1: copies, 0: unrelated; None
    where no two members ever differ from a constant). `effective_votes`: how many unrelated members would scatter the
    label change rate as much as these do, M sum(Var_i) / Var(sum_i) (Kish 1965, the design effect); None where the
    rate is the same on every frame. Frames of unlike difficulty alone make votes alike: compare pools on the same
    frames, and attacks rather than a mixture of clean and attacked frames.
    """

    correlation: float | None
    effective_votes: float | None


def diversity(changed: NDArray[np.bool_]) -> Diversity:
    """From label changes (N, M).

    >>> copies = np.array([[1, 1], [0, 0], [1, 1], [0, 0]], dtype=bool)
    >>> diversity(copies)
    Diversity(correlation=1.0, effective_votes=1.0)
    >>> unrelated = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=bool)
    >>> diversity(unrelated)
    Diversity(correlation=0.0, effective_votes=2.0)
    """
    votes = changed.astype(np.float64)
    pairs = pair_correlations(changed)
    together = float(votes.sum(axis=1).var()) if len(votes) else 0.0
    effective = float(votes.shape[1] * votes.var(axis=0).sum() / together) if together > 0 else None
    return Diversity(correlation=float(pairs.mean()) if len(pairs) else None, effective_votes=effective)


def pair_correlations(changed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The correlation of the label changes (N, M) of every pair of members that both change some, but not all, labels.

    >>> pair_correlations(np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1]], dtype=bool)).round(2)
    array([0.5])
    """
    varied = changed[:, changed.any(axis=0) & ~changed.all(axis=0)].astype(np.float64)
    if varied.shape[1] < 2:
        return np.zeros(0)
    pairs: NDArray[np.float64] = np.asarray(np.corrcoef(varied, rowvar=False))[np.triu_indices(varied.shape[1], k=1)]
    return pairs
