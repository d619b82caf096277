"""What a calibrated test does, worked out for its report: on its frames, in its sessions, beside the other rules."""

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.compare import Compared, compare, every_rule
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import parts
from pdtool.calibration.kinds import orders
from pdtool.calibration.latent import Latent, estimate, population
from pdtool.calibration.promise import split
from pdtool.calibration.response import Reach, Response, evidence_flagged, reach, respond, within
from pdtool.calibration.table import Table, replay, table_of
from pdtool.decisions import EvidenceKind
from pdtool.runtime.calibrate import Calibrated

__all__ = ["ORDERS", "Need", "Sessions", "Study", "study"]

ORDERS = 100  # sessions replayed
MIDDLE = 0.9  # of the sessions

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Need:
    """What it takes to be flagged after at most `within` members.

    `change_rate`: least label change rate at which 9 of 10 frames are; `mean_evidence`: least graded evidence that
    suffices where every member brings it. None where nothing does (label evidence has no `mean_evidence`). Then what
    the frames at hand come to: share of the adversarial ones flagged, and of the clean ones decided so early.
    """

    within: int
    change_rate: float | None
    mean_evidence: float | None
    adversarial_flagged: float
    clean_decided: float


@dataclass(frozen=True)
class Sessions:
    """The clean check frames in sessions (S,) that each ask all frames in one order of members.

    `fpr`: share of the frames flagged; `mean_models`: members asked.
    """

    fpr: Floats
    mean_models: Floats

    @property
    def middle(self) -> tuple[float, float]:
        """Between which false-alarm rates 90 % of the sessions lie."""
        low, high = np.quantile(self.fpr, [(1 - MIDDLE) / 2, (1 + MIDDLE) / 2])
        return float(low), float(high)


@dataclass(frozen=True)
class Study:
    """Everything a report shows beside the calibration itself.

    `clean`: all clean frames; `clean_used`: members that each check frame was asked; `adversarial`: the frames that
    the test was designed against, `adversarial_used` theirs. `expected` (M + 1,): share of clean frames with 0..M
    changes by the estimate from the fit part. `own`: name in `compared` of the calibration's own rule.
    """

    clean: Evidence
    clean_used: Counts
    adversarial: Evidence
    adversarial_used: Counts
    expected: Floats
    reach: Reach
    response: Response
    needs: tuple[Need, ...]
    sessions: Sessions
    compared: tuple[Compared, ...]
    own: str

    @property
    def most_models(self) -> int:
        """The most members that any frame is asked."""
        return len(self.reach.low)


def study(done: Calibrated, *, seed: int) -> Study:
    """Work it out. `seed` is the one that `done` was calibrated with; the same seed gives the same numbers.

    Raises ValueError where the seed splits the frames otherwise than the calibration did.
    """
    c, frames = done.calibration, done.frames
    fit, check = split(frames.groups, seed)
    if (len(fit), len(check)) != (c.fit_images, c.check_images):
        raise ValueError(f"seed {seed} does not split the frames as the calibration did")
    table, rng = table_of(c), np.random.default_rng(seed)
    clean, adversarial, shuffled = parts(frames, done.attacked, fit, check, rng)
    _, clean_used = replay(table, shuffled.of(c.evidence))
    flagged, used = replay(table, adversarial.of(c.evidence))
    response, rates = respond(table, clean, rng)
    compared, own = _compared(done, seed)
    return Study(
        clean=frames.evidence,
        clean_used=clean_used,
        adversarial=adversarial,
        adversarial_used=used,
        expected=_expected(estimate(clean.changed.sum(axis=1), clean.changed.shape[1]), clean.changed.shape[1]),
        reach=reach(table),
        response=response,
        needs=tuple(
            Need(
                within=n,
                change_rate=rates[n],
                mean_evidence=evidence_flagged(table, n),
                adversarial_flagged=float((flagged & (used <= n)).mean()),
                clean_decided=float((clean_used <= n).mean()),
            )
            for n in within(table)
        ),
        sessions=_sessions(table, frames.evidence.take(check), c.evidence, rng),
        compared=compared,
        own=own,
    )


def _expected(latent: Latent, members: int) -> Floats:
    """The share of frames with 0..members changes that a distribution of p(x) expects."""
    ways = np.array([float(comb(members, z)) for z in range(members + 1)])
    shares: Floats = ways * np.exp(population(latent, members).log_weight[members])
    return shares


def _sessions(table: Table, evidence: Evidence, kind: EvidenceKind, rng: np.random.Generator) -> Sessions:
    """Replay frames (N, M) under many orders of the members, each the same for all frames."""
    said = evidence.of(kind)
    runs = [replay(table, said[:, order]) for order in orders(said.shape[1], evidence.kinds, ORDERS, rng)]
    return Sessions(
        np.array([flagged.mean() for flagged, _ in runs]),
        np.array([used.mean() for _, used in runs]),
    )


def _compared(done: Calibrated, seed: int) -> tuple[tuple[Compared, ...], str]:
    """Every rule on the same votes, the calibration's own among them, and which one that is."""
    c, most = done.calibration, done.settings.max_models
    rows = compare(
        done.frames,
        max_models=most,
        target_fpr=c.target_fpr,
        confidence=c.confidence,
        seed=seed,
        attacked=done.attacked,
    )
    for name, settings in every_rule(most, margin=done.settings.margin).items():
        if settings == done.settings:
            return rows, name
    own = Compared(
        name=f"{c.rule}, as set here",
        evidence=c.evidence,
        realised_fpr=c.realised_fpr,
        fpr_upper=c.fpr_upper,
        kept=c.fpr_upper <= c.target_fpr,
        power=c.power,
        mean_models=c.expected_models_clean,
        p99_models=c.p99_models_clean,
    )
    return (own, *rows), own.name
