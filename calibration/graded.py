"""The `optimal` rule for graded evidence: bounds on the running mean, by the same backward induction over its bins.

The members' evidence on one frame hangs together, so nothing is multiplied as if it were independent: the chance of
going from one bin to the next is counted on whole paths, members asked one after another on real clean frames, and on
adversarial ones. The mean stands for the path; what that loses costs members, not the promise, which is tested on
other clean frames. In a mixed pool the running mean is the largest of the kinds' means, and no frame is cleared before
a member of every kind was asked: who fools one kind must not be cleared by it alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import Evidence
from pdtool.calibration.induction import States, induct
from pdtool.calibration.kinds import levels, orders, turns
from pdtool.calibration.optimal import NEARLY, USELESS, costs
from pdtool.calibration.table import GradedTable
from pdtool.extras import require

__all__ = ["graded_sequence"]

PATHS = 12_000  # of either kind
POINTS = 28  # costs a side
Floats = NDArray[np.float64]
# Where the bins lie: quantiles of the mean evidence, dense where clean frames are rare and where adversarial ones are.
CLEAN_AT = np.concatenate([np.linspace(0.05, 0.95, 19), 1 - np.geomspace(0.001, 0.04, 14)])
ADVERSARIAL_AT = np.concatenate([np.geomspace(0.001, 0.04, 8), np.linspace(0.05, 0.95, 19)])


@dataclass(frozen=True)
class _Chain:
    """Bins of the running mean after n = 1..N members: edges, and how either kind of frames moves through them.

    `start` (2, K) and `moves[n - 1]` (2, K, K'): chances of the first bin, and from a bin after n to one after n + 1.
    """

    edges: tuple[Floats, ...]
    start: Floats
    moves: tuple[Floats, ...]
    states: States


def graded_sequence(
    clean: Evidence,
    adversarial: Evidence,
    members: int,
    rates: Sequence[float],
    rng: np.random.Generator,
    *,
    mean_models: float | None = None,
) -> Iterator[GradedTable]:
    """The cheapest bounds at each rate of false alarms, as `optimal.sequence`, from graded evidence of both."""
    kinds = None if clean.kinds is None else turns(clean.kinds)[:members]
    chain = _chain(_paths(clean, members, rng), _paths(adversarial, members, rng))
    flag, clear = induct(chain.states, *costs(POINTS), clears_from=1 if kinds is None else len(set(kinds)))
    fpr, models = _rates(chain, flag, clear, 0)
    power, _ = _rates(chain, flag, clear, 1)
    last = None
    for rate in rates:
        allowed = fpr <= rate
        if mean_models is not None:
            allowed &= models <= mean_models
        if not allowed.any():
            continue
        sharpest = float(power[allowed].max())
        if sharpest < USELESS:
            continue
        enough = sharpest - (NEARLY if mean_models is None else 0.0)
        kept = np.flatnonzero(allowed & (power >= enough))
        best = int(kept[models[kept].argmin()])
        if best != last:
            yield replace(_table(chain, flag[best], clear[best]), kinds=kinds)
            last = best


def _paths(evidence: Evidence, members: int, rng: np.random.Generator) -> Floats:
    """Running means (P, members) of frames (F, M), members in ever new orders."""
    repeated = np.repeat(evidence.known(), -(-PATHS // len(evidence)), axis=0)
    order = orders(repeated.shape[1], evidence.kinds, len(repeated), rng)[:, :members]
    kinds = None if evidence.kinds is None else turns(evidence.kinds)
    return levels(np.take_along_axis(repeated, order, axis=1), kinds)


def _chain(clean: Floats, adversarial: Floats) -> _Chain:
    """Count how both kinds of paths move through bins."""
    optimize = require("scipy.optimize", "design a sequential test")
    both = np.concatenate([clean, adversarial])
    share = np.concatenate([np.full(len(clean), 0.5 / len(clean)), np.full(len(adversarial), 0.5 / len(adversarial))])
    members = clean.shape[1]
    edges: list[Floats] = []
    bins: list[NDArray[np.int64]] = []
    weight: list[Floats] = []
    posterior: list[Floats] = []
    for n in range(members):
        quantiles = [np.quantile(clean[:, n], CLEAN_AT), np.quantile(adversarial[:, n], ADVERSARIAL_AT)]
        edges.append(np.unique(np.concatenate(quantiles)).astype(np.float64))
        # bin k holds edges[k - 1] < mean <= edges[k]
        bins.append(np.searchsorted(edges[-1], both[:, n], side="left").astype(np.int64))
        size = len(edges[-1]) + 1
        weight.append(np.bincount(bins[-1], weights=share, minlength=size).astype(np.float64))
        attacked = np.bincount(bins[-1][len(clean) :], weights=share[len(clean) :], minlength=size)
        ratio = np.divide(attacked, weight[-1], out=np.full(size, 0.5), where=weight[-1] > 0)
        rising = optimize.isotonic_regression(ratio, weights=weight[-1] + 1e-12)  # more evidence never speaks for clean
        posterior.append(rising.x)
    kinds = (slice(0, len(clean)), slice(len(clean), None))
    moves, mixed = [], []
    for n in range(members - 1):
        shape = (len(weight[n]), len(weight[n + 1]))
        counts = np.stack([_counts(bins[n][kind], bins[n + 1][kind], shape) / len(bins[n][kind]) for kind in kinds])
        moves.append(_normal(counts))
        mixed.append(_normal(counts.sum(axis=0)))
    start = np.stack([np.bincount(bins[0][k], minlength=len(weight[0])) / len(bins[0][k]) for k in kinds])

    def ahead(n: int, values: Floats) -> Floats:
        expected: Floats = values @ mixed[n - 1].T
        return expected

    return _Chain(tuple(edges), start, tuple(moves), States(tuple(weight), tuple(posterior), ahead))


def _counts(here: NDArray[np.int64], there: NDArray[np.int64], shape: tuple[int, int]) -> Floats:
    return np.bincount(here * shape[1] + there, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _normal(counts: Floats) -> Floats:
    """Rows that sum to 1 (to 0 where nothing was counted)."""
    total = counts.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return shares


def _rates(chain: _Chain, flag: NDArray[np.int64], clear: NDArray[np.int64], kind: int) -> tuple[Floats, Floats]:
    """Chance to be flagged and expected members (L,) of clean (0) or adversarial (1) frames under tables (L, N)."""
    undecided = np.broadcast_to(chain.start[kind], (len(flag), len(chain.start[kind])))
    flagged, models = np.zeros(len(flag)), np.zeros(len(flag))
    for n in range(flag.shape[1]):
        models = models + undecided.sum(axis=1)
        state = np.arange(undecided.shape[1])
        flags, clears = state >= flag[:, n : n + 1], state <= clear[:, n : n + 1]
        flagged = flagged + (undecided * flags).sum(axis=1)
        if n + 1 < flag.shape[1]:
            undecided = np.where(flags | clears, 0.0, undecided) @ chain.moves[n][kind]
    return flagged, models


def _table(chain: _Chain, flag: NDArray[np.int64], clear: NDArray[np.int64]) -> GradedTable:
    """Bins as bounds on the mean: first flagging and last clearing bin (N,)."""
    above: list[float | None] = []
    below: list[float | None] = []
    for edges, first, last in zip(chain.edges, flag, clear, strict=True):
        above.append(None if first > len(edges) else -1.0 if first == 0 else float(edges[first - 1]))
        below.append(None if last < 0 else 1.0 if last == len(edges) else float(edges[last]))
    if above[-1] is None:
        above[-1] = below[-1]
    below[-1] = above[-1]
    return GradedTable(tuple(above), tuple(below))
