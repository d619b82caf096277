"""The promise: the test is designed on one part of the clean frames and run, whole, on another."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.bounds import longest, rate_bound, sources_needed
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.rules import Candidate
from pdtool.calibration.table import replay
from pdtool.decisions import EvidenceKind
from pdtool.errors import GateError, UsageError

__all__ = ["FIT_SHARE", "Checked", "check_promise", "split", "walk"]

FIT_SHARE = 0.4  # of the sources; the bound is made of the others


@dataclass(frozen=True)
class Checked:
    """A test that was run on clean check frames (N,): which it flagged, how many members each needed, the bound."""

    candidate: Candidate
    flagged: NDArray[np.bool_]
    used: NDArray[np.int64]
    groups: NDArray[np.int64]
    upper: float

    @property
    def realised(self) -> float:
        """Share of the check frames flagged."""
        return float(self.flagged.mean())

    def miss(self, target: float, confidence: float) -> str:
        """Why the target is not met, and what would help."""
        images, sources = len(self.groups), len(np.unique(self.groups))
        scale = longest(self.groups)
        needed = sources_needed(self.realised / scale, target / scale, confidence, single=sources == images)
        what = "clean images" if sources == images else "tracks or stretches of video"
        cure = (
            f"at this rate about {ceil(needed / (1 - FIT_SHARE))} {what} in all would show it"
            if needed is not None
            else "at this rate more images cannot show it (designed on more, the test may flag fewer): raise "
            "--target-fpr, calibrate on more images or make a pool that changes fewer clean labels"
        )
        return (
            f"{self.realised:.2%} of {images} clean check images (from {sources} independent sources) were flagged, at "
            f"most {self.upper:.2%} with {100 * confidence:g} % confidence; the target is {target:.2%}; {cure}"
        )


def check_promise(target: float, confidence: float) -> None:
    """Raise UsageError for what no promise can be: a target outside (0, 1), a confidence outside [0.5, 1)."""
    if not 0 < target < 1:
        raise UsageError(f"expected --target-fpr between 0 and 1, got {target}")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"expected --confidence between 0.5 and 1, got {confidence}; 0.95 is usual")


def split(groups: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint parts of the images (indices), to fit and to check; a group (track, video) is on one side."""
    names = np.unique(groups)
    first = np.random.default_rng(seed).permutation(names)[: int(FIT_SHARE * len(names))]
    inside = np.isin(groups, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def walk(
    candidates: Iterable[Candidate],
    check: Evidence,
    kind: EvidenceKind,
    groups: NDArray[np.int64],
    *,
    target: float,
    confidence: float,
) -> Checked:
    """The last candidate before the first whose bound exceeds the target (the first one where even that fails).

    Fixed-sequence testing: the order of the candidates does not depend on the check frames, and the walk stops at the
    first failure, so the stated confidence holds for the one chosen (Angelopoulos et al. 2021, Learn then Test).
    Raises GateError where there is no candidate. Column k of `check` is the k-th member asked.
    """
    best: Checked | None = None
    for candidate in candidates:
        flagged, used = replay(candidate.table, check.of(kind))
        checked = Checked(candidate, flagged, used, groups, rate_bound(flagged, groups, confidence))
        if checked.upper > target:
            return best or checked
        best = checked
    if best is None:
        raise GateError(
            f"no test of this rule flags adversarial frames and at most {target:.2%} of the clean ones; raise "
            f"--target-fpr or --mean-models, or make a pool that changes fewer clean labels"
        )
    return best
