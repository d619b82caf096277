"""Which of Wald's tests to calibrate when the user fixes none: the cheapest of the sharpest, level by level."""

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.exact import operating
from pdtool.calibration.latent import ASSUMED
from pdtool.calibration.table import DecisionTable, replay
from pdtool.calibration.wald import compile_wald
from pdtool.decisions import AtCap

__all__ = ["search_wald"]

P0 = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
P1 = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
STRICTEST = (0.97, 0.999)  # flags only what every member calls changed, clears at the first that does not
LEVELS = 25  # false-alarm levels between 0 and the target
NEARLY = 0.02  # power given up for fewer models


def search_wald(
    changed: NDArray[np.bool_], *, target_fpr: float, alpha: float, beta: float, max_models: int, at_cap: AtCap
) -> list[tuple[float, float, DecisionTable]]:
    """Tests (p0, p1, table) ordered from few false alarms on clean votes (N, M) to the target's share of them.

    At each level: of the tests (a grid of p0 < p1) that flag at most that share of these clean images, those whose
    chance to flag adversarial frames (`latent.ASSUMED`, exact) is within 0.02 of the best, and of those the one that
    asks fewest models. The first entry is `STRICTEST`, whatever it flags.
    """
    grid = [(p0, p1, compile_wald(p0, p1, alpha, beta, max_models, at_cap)) for p0 in P0 for p1 in P1 if p0 < p1]
    distinct = list({table: (p0, p1, table) for p0, p1, table in grid}.values())
    replays = [replay(table, changed) for *_, table in distinct]
    fpr = np.array([flagged.mean() for flagged, _ in replays])
    models = np.array([used.mean() for _, used in replays])
    power = np.array([operating(table, ASSUMED.p).over(ASSUMED.weights).flag[0] for *_, table in distinct])
    chosen = [(*STRICTEST, compile_wald(*STRICTEST, alpha, beta, max_models, at_cap))]
    for level in target_fpr * np.arange(LEVELS + 1) / LEVELS:
        kept = np.flatnonzero(fpr <= level)
        if len(kept):
            kept = kept[power[kept] >= power[kept].max() - NEARLY]
            best = distinct[kept[np.argmin(models[kept])]]
            if best not in chosen:
                chosen.append(best)
    return chosen
