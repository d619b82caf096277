"""Options that several commands share, each spelled out once."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from pdtool.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same machine: same bytes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace --out where it exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")]
Out = Annotated[Path, typer.Option("--out", help="What to write.")]
Data = Annotated[
    str,
    typer.Option(
        help="Folder (or .tar.gz of it) DIR/<class>/*.png|jpg, file.npz, digits, cifar10:DIR, svhn:DIR, mnist:DIR or "
        "package.module:factory; '#1/2' behind it takes the first half of every class."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many images, evenly over the data.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder written by `pdtool export`.")]
PoolFolder = Annotated[Path, typer.Argument(metavar="POOL", help="A folder written by `pdtool compress`.")]
Model = Annotated[
    str,
    typer.Option(
        help="resnet18, vgg16, lenet5 with ':width=W,classes=N,input=CxHxW', or package.module:factory of your own."
    ),
]
PoolModel = Annotated[
    str | None,
    typer.Option("--model", help="Your word that the pool's package.module:factory may be run; only for such pools."),
]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror images at random (never for signs or digits).")]
Mean = Annotated[str | None, typer.Option(metavar="M[,M,M]", help="Mean a channel in [0, 1]; default: the data's.")]
Std = Annotated[str | None, typer.Option(metavar="S[,S,S]", help="Deviation a channel; default: the data's.")]
Backend = Annotated[
    Literal["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"] | None,
    typer.Option(
        help="What runs the models, now and when screening (default: what the bundle was exported for, or onnxruntime, "
        "the CPU, where that is missing)."
    ),
]
TrainOn = Annotated[str, typer.Option(help="Where torch trains: auto, cpu or cuda.")]


def numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5,0.4,0.3` as numbers. Raises UsageError for anything else."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) for value in values):
        raise UsageError(f"{name} should be numbers with commas between them, such as 0.5,0.4,0.3, is {text!r}")
    return values


def group_rates(texts: list[str]) -> dict[int, float]:
    """`64=0.5` as {64: 0.5}. Raises UsageError for anything else or a group given twice."""
    rates: dict[int, float] = {}
    for text in texts:
        channels, _, rate = text.partition("=")
        try:
            parsed = int(channels), float(rate)
        except ValueError:
            raise UsageError(f"--group-rate should be CHANNELS=RATE, such as 64=0.5, is {text!r}") from None
        if parsed[0] in rates:
            raise UsageError(f"--group-rate {parsed[0]} is given twice")
        rates[parsed[0]] = parsed[1]
    return rates
