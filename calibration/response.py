"""How a test answers to frames: where they can get in it, and what becomes of those with a given label change rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import FEW, Evidence, moved, same_kind
from pdtool.calibration.exact import change_rate_flagged, operating
from pdtool.calibration.kinds import turns
from pdtool.calibration.table import DecisionTable, GradedTable, Table, replay

__all__ = ["WITHIN", "Reach", "Response", "evidence_flagged", "reach", "respond", "within"]

WITHIN = (4, 8, 16)  # members within which a frame may have to be flagged
SIMULATED = 1000  # frames a label change rate, where nothing exact is known
SHARE = 0.9  # of the frames with a label change rate: then that rate counts as flagged

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Reach:
    """Where undecided frames can get: after n = 1..N members, N the most that any frame is asked.

    Changes or mean evidence (N,) lie in low..high; those up to `clear_to` are cleared, those from `flag_from` on
    flagged, the others go on. Bounds of changes lie half a change beside them, so that each count is inside a region.
    """

    low: Floats
    clear_to: Floats
    flag_from: Floats
    high: Floats


@dataclass(frozen=True)
class Response:
    """What happens to frames whose members change the label with chance p (P,), one independently of the other.

    `flag`: share flagged; `mean_models`, `p99_models`: members asked. `frames`: how many were simulated for each p;
    None: exact.
    """

    p: Floats
    flag: Floats
    mean_models: Floats
    p99_models: Counts
    frames: int | None


def reach(table: Table) -> Reach:
    """Where undecided frames can get under a table.

    >>> reach(DecisionTable(flag_at=(None, 2), clear_at=(0, 1)))
    Reach(low=array([-0.5,  0.5]), clear_to=array([0.5, 1.5]), flag_from=array([1.5, 1.5]), high=array([1.5, 2.5]))
    """
    columns = _count_columns(table) if isinstance(table, DecisionTable) else _mean_columns(table)
    return Reach(*np.array(columns, dtype=np.float64).T)


def _count_columns(table: DecisionTable) -> list[tuple[float, float, float, float]]:
    columns = []
    low = high = 0  # of the changes of frames that are undecided
    for n, (flag, clear) in enumerate(zip(table.flag_at, table.clear_at, strict=True), start=1):
        first, last = n + 1 if flag is None else flag, -1 if clear is None else clear
        bounds = low - 0.5, high + 1.5
        columns.append((bounds[0], *np.clip([last + 0.5, first - 0.5], *bounds), bounds[1]))
        if table.after_change:  # who did not change the label leaves the frame undecided, whatever the count
            high = max(high, min(high + 1, first - 1))
            continue
        low, high = max(low, last + 1), min(high + 1, first - 1)
        if low > high:
            break
    return columns


def _mean_columns(table: Table) -> list[tuple[float, float, float, float]]:
    assert isinstance(table, GradedTable)
    columns = []
    low = high = 0.0  # of the mean evidence of frames that are undecided
    for n, (flag, clear) in enumerate(zip(table.flag_above, table.clear_below, strict=True), start=1):
        # members of its kind with this one: where it is the first of a mixed pool's kind, it leaves the others' means
        own = n if table.kinds is None else table.kinds[:n].count(table.kinds[n - 1])
        least = low if own == 1 and n > 1 else low * (own - 1) / own
        most = (high * (own - 1) + 1) / own
        low, high = least if clear is None else max(clear, least), most if flag is None else min(flag, most)
        columns.append((least, *np.clip([low, high], least, most), most))
        if high < low or (clear is not None and clear >= high):
            break
    return columns


def respond(table: Table, clean: Evidence, rng: np.random.Generator) -> tuple[Response, dict[int, float | None]]:
    """The response to p, and the least p at which 9 of 10 frames are flagged within n members, for each n of `within`.

    Exact for label changes; for graded evidence from frames made of the clean ones.
    """
    return _exact(table) if isinstance(table, DecisionTable) else _simulated(table, clean, rng)


def _exact(table: DecisionTable) -> tuple[Response, dict[int, float | None]]:
    known = operating(table, np.linspace(0, 1, 201))
    rates = {n: change_rate_flagged(table, n, SHARE) for n in within(table)}
    return Response(known.p, known.flag, known.mean_models, known.models(0.99), None), rates


def _simulated(table: Table, clean: Evidence, rng: np.random.Generator) -> tuple[Response, dict[int, float | None]]:
    """From simulated frames, made much as `evidence.assumed` makes those it assumes, but for every p.

    Each member changes the label with chance p, and brings the graded evidence of a random clean vote that did (or did
    not) change it, on a clean frame with about as many changes; what the original's margin adds is a random clean
    frame's. The same random numbers serve every p, so that the curves are smooth.
    """
    members = clean.changed.shape[1]
    said, alike = clean.plain(), same_kind(clean.kinds and turns(clean.kinds), clean.kinds, members)
    did = [[_votes(clean, said, clean.changed & own, z, 0.5) for z in range(members + 1)] for _, own in alike]
    did_not = [[_votes(clean, said, ~clean.changed & own, z, 0.0) for z in range(members + 1)] for _, own in alike]
    chance, pick = rng.random((2, SIMULATED, members))
    shift = None if clean.shift is None else rng.choice(clean.shift, size=SIMULATED)
    p = np.linspace(0, 1, 101)
    flagged, used = np.zeros((len(p), SIMULATED), dtype=bool), np.zeros((len(p), SIMULATED), dtype=np.int64)
    for i, each in enumerate(p):
        changed = chance < each
        changes = changed.sum(axis=1)
        evidence = np.empty(changed.shape)
        for z in np.unique(changes):
            for kind, (asked, _) in enumerate(alike):
                here = np.ix_(changes == z, asked)
                one, other = (
                    votes[kind][z][(pick[here] * len(votes[kind][z])).astype(np.int64)] for votes in (did, did_not)
                )
                evidence[here] = np.where(changed[here], one, other)
        flagged[i], used[i] = replay(table, evidence if shift is None else moved(evidence, shift))
    p99 = np.quantile(used, 0.99, axis=1, method="higher").astype(np.int64)
    rates: dict[int, float | None] = {}
    for n in within(table):
        enough = (flagged & (used <= n)).mean(axis=1) >= SHARE
        rates[n] = float(p[enough.argmax()]) if enough.any() else None
    return Response(p, flagged.mean(axis=1), used.mean(axis=1), p99, SIMULATED), rates


def _votes(clean: Evidence, said: Floats, wanted: Flags, changes: int, low: float) -> Floats:
    """The evidence `said` (N, M) by the wanted votes, in rising order, on frames whose changes are nearest to a number.

    At least 20 votes; where there are fewer in all, numbers spread evenly from `low` over a half.
    """
    frame, _ = np.nonzero(wanted)
    if len(frame) < FEW:
        return np.linspace(low, low + 0.5, FEW)
    far = np.abs(clean.changed.sum(axis=1) - changes)[frame]
    near: Floats = np.sort(said[wanted][far <= np.partition(far, FEW - 1)[FEW - 1]])
    return near


def within(table: Table) -> list[int]:
    """The numbers of members asked about: the usual ones that a frame can reach, and the most."""
    most = len(reach(table).low)
    return sorted({most, *(n for n in WITHIN if n < most)})


def evidence_flagged(table: Table, most: int) -> float | None:
    """The least graded evidence that flags after at most so many members, and so does all above it, where every member
    brings as much; None where none does, and for label changes."""
    if isinstance(table, DecisionTable):
        return None
    tried = np.linspace(0, 1, 1001)
    flagged, used = replay(table, np.repeat(tried[:, None], table.max_models, axis=1))
    missed = np.flatnonzero(~flagged | (used > most))
    if len(missed) == 0:
        return 0.0
    return None if missed[-1] + 1 == len(tried) else float(tried[missed[-1] + 1])
