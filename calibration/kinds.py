"""Mixed pools: members of several kinds are asked by turns, and the kind that doubts most is believed.

Whoever fools the members of one kind has still to fool the others: the mean over all members would drown the few that
were not fooled. So the evidence of a frame is the largest of the kinds' means.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import KINDS, Kind

__all__ = ["Kinds", "by_turns", "kinds_of", "levels", "orders", "turns"]

Kinds = tuple[Kind, ...]  # of the members (M,)


def kinds_of(kinds: Sequence[Kind | None]) -> Kinds | None:
    """The members' kinds where there are several, else None: then they count for nothing.

    Members without a kind were made by the papers' recipe: they are plain.
    """
    known = tuple(kind or "plain" for kind in kinds)
    return known if len(set(known)) > 1 else None


def turns(kinds: Kinds) -> Kinds:
    """The kinds (M,) in the order in which they are asked: one of each first, the hardest to fool before the others,
    then as evenly as their numbers allow.

    >>> turns(("plain", "plain", "plain", "robust"))
    ('robust', 'plain', 'plain', 'plain')
    >>> turns(("hardened", "robust", "robust", "hardened"))
    ('robust', 'hardened', 'robust', 'hardened')
    """
    counts = {kind: kinds.count(kind) for kind in kinds}
    places = [(i / count, -KINDS.index(kind), kind) for kind, count in counts.items() for i in range(count)]
    return tuple(kind for *_, kind in sorted(places))


def by_turns(kinds: Kinds) -> tuple[int, ...]:
    """The members, by index, kinds by turns; those of one kind stay in their order.

    >>> by_turns(("hardened", "robust", "robust", "hardened"))
    (1, 0, 2, 3)
    """
    waiting = {kind: iter([i for i, own in enumerate(kinds) if own == kind]) for kind in kinds}
    return tuple(next(waiting[kind]) for kind in turns(kinds))


def orders(members: int, kinds: Kinds | None, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random orders (rows, M) of the members, by index: any one, or kind by kind as `turns` has it."""
    if kinds is None:
        return rng.permuted(np.broadcast_to(np.arange(members), (rows, members)), axis=1)
    drawn, places = np.empty((rows, members), dtype=np.int64), np.array(turns(kinds))
    for kind in dict.fromkeys(turns(kinds)):
        own = np.flatnonzero(np.array(kinds) == kind)
        drawn[:, places == kind] = rng.permuted(np.broadcast_to(own, (rows, len(own))), axis=1)
    return drawn


def levels(evidence: NDArray[np.float64], kinds: Kinds | None) -> NDArray[np.float64]:
    """What graded evidence (N, M) comes to after each member, column k and `kinds` (M,) those of the k-th asked: the
    mean so far, in a mixed pool the largest of the kinds' means. One sum after another: same numbers, same bits.

    >>> levels(np.array([[0.8, 0.2, 0.4]]), ("robust", "hardened", "robust")).round(2)
    array([[0.8, 0.8, 0.6]])
    """
    members = evidence.shape[1]
    if kinds is None:
        means: NDArray[np.float64] = evidence.cumsum(axis=1) / np.arange(1, members + 1)
        return means
    each = []
    for kind in set(kinds[:members]):
        own = np.array(kinds[:members]) == kind
        each.append(np.where(own, evidence, 0.0).cumsum(axis=1) / np.maximum(1, own.cumsum()))
    largest: NDArray[np.float64] = np.max(each, axis=0)
    return largest
