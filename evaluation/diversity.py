"""How different the members' votes are: a pool of 32 copies of one vote is worth one member."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Diversity", "diversity"]


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
    members = votes.shape[1]
    varied = votes[:, votes.any(axis=0) & ~votes.all(axis=0)] if len(votes) else votes[:, :0]
    correlation = None
    if varied.shape[1] > 1:
        pairs = np.asarray(np.corrcoef(varied, rowvar=False))[np.triu_indices(varied.shape[1], k=1)]
        correlation = float(pairs.mean())
    together = float(votes.sum(axis=1).var()) if len(votes) else 0.0
    effective = float(members * votes.var(axis=0).sum() / together) if together > 0 else None
    return Diversity(correlation=correlation, effective_votes=effective)
