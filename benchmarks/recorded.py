"""Recorded votes read back, and a test run on them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import Evidence, assumed
from pdtool.calibration.fit import ASSUMED_FRAMES, CleanFrames
from pdtool.calibration.rules import Candidate, Settings, candidates
from pdtool.calibration.table import DecisionTable, Table, replay
from pdtool.decisions import EvidenceKind, Grading
from pdtool.errors import GateError

__all__ = ["Measured", "Recorded", "at_level", "counts", "load", "measure"]


@dataclass(frozen=True)
class Recorded:
    """One pool's votes."""

    name: str
    about: dict[str, object]
    calibrate: CleanFrames
    test: Evidence
    attacked: dict[str, Evidence]

    @property
    def members(self) -> int:
        """How many it has."""
        return self.test.changed.shape[1]


@dataclass(frozen=True)
class Measured:
    """A table on the test images and on the attacked ones: means over the orders."""

    fpr: float
    models: float
    p99: int
    tpr: dict[str, float]
    models_attacked: dict[str, float]

    @property
    def mean_tpr(self) -> float:
        """Over the attacks, each counted once."""
        return float(np.mean(list(self.tpr.values())))


def load(path: Path) -> Recorded:
    """Read a file of record_votes.py."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(str(arrays.pop("provenance")))

    def said(name: str) -> Evidence:
        changed = arrays[f"{name}/members"] != arrays[f"{name}/original"][:, None]
        return Evidence(changed, arrays[f"{name}/graded"].astype(np.float64))

    calibrate = CleanFrames(
        evidence=said("calibrate"),
        groups=arrays["calibrate/groups"],
        wrong=arrays["calibrate/original"] != arrays["calibrate/truth"],
        grading=Grading(temperatures=tuple(about["temperatures"])),
    )
    return Recorded(path.stem, about, calibrate, said("test"), {name: said(name) for name in about["attacks"]})


def measure(table: Table, kind: EvidenceKind, votes: Recorded, orders: int) -> Measured:
    """Run a table on everything."""

    def run(frames: Evidence, seed: int) -> tuple[float, NDArray[np.int64]]:
        flagged, used = [], []
        for order in range(orders):
            shuffled = frames.shuffled(np.random.default_rng([seed, order]))
            one, other = replay(table, shuffled.of(kind))
            flagged.append(one.mean())
            used.append(other)
        return float(np.mean(flagged)), np.concatenate(used)

    fpr, used = run(votes.test, 0)
    attacked = {name: run(frames, i) for i, (name, frames) in enumerate(votes.attacked.items(), start=1)}
    return Measured(
        fpr,
        float(used.mean()),
        int(np.quantile(used, 0.99, method="higher")),
        {name: share for name, (share, _) in attacked.items()},
        {name: float(asked.mean()) for name, (_, asked) in attacked.items()},
    )


def at_level(votes: Recorded, settings: Settings, level: float, attacked: Evidence | None = None) -> Candidate | None:
    """The rule's test for a share of false alarms on `calibrate`, without a promise; None where there is none."""
    rng = np.random.default_rng(0)
    clean = votes.calibrate.evidence
    adversarial = assumed(clean, ASSUMED_FRAMES, rng) if attacked is None else attacked.shuffled(rng)
    last = None
    try:
        for candidate in candidates(
            settings, clean, adversarial, measured=attacked is not None, target_fpr=level, rng=rng
        ):
            flagged, _ = replay(candidate.table, clean.shuffled(rng).of(settings.evidence))
            if flagged.mean() <= level or last is None:
                last = candidate
    except GateError:
        return None
    return last


def counts(table: DecisionTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First flagging and last clearing counts (1, N), as `rates` takes them."""
    first = [n + 1 if count is None else count for n, count in enumerate(table.flag_at, start=1)]
    return np.array([first]), np.array([[-1 if count is None else count for count in table.clear_at]])
