"""Stages: one plain command after another, what is there is not made again, and a log of what was run.

What `benchmarks/papers/run.py` and `benchmarks/recipes/run.py` share.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["HERE", "LEFT", "Stage", "add_options", "carry_out"]

HERE = Path(__file__).parent
LEFT = 10
GRACE = 20  # seconds for a command to end after it was interrupted


@dataclass(frozen=True)
class Stage:
    """A command that makes `out` and is skipped where that is there."""

    name: str
    out: Path
    command: tuple[str, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    """DATA, OUT and what `carry_out` takes."""
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], help="stages by name, such as 'gtsrb/*' or '*/paper*'")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes (each call is one step)")
    parser.add_argument("--limit", type=int, help="attack so many images, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the commands that are left and stop")


def carry_out(every: Iterable[Stage], options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run what is left, as the options of `add_options` say. Exit code: 0 all is there, `LEFT` something is left, else
    the code of the command that failed."""
    wanted = [stage for stage in every if any(fnmatchcase(stage.name, text) for text in options.only)]
    if not wanted:
        parser.error(f"no stage: are the images in {options.data}, and is --only right?")
    left = [stage for stage in wanted if not stage.out.exists()]
    for stage in _made_otherwise(wanted, options.data, options.out):
        parser.error(
            f"{stage.name} was made by another command ({options.out / 'stages.jsonl'}); "
            f"take another OUT or remove {stage.out}"
        )
    if options.list:
        for stage in left:
            print(f"{stage.name}: {shlex.join(stage.command)}")
        return 0
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    code = 0
    while left and code == 0 and (end is None or time.monotonic() < end):
        code = _run(left[0], options.data, options.out, end)
        if code == 0:
            left.pop(0)
    if code not in (0, LEFT):
        print(f"{left[0].name}: failed with code {code}", file=sys.stderr)
        return code
    for stage in left:
        print(f"left: {stage.name}", file=sys.stderr)
    return LEFT if left else 0


def _run(stage: Stage, data: Path, out: Path, end: float | None) -> int:
    """Run one command; LEFT where its time was up."""
    print(f"\n[{stage.name}] {shlex.join(stage.command)}", file=sys.stderr, flush=True)
    (out / stage.name.partition("/")[0]).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    program = [sys.executable, "-m", "pdtool"] if stage.command[0] == "pdtool" else [sys.executable]
    process = subprocess.Popen([*program, *stage.command[1:]])
    try:
        code = process.wait(None if end is None else max(1.0, end - started))
    except subprocess.TimeoutExpired:
        code = LEFT
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    line = {
        "stage": stage.name,
        "command": _written(stage, data, out),
        "commit": _commit(),
        "seconds": round(time.monotonic() - started, 1),
        "code": code,
    }
    with (out / "stages.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return code


def _written(stage: Stage, data: Path, out: Path) -> str:
    """The command with names for the folders: where they lie tells a reader nothing."""
    command = shlex.join(stage.command)
    for name, place in {"benchmarks/papers": HERE, "OUT": out, "DATA": data}.items():
        command = command.replace(str(place), name)
    return command


def _made_otherwise(every: Sequence[Stage], data: Path, out: Path) -> Iterator[Stage]:
    """Stages whose output is there and was made by another command: a smaller limit, another scale, another seed."""
    path = out / "stages.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    made = {line["stage"]: line["command"] for line in lines if line["code"] == 0}
    for stage in every:
        if stage.out.exists() and made.get(stage.name, "") not in ("", _written(stage, data, out)):
            yield stage


def _commit() -> str:
    """The commit of this checkout, with "+" where files differ from it; empty outside of one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    return commit + ("+" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
