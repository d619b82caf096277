"""Every rule on recorded votes: models asked, false alarms, attacks flagged.

    python benchmarks/rules.py VOTES.npz... [--orders 20] > benchmarks/rules.md

VOTES come from record_votes.py. Tests are designed on `calibrate` and run on `test` and on the attacked images, members
in random orders (means over `--orders` of them). No attacked image is used in a design unless a row says so.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.compare import every_rule
from pdtool.calibration.evidence import Evidence, assumed
from pdtool.calibration.fit import ASSUMED_FRAMES, CleanFrames, design
from pdtool.calibration.rules import Candidate, Settings, candidates
from pdtool.calibration.table import Table, replay
from pdtool.decisions import EvidenceKind
from pdtool.errors import GateError


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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("votes", type=Path, nargs="+")
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--target-fpr", type=float, nargs="+", default=[0.1, 0.2])
    options = parser.parse_args()
    for path in options.votes:
        votes = load(path)
        print("\n".join(describe(votes)))
        print("\n".join(same_rates(votes, options.orders)))
        for target in options.target_fpr:
            print("\n".join(same_promise(votes, target, options.orders)))
    print("\n".join(design_time()))


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
        temperatures=tuple(about["temperatures"]),
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
    """The rule's test for a share of false alarms on all of `calibrate`, without a promise; None where there is none."""
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


def describe(votes: Recorded) -> Iterable[str]:
    """What the votes are."""
    about = votes.about
    yield f"\n## {votes.name}: {about['model']}, {votes.members} members, {about['method']} at rate {about['rate']}\n"
    yield f"Clean images: {len(votes.calibrate.evidence)} to calibrate, {len(votes.test)} to test. Label change rate, mean"
    yield "graded evidence and AUROC of all members' and of one member's evidence against the clean test images:\n"
    yield "| frames | n | LCR | evidence | AUROC, labels | graded | one member, labels | graded |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, frames in {"clean test": votes.test, **votes.attacked}.items():
        row = [name, str(len(frames)), f"{frames.changed.mean():.3f}", f"{frames.known().mean():.3f}"]
        for columns in (slice(None), slice(0, 1)):
            for kind in ("label", "graded"):
                if name == "clean test":
                    row.append("")
                    continue
                one, other = (each.of(kind)[:, columns].mean(axis=1) for each in (votes.test, frames))
                row.append(f"{auroc(one, other):.3f}")
        yield "| " + " | ".join(row) + " |"


def auroc(clean: NDArray[np.float64], attacked: NDArray[np.float64]) -> float:
    """Chance that an attacked frame scores higher than a clean one; ties count half."""
    ordered = np.sort(clean)
    below, upto = (np.searchsorted(ordered, attacked, side=side).mean() for side in ("left", "right"))
    return float((below + upto) / 2 / len(clean))


HEADER = "| rule | FPR | mean TPR | {tpr} | members, clean frame (p99) | members, attacked frame |"


def header(votes: Recorded) -> Iterable[str]:
    """The head of a table of rules."""
    yield HEADER.format(tpr=" | ".join(f"TPR {name}" for name in votes.attacked))
    yield "|---|" + "--:|" * (4 + len(votes.attacked))


def row(name: str, m: Measured) -> str:
    """A line of it."""
    cells = [name, f"{m.fpr:.1%}", f"{m.mean_tpr:.1%}", *(f"{share:.1%}" for share in m.tpr.values())]
    cells += [f"{m.models:.1f} ({m.p99})", f"{np.mean(list(m.models_attacked.values())):.1f}"]
    return "| " + " | ".join(cells) + " |"


def same_rates(votes: Recorded, orders: int) -> Iterable[str]:
    """The rules at the false-alarm rate that the papers' test happens to have, found on `calibrate` alone."""
    paper = Settings(rule="wald", sigma=0.1, at_cap="clean", max_models=votes.members)
    test = at_level(votes, paper, 0.05)
    assert test is not None
    rng = np.random.default_rng(0)
    level = float(replay(test.table, votes.calibrate.evidence.shuffled(rng).changed)[0].mean())
    yield "\n### At the papers' false-alarm rate\n"
    yield f"The papers' test (p0, p1 = {test.p0:.3f}, {test.p1:.3f}; exhausted is clean) flags {level:.1%} of `calibrate`; the"
    yield "other rules are designed for that share of it, without a promise.\n"
    yield from header(votes)
    for name, settings in every_rule(votes.members).items():
        found = test if settings == paper else at_level(votes, settings, level)
        if found is None:
            yield f"| {name} | none |"
            continue
        yield row(name, measure(found.table, settings.evidence, votes, orders))
    for kind in ("label", "graded"):
        known = Settings(rule="optimal", evidence=kind, max_models=votes.members)
        pooled = Evidence(
            np.concatenate([frames.changed for frames in votes.attacked.values()]),
            np.concatenate([frames.known() for frames in votes.attacked.values()]),
        )
        found = at_level(votes, known, level, pooled)
        if found is not None:
            name = f"optimal, {kind}, designed on these attacked images"
            yield row(name, measure(found.table, kind, votes, orders))


def same_promise(votes: Recorded, target: float, orders: int) -> Iterable[str]:
    """The rules calibrated as `pdtool calibrate` does."""
    yield f"\n### With a promise of at most {target:.0%} (95 % confidence)\n"
    yield from header(votes)
    for name, settings in every_rule(votes.members).items():
        try:
            checked, _ = design(votes.calibrate, settings, target_fpr=target, confidence=0.95, seed=0)
        except GateError:
            yield f"| {name} | none |"
            continue
        kept = "" if checked.upper <= target else f" (not kept: bound {checked.upper:.1%})"
        yield row(name + kept, measure(checked.candidate.table, settings.evidence, votes, orders))


def design_time() -> Iterable[str]:
    """How long one design of 100 members takes."""
    from pdtool.calibration.latent import ASSUMED, estimate
    from pdtool.calibration.optimal import problem, sequence

    rng = np.random.default_rng(0)
    p = np.where(rng.random(2000) < 0.2, rng.beta(1, 3, 2000), rng.beta(0.3, 20, 2000))
    started = time.perf_counter()
    tables = list(sequence(problem(estimate(rng.binomial(100, p), 100), ASSUMED, 100), [0.05]))
    yield f"\nDesign of `optimal` for 100 members, one level, from votes to table: {time.perf_counter() - started:.2f} s"
    yield f"({len(tables)} table)."


if __name__ == "__main__":
    main()
