"""The recipe table as Markdown, from what `run.py` left in OUT.

python benchmarks/recipes/table.py OUT > benchmarks/recipes/recipes.md
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "papers"))

import numpy as np
from adaptive_curves import curves
from cells import figure, markdown
from cost import costs
from documents import check_reports, each, read_log
from rows import ADAPTIVE, DATA, ROWS, Row

from pdtool.artifacts import Pool
from pdtool.calibration.kinds import kinds_of, levels
from pdtool.evaluation.adaptive_results import AdaptiveResult
from pdtool.evaluation.metrics import threshold_at
from pdtool.evaluation.results import AttackResult, Evaluation
from pdtool.wording import NOTHING, duration

FEW = 10  # frames: an attack that fooled the original on fewer is not the worst


@dataclass(frozen=True)
class Found:
    """A row's pool and what was measured of it."""

    row: Row
    pool: Pool
    report: Evaluation


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    print("\n\n".join(write(options.out)))


def write(out: Path) -> Iterator[str]:
    """The page, part by part. Raises InputError for malformed documents."""
    yield "# Recipes"
    yield "    python benchmarks/recipes/run.py DATA OUT"
    log = read_log(out)
    commits = ", ".join(sorted({line.commit for line in log}))
    yield (
        f"Commits {commits}; {duration(sum(line.seconds for line in log))} of commands, some side by side. AUROC and "
        "TPR of the graded evidence, the original's margin weighed in, in percent; thresholds from clean images alone. "
        "All attacks are on the original; an attack counts with the frames that fool it; means and the worst are of "
        "those with ten or more. Cost: epochs of the original's training, counted in passes (`cost.py`), for a member "
        "and once for the pool."
    )
    for data in DATA:
        pools = each(Pool, {row.name: out / data.name / row.name / "pool.json" for row in ROWS})
        reports = each(Evaluation, {n: out / data.name / f"{n}-evaluation" / "report.json" for n in pools})
        check_reports(out / data.name, reports)
        found = [Found(row, pools[row.name], reports[row.name]) for row in ROWS if row.name in reports]
        if not found:
            continue
        yield f"## {data.title}"
        yield _summary(found)
        yield "### Every attack: label change rate / AUROC / TPR at 5 % / at 1 % of false alarms, all members asked"
        yield _attacks(found)
        yield "### Agreement that is too perfect"
        yield _two_sided(found, out / data.name)
        alike = {row.name: out / data.name / f"{row.name}-alike.json" for row in ROWS}
        alike = {row: path for row, path in alike.items() if path.exists()}
        if alike:
            yield "### How alike members are"
            yield _alike({row: json.loads(path.read_text()) for row, path in alike.items()})
        known = {row: out / data.name / f"{row}-known.json" for row in ADAPTIVE}
        known = {row: path for row, path in known.items() if path.exists()}
        if known:
            yield "### Attackers who have members"
            yield _known({row: json.loads(path.read_text()) for row, path in known.items()})
        adaptive = each(AdaptiveResult, {n: out / data.name / f"{n}-adaptive" / "adaptive.json" for n in ADAPTIVE})
        if adaptive:
            yield "### Attackers who know the defence"
            yield from curves(adaptive, {row.name: row.title for row in ROWS})


def _summary(found: Sequence[Found]) -> str:
    headers = (
        "recipe", "", "members right, %", "of the original's MACs", "cost, a member + once", "clean label change rate",
        "members asked", "AUROC: mean, worst", "TPR at 5 %: mean, worst", "TPR at 1 %: mean, worst", "worst attack",
        "flagged and corrected label right, %", "clean: flagged, members asked, passes", "benign: most flagged",
    )  # fmt: skip
    rows = []
    for each_ in found:
        pool, report = each_.pool, each_.report
        used = [member.model for member in pool.members if member.used]
        right = 100 * fmean(model.accuracy for model in used)
        member, once = costs(pool)
        clean = report.clean.every
        controls = [b for b in report.benign if b.kind == "control" and b.frames.count >= FEW]
        benign = max(controls, key=lambda b: b.frames.flagged.share or 0.0, default=None)
        first = True
        every = [a for a in report.attacks if a.frames.count >= FEW]
        for members in sorted({asked.members for a in every for asked in a.asked}):
            got = [(a, asked) for a in every for asked in a.asked if asked.members == members]
            worst = min(got, key=lambda pair: pair[1].graded.auroc.value or 0.0)
            told = [
                f"{100 * fmean(values):.1f}, {100 * min(values):.1f}"
                for values in (
                    [asked.graded.auroc.value or 0.0 for _, asked in got],
                    [asked.graded.tpr_5.share or 0.0 for _, asked in got],
                    [asked.graded.tpr_1.share or 0.0 for _, asked in got],
                )
            ]
            corrected = fmean(a.corrected.events / a.frames.count for a in every)
            rows.append((
                *((f"`{each_.row.name}`", each_.row.title) if first else ("", "")),
                *((
                    f"{right:.1f} (original {100 * pool.original.accuracy:.1f})",
                    f"{fmean(model.macs for model in used) / pool.original.macs:.2f}",
                    f"{member:.1f} + {once:.1f}",
                    figure(clean.label_change_rate, 3),
                ) if first else [""] * 4),
                str(members), *told, f"`{worst[0].spec}`",
                *((
                    f"{100 * corrected:.1f}",
                    f"{figure(clean.flagged)}, {figure(clean.models_used, 2)}, {figure(clean.cost, 2)}",
                    NOTHING if benign is None else f"{figure(benign.frames.flagged)} {benign.name}",
                ) if first else [""] * 3),
            ))  # fmt: skip
            first = False
    return markdown(headers, rows, left=2)


def _two_sided(found: Sequence[Found], folder: Path) -> str:
    """What would be flagged at 5 % of false alarms if the least evidence of clean frames were suspicious, too."""
    rows = []
    for each_ in found:
        with np.load(folder / f"{each_.row.name}-evaluation" / "votes.npz", allow_pickle=False) as votes:
            kinds = {member.id: member.kind for member in each_.pool.members}
            asked = kinds_of([kinds[id] for id in votes["order"].tolist()])
            told = {name: levels(votes[f"{name}/graded"].astype(np.float64), asked)[:, -1] for name in _sets(votes)}
            wrong = {name: votes[f"{name}/given"] != votes[f"{name}/truth"] for name in told}
            before = {name: wrong["clean"][votes[f"{name}/source"]] for name in told}
        clean = told.pop("clean")
        attacks = {a.name for a in each_.report.attacks if a.frames.count >= FEW}
        fooled = [told[name][wrong[name] & ~before[name]] for name in attacks]
        low, high, top = -threshold_at(-clean, 0.025), threshold_at(clean, 0.025), threshold_at(clean, 0.05)
        shares = (
            fmean(float((values > top).mean()) for values in fooled),
            fmean(float(((values > high) | (values < low)).mean()) for values in fooled),
            fmean(float((values < low).mean()) for values in fooled),
        )
        rows.append((f"`{each_.row.name}`", *(f"{100 * share:.1f}" for share in shares)))
    headers = (
        "recipe", "flagged at 5 %, mean of attacks: above 95 % of clean frames", "above 97.5 % or below 97.5 %",
        "of that, below",
    )  # fmt: skip
    return markdown(headers, rows)


def _alike(found: Mapping[str, dict[str, Any]]) -> str:
    """Rows of `alike.py`."""
    rows = []
    for row, told in found.items():
        each_ = [told["original"], told["one_kind"], told["two_kinds"]]
        shares = [attack["tpr_5"][kind] for kind in ("one_kind", "two_kinds") for attack in told["attacks"]]
        cells = [
            *(NOTHING if value is None else f"{value:.2f}" for value in each_),
            *(NOTHING if share is None else f"{100 * share:.0f}" for share in shares),
        ]
        rows.append((f"`{row}`", *cells))
    one = next(iter(found.values()))
    epsilons = [f"{attack['epsilon']}/255" for attack in one["attacks"]]
    headers = (
        "recipe", "cosine: a member and the original", "two members of one kind", "of two kinds",
        *(f"TPR: attacked {epsilon}, {what}" for what in ("one kind", "two kinds") for epsilon in epsilons),
    )  # fmt: skip
    return (
        f"`alike.py`: the cosine between two nets' gradients of the cross-entropy, mean over {one['images']} clean "
        "images and pairs (0: right angles); and of what targeted PGD, 50 steps, against the original and one member "
        f"made of {one['attacked']} images, how much each other member flags for itself at 5 % of false alarms, %.\n\n"
        + markdown(headers, rows)
    )


def _known(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """Rows of `known.py`, recipe beside recipe."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for row, lines in found.items():
        for line in lines:
            told, into = line["counted"], cells.setdefault((line["attacker"], line["epsilon"]), {})
            if not line["fooled"]:
                into[row] = "n = 0"
                continue
            text = " / ".join(f"{100 * share:.0f}" for share in (told["auroc"], *_shares(told)))
            if line["mean"] != told:
                text += f" (mean of all: {' / '.join(f'{100 * share:.0f}' for share in _shares(line['mean']))})"
            into[row] = f"{text}, n = {line['fooled']}"
    rows = [
        (name, str(epsilon), *(of.get(row, NOTHING) for row in found)) for (name, epsilon), of in sorted(cells.items())
    ]
    return (
        "Targeted PGD, 50 steps, against the original and members at once (`known.py`): nobody's, their own by "
        "the same recipe (what one has, too, who stole the pool before it was made again with another seed), the "
        "pool's. AUROC / TPR at 5 % / at 1 % of false alarms, %, all members asked; n images fooled it.\n\n"
        + markdown(("attacker", "epsilon, of 255", *(f"`{row}`" for row in found)), rows, left=1)
    )


def _shares(told: dict[str, Any]) -> tuple[float, float]:
    return told["tpr_5"]["share"], told["tpr_1"]["share"]


def _sets(votes: Mapping[str, object]) -> list[str]:
    """The sets of frames that the file tells of whose images are the evaluation's own."""
    return [name.partition("/")[0] for name in votes if name.endswith("/graded")]


def _attacks(found: Sequence[Found]) -> str:
    specs = list(dict.fromkeys(attack.spec for each_ in found for attack in each_.report.attacks))
    rows = []
    for spec in specs:
        cells = []
        for each_ in found:
            attack = next((a for a in each_.report.attacks if a.spec == spec), None)
            cells.append(NOTHING if attack is None else _cell(attack))
        counts = {a.frames.count for each_ in found for a in each_.report.attacks if a.spec == spec}
        rows.append((f"`{spec}`", " to ".join(map(str, sorted(counts))), *cells))
    return markdown(("attack", "n", *(f"`{each_.row.name}`" for each_ in found)), rows)


def _cell(attack: AttackResult) -> str:
    rate, graded = attack.frames.label_change_rate.value, attack.graded
    shares = (graded.auroc.value, graded.tpr_5.share, graded.tpr_1.share)
    if rate is None or any(share is None for share in shares):
        return NOTHING
    return " / ".join((f"{rate:.2f}", *(f"{100 * (share or 0.0):.1f}" for share in shares)))


if __name__ == "__main__":
    main()
