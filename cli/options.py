"""Options that several commands share, each spelled out once."""

from pathlib import Path
from typing import Annotated

import typer

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
