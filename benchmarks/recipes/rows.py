"""The rows of the recipe table: how members are trained, and the commands that make and judge a pool of each."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "papers"))

from plan import CIFAR10, GTSRB, Data
from stages import Stage

__all__ = ["ADAPTIVE", "ATTACKS", "DATA", "ROWS", "Row", "stages"]

DATA = (CIFAR10, GTSRB)
EPOCHS = {"cifar10": ("--epochs", "4", "--flip"), "gtsrb": ("--epochs", "8")}  # of every recipe: their costs compare
# Parts of the public test images to calibrate on and to attack. The recipe is chosen by CIFAR-10's rows, so the half
# that `benchmarks/papers` reports on is not touched there. Traffic signs have too few tracks to be cut into quarters.
PARTS = {"cifar10": ("#1/4", "#2/4"), "gtsrb": ("#1/2", "#2/2")}
PROMISE = 0.2  # false alarms at most, of all rows: few members cannot promise less
KNOWN = 200  # images attacked by who has members
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """A recipe: its name, what it is, options of `compress`, how many members, and whether it is for CIFAR-10 alone."""

    name: str
    title: str
    options: tuple[str, ...]
    members: int = 4
    ablation: bool = False

    @property
    def evidence(self) -> tuple[str, ...]:
        """Options of `calibrate`."""
        return ("--evidence", "margin")


def _hard(settings: str = "", *, parent: int = 0, robust: str = "0") -> tuple[str, ...]:
    """All that the rows differ in, written out: they stay what they are when a default changes."""
    if robust != "0" and "robust_members" not in settings:
        settings = ",".join(filter(None, ("robust_members=1", settings)))
    given = ",".join(filter(None, (f"parent={parent},robust={robust}", settings)))
    return ("--recipe", "hardened", "--hardening", given)


ROWS = (
    Row("paper", "fine-tuned, as in the papers", ("--recipe", "paper")),
    Row("hardened", "on attacks on the original", _hard()),
    Row("parent", "... cut from a hardened parent", _hard(parent=6)),
    Row("robust-4", "... and attacked themselves, 4/255", _hard(parent=6, robust="4/255")),
    Row("robust-6", "... and attacked themselves, 6/255", _hard(parent=6, robust="6/255")),
    Row("mixed", "half of them so, 6/255", _hard("robust_members=0.5", parent=6, robust="6/255")),
    Row("paper-16", "fine-tuned, sixteen members", ("--recipe", "paper"), 16, ablation=True),
    Row("mixed-16", "mixed, sixteen members", _hard("robust_members=0.5", parent=6, robust="6/255"), 16, ablation=True),
    Row("robust-8", "... and attacked themselves, 8/255", _hard(parent=6, robust="8/255"), 2, ablation=True),
    Row("robust-6-no-parent", "attacked themselves, no parent", _hard(robust="6/255"), 2, ablation=True),
    Row(
        "robust-6-large",
        "... 6/255, at rate 0.3",
        (*_hard(parent=6, robust="6/255"), "--rate", "0.3"),
        2,
        ablation=True,
    ),
    Row("scouts", "on attacks on scouts, too", _hard("scouts=2"), 2, ablation=True),
    Row("orthogonal", "gradients at right angles", _hard("orthogonal=10"), 2, ablation=True),
    Row("apart", "... to scouts' gradients, too", _hard("orthogonal=10,scouts=1"), 2, ablation=True),
    Row("fresh-half", "half of the layers anew", _hard("fresh=0.5"), 2, ablation=True),
    Row("fresh", "all layers anew", _hard("fresh=1"), 2, ablation=True),
    Row("distilled", "fine-tuned, imitating the original", ("--recipe", "distilled"), 2, ablation=True),
)
# Attacked by those who know them, CIFAR-10 alone: the attacker's own members
ADAPTIVE = {"paper": 5, "hardened": 5, "robust-6": 5, "mixed": 20}
THREATS = ("oblivious", "surrogates", "stolen", "full")  # those who want a wrong label and take gradients

ATTACKS = (
    "cw:const=1,searches=4,steps=200",
    "cw:const=1,searches=4,steps=200,confidence=20",
    "deepfool",
    "fgsm:epsilon=0.0075",
    "fgsm:epsilon=0.03",
    *(f"pgd:epsilon={e}/255,step={e / 4:g}/255,steps={steps}" for e in (2, 4, 8, 16) for steps in (10, 50)),
    "pgd:steps=50,targeted=1",
    "pgd-margin:steps=50",
    "apgd-ce:epsilon=8/255",
    "square",
    "ila",
    "fia:epsilon=0.0075",
    "fia:epsilon=0.03",
)
LIMITS = {"cw": 100, "square": 30}


def stages(data: Path, out: Path, *, limit: int, seed: int) -> Iterator[Stage]:
    """Every stage in order, of those sets of images that are there."""
    for images in DATA:
        if (data / images.needs).exists():
            yield from _of(images, data, out / images.name, limit, seed)


def _of(images: Data, data: Path, out: Path, limit: int, seed: int) -> Iterator[Stage]:
    def spec(text: str) -> str:
        return text.replace("{data}", str(data))

    def stage(name: str, made: str, *command: object) -> Stage:
        return Stage(f"{images.name}/{name}", out / made, tuple(map(str, command)))

    weights, train = out / "model.safetensors", spec(images.train)
    fit, test = (f"{spec(images.test).partition('#')[0]}{part}" for part in PARTS[images.name])
    seeded, on = ("--seed", seed), ("--train-on", "cpu")

    def compress(name: str, row: Row, members: int, seed: int) -> Stage:
        return stage(
            f"{name}/compress", f"{name}/pool.json",
            "pdtool", "compress", "--weights", weights, "--data", train, "--members", members, *row.options,
            *EPOCHS[images.name], "--max-drop", "0.5", "--out", out / name, *on, "--seed", seed,
        )  # fmt: skip

    yield stage(
        "original", weights.name,
        "pdtool", "train", "--model", images.model, "--data", train, "--out", weights, *images.training, *on, *seeded,
    )  # fmt: skip
    rows = [row for row in ROWS if images is CIFAR10 or not row.ablation]
    limits = [text for name, most in LIMITS.items() for text in ("--limit-attack", f"{name}={min(most, limit)}")]
    attacks = [text for attack in ATTACKS for text in ("--attack", attack)]
    for row in rows:
        bundle = out / f"{row.name}-bundle"
        yield compress(row.name, row, row.members, seed)
        yield stage(
            f"{row.name}/export", f"{row.name}-bundle/bundle.json",
            "pdtool", "export", out / row.name, "--out", bundle,
        )  # fmt: skip
        yield stage(
            f"{row.name}/calibrate", f"{row.name}-bundle/calibration.json",
            "pdtool", "calibrate", bundle, "--data", fit, *row.evidence, "--target-fpr", PROMISE,
            "--accept-miss", *seeded,
        )  # fmt: skip
        yield stage(
            f"{row.name}/evaluate", f"{row.name}-evaluation/report.json",
            "pdtool", "evaluate", bundle, "--pool", out / row.name, "--data", test, "--limit", limit, *limits, *attacks,
            "--control", "all", "--attack-on", "cpu", "--images", out / "images",
            "--out", out / f"{row.name}-evaluation", *seeded,
        )  # fmt: skip
        yield stage(
            f"{row.name}/alike", f"{row.name}-alike.json",
            "python", HERE / "alike.py", out / row.name, test, "--limit", limit,
            "--out", out / f"{row.name}-alike.json",
        )  # fmt: skip
    for row in rows:
        if images.adaptive and row.name in ADAPTIVE:
            name = f"{row.name}-surrogates"
            yield compress(name, row, ADAPTIVE[row.name], seed + 1)
            yield stage(
                f"{row.name}/known", f"{row.name}-known.json",
                "python", HERE / "known.py", out / f"{row.name}-bundle", out / row.name, out / name, test,
                "--limit", min(KNOWN, limit), "--out", out / f"{row.name}-known.json", *seeded,
            )  # fmt: skip
            yield stage(
                f"{row.name}/adaptive", f"{row.name}-adaptive/adaptive.json",
                "pdtool", "evaluate", out / f"{row.name}-bundle", "--pool", out / row.name, "--data", test,
                "--limit", min(images.adaptive, limit), "--adaptive", "--surrogates", out / name,
                *(text for threat in THREATS for text in ("--threat", threat)),
                "--out", out / f"{row.name}-adaptive", *seeded,
            )  # fmt: skip
