"""Table 7's other defences on the very attacked images that the pools are judged on: changed images, hardened models.

    python benchmarks/papers/defend.py OUT/gtsrb TRAIN TEST --limit 300

Reads the attacked images of `paper-evaluation`, made on the original, and writes defences.json. No attack knew of the
defence: that is the papers' comparison, and it flatters every row.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from pdtool.cli.output import note, percent
from pdtool.compress.folder import open_pool
from pdtool.compress.models import Normalised
from pdtool.compress.original import load_original
from pdtool.data import labels_as, load_data
from pdtool.evaluation.adversarial_training import REGIMES
from pdtool.evaluation.attacked import read_attacked
from pdtool.evaluation.defences import Defence, accuracy_of, accuracy_under, defences
from pdtool.evaluation.metrics import Rate
from pdtool.evaluation.results import Evaluation
from pdtool.files import read_limited, write_atomic
from pdtool.images import size_of
from pdtool.jsonform import decode, parse
from pdtool.runtime.bundle import pretty

__all__ = ["DefenceRow", "Defences", "defend"]


@dataclass(frozen=True, kw_only=True)
class DefenceRow:
    """A defence: how many clean images it labels rightly, and how many attacked ones that fooled the original."""

    name: str
    kind: str  # transformation or model
    source: str
    clean: Rate
    attacked: dict[str, Rate]  # spec of the attack


@dataclass(frozen=True, kw_only=True)
class Defences:
    """`defences.json`."""

    FORMAT: ClassVar[str] = "pdtool.benchmark-defences/1"
    seed: int
    rows: tuple[DefenceRow, ...]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = defend(options.out, options.train, options.test, limit=options.limit, seed=options.seed)
    write_atomic(options.out / "defences.json", pretty(found))


def defend(out: Path, train: str, test: str, *, limit: int, seed: int = 0) -> Defences:
    """Every transformation before the original of `out`, and every adversarially trained model that is there.

    `limit` as `evaluate` had it: the same clean images.
    """
    path = out / "paper-evaluation" / "report.json"
    report = decode(Evaluation, parse(read_limited(path), file=str(path)), file=str(path))
    pool = open_pool(out / "paper")
    size = size_of(pool.pool.preprocessing)
    clean = load_data(test, size, role="test", limit=limit)
    truth = labels_as(clean, pool.pool.classes)
    assert truth is not None
    attacked = {a.spec: read_attacked(out / "images" / a.file.path) for a in report.attacks}

    def row(name: str, kind: str, source: str, net: nn.Module, defence: Defence | None) -> DefenceRow:
        made = DefenceRow(
            name=name,
            kind=kind,
            source=source,
            clean=accuracy_of(defence, net, clean.images, truth, seed=seed),
            attacked={spec: accuracy_under(defence, net, images, seed=seed) for spec, images in attacked.items()},
        )
        note(f"{name}: {percent(made.clean.share)} of {made.clean.count} clean images labelled rightly")
        return made

    original = pool.original()
    rows = [
        row(name, "transformation", f"{defence.description} ({defence.source})", original, defence)
        for name, defence in defences(load_data(train, size, role="train").images, seed=seed).items()
    ]
    for name, regime in REGIMES.items():
        weights = out / f"{name}.safetensors"
        if weights.exists():
            trained, _ = load_original(weights)
            net = Normalised(trained.net, trained.preprocessing).eval()
            rows.append(row(name, "model", f"{regime.description} ({regime.source}; {regime.spec})", net, None))
    return Defences(seed=seed, rows=tuple(rows))


if __name__ == "__main__":
    main()
