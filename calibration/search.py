"""Which of Wald's tests to calibrate when the user fixes none: the cheapest of the sharpest, level by level."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import AtCap
from pdtool.calibration.exact import operating
from pdtool.calibration.table import DecisionTable, replay
from pdtool.calibration.wald import compile_wald

__all__ = ["Candidate", "search_candidates"]

P0 = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
P1 = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
STRICTEST = (0.97, 0.999)  # flags only what every member calls changed, clears at the first that does not
LEVELS = 25  # false-alarm levels between 0 and the target
# What is assumed of attacked frames, since none are at hand: the chance that a member changes their label is spread
# evenly over 0.3 to 1. An assumption, not a measurement: attacks that change fewer labels are flagged less often.
ATTACKED = np.linspace(0.3, 1.0, 15)
NEARLY = 0.02  # power given up for fewer models


@dataclass(frozen=True)
class Candidate:
    """A test that might be calibrated: its hypotheses and its table."""

    p0: float
    p1: float
    table: DecisionTable


def search_candidates(
    changed: NDArray[np.bool_], *, target_fpr: float, alpha: float, beta: float, max_models: int, at_cap: AtCap
) -> list[Candidate]:
    """Tests ordered from few false alarms on clean votes (N, M) to the target's share of them.

    At each level: of the tests (a grid of p0 < p1) that flag at most that share of these clean images, those whose
    chance to flag attacked frames (`ATTACKED`, exact) is within 0.02 of the best, and of those the one that asks
    fewest models. The first entry is `STRICTEST`, whatever it flags.
    """
    candidates = [
        Candidate(p0, p1, compile_wald(p0, p1, alpha, beta, max_models, at_cap)) for p0 in P0 for p1 in P1 if p0 < p1
    ]
    distinct = list({candidate.table: candidate for candidate in candidates}.values())
    replays = [replay(candidate.table, changed) for candidate in distinct]
    fpr = np.array([flagged.mean() for flagged, _ in replays])
    models = np.array([used.mean() for _, used in replays])
    power = np.array([operating(candidate.table, ATTACKED).flag.mean() for candidate in distinct])
    chosen = [Candidate(*STRICTEST, compile_wald(*STRICTEST, alpha, beta, max_models, at_cap))]
    for level in target_fpr * np.arange(LEVELS + 1) / LEVELS:
        kept = np.flatnonzero(fpr <= level)
        if len(kept):
            kept = kept[power[kept] >= power[kept].max() - NEARLY]
            best = distinct[kept[np.argmin(models[kept])]]
            if best not in chosen:
                chosen.append(best)
    return chosen
