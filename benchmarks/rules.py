"""Every rule on recorded votes: models asked, false alarms, attacks flagged.

    python benchmarks/rules.py VOTES.npz... [--orders 20] > benchmarks/rules.md

VOTES come from record_votes.py. Tests are designed on `calibrate` and run on `test` and on the attacked images, members
in random orders (means over `--orders` of them).
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recorded import Measured, Recorded, at_level, counts, load, measure
from scipy.optimize import linprog

from pdtool.calibration.compare import every_rule
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.exact import rates
from pdtool.calibration.fit import design
from pdtool.calibration.latent import ASSUMED, estimate, population
from pdtool.calibration.optimal import NEARLY, Tables, cheapest, known, problem, sequence
from pdtool.calibration.rules import Settings
from pdtool.calibration.table import DecisionTable, Table, replay
from pdtool.decisions import EvidenceKind
from pdtool.errors import GateError


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("votes", type=Path, nargs="+")
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--target-fpr", type=float, nargs="+", default=[0.1, 0.2])
    options = parser.parse_args()
    print("\n".join(HEAD))
    for path in options.votes:
        votes = load(path)
        print("\n".join(describe(votes)))
        print("\n".join(same_rates(votes, options.orders)))
        for target in options.target_fpr:
            print("\n".join(same_promise(votes, target, options.orders)))
        print("\n".join(known_truth(votes)))
        print("\n".join(orders_compared(votes, 0.05, options.orders)))
    print("\n".join(design_time()))


def describe(votes: Recorded) -> Iterable[str]:
    """What the votes are."""
    about = votes.about
    yield f"\n## {votes.name}: {about['model']}, {votes.members} members, {about['method']} at rate {about['rate']}\n"
    yield f"Clean images: {len(votes.calibrate.evidence)} to calibrate, {len(votes.test)} to test. Label change rate,"
    yield "mean graded evidence and AUROC of all members' and of one member's evidence against the clean test images:\n"
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


HEAD = (
    "# The rules on recorded votes",
    "",
    "Written by `python benchmarks/rules.py benchmarks/votes/gtsrb.npz benchmarks/votes/cifar10.npz`. Tests are",
    "designed on one half of the clean test images and run on the other half and on attacked images that fool the",
    "original; means over random orders of the members. TPR: share of those attacked images flagged; mean TPR: each",
    "attack counted once.",
    "",
    "No attacked image is used in a design unless the row says so; but the shape of the assumed adversarial frames",
    "and the power given up for fewer members were chosen with the GTSRB rows in view, the default evidence with both.",
)
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
    yield f"The papers' test (p0, p1 = {test.p0:.3f}, {test.p1:.3f}; exhausted is clean) flags {level:.1%} of"
    yield "`calibrate`. The other rules are designed for that share of it, without a promise.\n"
    yield from header(votes)
    for name, settings in every_rule(votes.members).items():
        found = test if settings == paper else at_level(votes, settings, level)
        if found is None:
            yield f"| {name} | none |"
            continue
        yield row(name, measure(found.table, settings.evidence, votes, orders))
    assert isinstance(test.table, DecisionTable)
    given = problem(estimate(votes.calibrate.evidence.changed.sum(axis=1), votes.members), ASSUMED, votes.members)
    one, other = (rates(frames, *counts(test.table)) for frames in (given.clean, given.adversarial))
    least = float(other.flag[0]) - NEARLY
    best = cheapest(given, known(given), fpr=float(one.flag[0]), power=least)
    if best is not None:
        yield row("optimal, the papers' rates asked for by design", measure(best, "label", votes, orders))
    pooled = Evidence(
        np.concatenate([frames.changed for frames in votes.attacked.values()]),
        np.concatenate([frames.known() for frames in votes.attacked.values()]),
    )
    for kind in ("label", "graded"):
        settings = Settings(rule="optimal", evidence=kind, max_models=votes.members)
        found = at_level(votes, settings, level, pooled)
        if found is not None:
            yield row(f"optimal, {kind}, designed on these attacked images", measure(found.table, kind, votes, orders))


def known_truth(votes: Recorded) -> Iterable[str]:
    """`optimal` against what the test images' own distribution of label changes would allow."""
    truth = estimate(votes.test.changed.sum(axis=1), votes.members)
    real = population(truth, votes.members)
    ours = problem(estimate(votes.calibrate.evidence.changed.sum(axis=1), votes.members), ASSUMED, votes.members)
    best = problem(truth, ASSUMED, votes.members)
    start = known(best)
    yield "\n### What knowing the truth would save\n"
    yield "`optimal` (label) as designed on `calibrate`; the cheapest table that the same search finds for the test"
    yield "images' own distribution at these rates (a dash: none); and the cheapest mixture of the tables it starts"
    yield "from, drawn anew for every frame, which no single table need reach. Exact, on that distribution; power as"
    yield "assumed.\n"
    yield "| level | FPR | power | members, clean frame | truth known | excess | mixture | excess |"
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|"
    for level in (0.02, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2):
        for table in sequence(ours, [level]):
            here, there = (rates(frames, *counts(table)) for frames in (real, ours.adversarial))
            fpr, power, asks = float(here.flag[0]), float(there.flag[0]), float(here.models[0])
            cells = [f"{level:.0%}", f"{fpr:.1%}", f"{power:.1%}", f"{asks:.2f}"]
            found = cheapest(best, start, fpr=fpr, power=power)
            least = None if found is None else float(rates(real, *counts(found)).models[0])
            for other in (least, mixture(start, fpr, power)):
                cells += ["–", "–"] if other is None else [f"{other:.2f}", f"{asks / other - 1:.1%}"]
            yield "| " + " | ".join(cells) + " |"


def mixture(start: tuple[Tables, Tables], fpr: float, power: float) -> float | None:
    """Fewest members that a random choice among tables needs to keep both rates, by linear programming."""
    flagged, asks, caught = (
        np.concatenate(each)
        for each in zip(*((t.on_clean.flag, t.on_clean.models, t.on_adversarial.flag) for t in start), strict=True)
    )
    solved = linprog(asks, np.stack([flagged, -caught]), [fpr, -power], np.ones((1, len(asks))), [1.0], bounds=(0, 1))
    return float(solved.fun) if solved.success else None


def orders_compared(votes: Recorded, level: float, orders: int) -> Iterable[str]:
    """Fixed orders by what clean frames tell of the members, against random ones."""
    clean = votes.calibrate.evidence
    chosen = {
        "fewest clean label changes first": np.argsort(clean.changed.mean(axis=0), kind="stable"),
        "least clean evidence first": np.argsort(clean.known().mean(axis=0), kind="stable"),
        "most clean label changes first": np.argsort(-clean.changed.mean(axis=0), kind="stable"),
    }
    yield f"\n### Order of the members (`optimal` at {level:.0%})\n"
    yield "| evidence | order | FPR | mean TPR | members, clean frame | members, attacked frame |"
    yield "|---|---|--:|--:|--:|--:|"
    for kind in ("label", "graded"):
        found = at_level(votes, Settings(rule="optimal", evidence=kind, max_models=votes.members), level)
        if found is None:
            yield f"| {kind} | no test at this level | | | | |"
            continue

        def run(order: NDArray[np.int64], kind: EvidenceKind = kind, table: Table = found.table) -> list[float]:
            flagged, used = replay(table, votes.test.of(kind)[:, order])
            attacks = [replay(table, frames.of(kind)[:, order]) for frames in votes.attacked.values()]
            return [
                float(flagged.mean()), float(np.mean([one.mean() for one, _ in attacks])), float(used.mean()),
                float(np.mean([asked.mean() for _, asked in attacks])),
            ]  # fmt: skip

        random = np.array([run(np.random.default_rng(i).permutation(votes.members)) for i in range(10 * orders)])
        low, high = np.quantile(random, [0.05, 0.95], axis=0)
        for name, m in {
            "random, mean of sessions": random.mean(axis=0),
            "random, 5 % quantile": low,
            "random, 95 % quantile": high,
            **{name: run(order) for name, order in chosen.items()},
        }.items():
            yield f"| {kind} | {name} | {m[0]:.1%} | {m[1]:.1%} | {m[2]:.2f} | {m[3]:.2f} |"


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
    rng = np.random.default_rng(0)
    p = np.where(rng.random(2000) < 0.2, rng.beta(1, 3, 2000), rng.beta(0.3, 20, 2000))
    started = time.process_time()
    tables = list(sequence(problem(estimate(rng.binomial(100, p), 100), ASSUMED, 100), [0.05]))
    taken = time.process_time() - started
    what = f"`optimal` for 100 members, {len(tables)} level, from votes to table"
    yield f"\nDesign of {what}: {taken:.2f} s of one core (goal: 2 s)."


if __name__ == "__main__":
    main()
