"""The papers' tables and those they lack, as Markdown, from what `run.py` left in OUT.

python benchmarks/papers/tables.py OUT > benchmarks/papers/small.md
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from access import access_tables
from adaptive_curves import adaptive_tables
from cells import markdown
from documents import Found, Log, read_all, read_log
from icml import icml_tables
from matters import matters

from pdtool.errors import InputError
from pdtool.wording import duration

__all__ = ["main", "write"]

LOSSY = (
    "CIFAR-10 here are JPEG pictures of quality 75, an error of about 7.6 of 255 against the original pixels, as large "
    "as an 8/255 attack: numbers need not be those of the papers' pixels."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    every = read_all(options.out)
    if not every:
        raise SystemExit(f"{options.out}: holds nothing that run.py made; run it first")
    print(write(every, read_log(options.out)))


def write(every: Sequence[Found], log: Sequence[Log]) -> str:
    """The whole page. Raises InputError where there is no evaluation at all."""
    reports = [report for found in every for report in found.reports.values()]
    if not reports:
        raise InputError("there is no evaluation yet; run benchmarks/papers/run.py")
    lossy = any(found.lossy for found in every)

    def section(title: str, tables: Iterator[str]) -> Iterator[str]:
        for i, table in enumerate(tables):
            if i == 0:
                yield f"## {title}"
            yield f"{table}\n\n*{LOSSY}*" if lossy else table

    parts = [
        "# The papers' tables, measured again",
        *_head(every, log),
        *section("What the papers leave out", matters(every)),
        *section("Attackers who know the defence", adaptive_tables(every)),
        *section("Wang et al., IEEE Access 2021", access_tables(every)),
        *section("Chen et al., ICML 2021 workshop", icml_tables(every)),
        "## Stages",
        _stages(log),
    ]
    return "\n\n".join(parts)


def _head(every: Sequence[Found], log: Sequence[Log]) -> Iterator[str]:
    reports = [report for found in every for report in found.reports.values()]
    scale = "full" if any(report.subject.original_macs > 2e8 for report in reports) else "small"
    commits = sorted({line.commit or "not recorded" for line in log}) or ["not recorded"]
    machines = sorted({", ".join((r.machine.cpu, f"{r.machine.cores} cores", *r.machine.gpus)) for r in reports})
    seeds = sorted({str(report.seed) for report in reports})
    yield (
        f"    python benchmarks/papers/run.py {scale} DATA OUT\n"
        f"    python benchmarks/papers/tables.py OUT > benchmarks/papers/{scale}.md"
    )
    yield (
        f"Commit {', '.join(commits)}; seed {', '.join(seeds)}; machine: {'; '.join(machines)}; engines: "
        f"{', '.join(sorted({r.machine.engines for r in reports}))}; pdtool "
        f"{', '.join(sorted({r.pdtool for r in reports}))}."
    )
    yield (
        "A cell reads `paper / **ours** (95 % interval)`; – is what was not printed or not measured. AUROC, TPR and "
        "shares in percent (goals: as shares). An attack counts with the frames that fool the original (n). Clean "
        "figures are of the second half of the test images, calibration saw the first half, thresholds come from clean "
        "images alone. But some defaults were chosen with attacked pictures of these test sets in view: the hardened "
        "recipe's imitation of the original (`docs/compress.md`) and the adversarial frames that `optimal` assumes "
        "(`benchmarks/README.md`), so that their figures are a little too good. The worst attack is sought among "
        "those that fooled the original on ten frames or more."
    )
    for found in every:
        report = next(iter(found.reports.values()), None)
        if report is None:
            continue
        other = "" if found.name == found.published else ", which are other data: read them as a landmark"
        paper = "CIFAR-10, ResNet-18" if found.published == "cifar10" else "SVHN, VGG-16"
        accuracy = report.clean.accuracy
        share = 0.0 if accuracy.share is None else 100 * accuracy.share
        yield (
            f"**{found.title}**: {report.subject.model}, {share:.1f} % of {accuracy.count} clean test images labelled "
            f"rightly; beside it the papers' {paper}{other}." + (f" {LOSSY}" if found.lossy else "")
        )
        yield (
            "Pools: "
            + "; ".join(
                f"`{name}` {r.subject.members} members, at most {100 * r.subject.target_fpr:g} % false alarms asked for"
                for name, r in found.reports.items()
                if name in found.pools
            )
            + ". Few members cannot keep what many can, so that more is asked for: what they flag is not comparable."
        )


def _stages(log: Sequence[Log]) -> str:
    if not log:
        return "No record of the commands: the outputs were not made by `run.py`."
    rows = [(line.stage, f"`{line.command}`", line.commit, duration(line.seconds), str(line.runs)) for line in log]
    total = duration(sum(line.seconds for line in log))
    table = markdown(("stage", "command", "commit", "time", "runs"), rows, left=3)
    note = f"Together {total}, some of them side by side. What is not listed was there already, not made by `run.py`."
    return f"{table}\n\n{note}"


if __name__ == "__main__":
    main()
