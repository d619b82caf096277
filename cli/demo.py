"""`pdtool demo`: the whole way on embedded data, with the real commands."""

from pathlib import Path
from typing import Annotated

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, note, set_quiet, table
from pdtool.wording import counted, number


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("pdtool-demo"),
    members: Annotated[int, typer.Option(min=1, help="How many members.")] = 16,
    seed: options.Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo in --out.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train, compress, export, calibrate, attack, screen and report on small scans of digits, in about a minute.

    Every command line is printed before it runs, so that it can be repeated by hand.
    """
    import subprocess
    import sys

    set_quiet(quiet)
    from pdtool.evaluation.demo import run_demo

    results = subprocess.DEVNULL if quiet else sys.stderr if json else None
    done = run_demo(out, members=members, seed=seed, force=force, quiet=quiet, results=results, say=note)
    if json:
        emit(done)
        return

    rows = [
        (
            part.name,
            part.frames,
            counted(part.cleared.events, part.cleared.count),
            counted(part.flagged.events, part.flagged.count),
            "" if part.name == "clean" else counted(part.corrected.events, part.corrected.count),
            number(part.models_used),
            f"{number(part.cost)} x",
        )
        for part in done.stream
    ]
    headers = ("frames", "n", "cleared", "flagged", "corrected right", "members asked", "cost")
    note("")
    table(f"{out}: a stream of clean and attacked frames; cost in runs of the original (MACs)", headers, rows)
    note(f"report: {done.report}   ({done.seconds:.0f} s in all)")
