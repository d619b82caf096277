"""The whole way in one go: the real commands on scikit-learn's digits, from training to a report."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from pdtool.decisions import Verdict
from pdtool.errors import InputError, PdtoolError
from pdtool.evaluation.metrics import Rate, mean, rate, relative_cost, run_macs
from pdtool.extras import require
from pdtool.files import write_error
from pdtool.jsonform import JsonValue, decode
from pdtool.runtime.bundle import pretty
from pdtool.runtime.screener import Screener

__all__ = ["DemoResult", "Ran", "StreamResult", "commands", "run_demo"]

NEEDED = ("torch", "torch_pruning", "onnx", "safetensors", "sklearn", "scipy", "PIL", "foolbox", "jinja2", "matplotlib")
# Of fgsm's one step 0.03 changes few of these scans' labels, 0.1 about half; deepfool finds the smallest change.
ATTACKS = ("fgsm:epsilon=0.1", "deepfool")
CALIBRATION = ("--target-fpr", "0.1")  # 225 check images cannot promise much less
SHOWN = 4  # verdict lines


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that ran, as it is typed, and its wall time."""

    command: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """One kind of frame of the mixed stream, "clean" or an attack's name, and what `pdtool screen` made of it.

    For clean frames `corrected` is empty; for attacked ones it counts the flagged whose corrected label is right.
    """

    name: str
    frames: int
    cleared: Rate
    flagged: Rate
    corrected: Rate
    models_used: float | None
    cost: float | None  # runs of the original (MACs)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo did; the files lie in `out`."""

    FORMAT: ClassVar[str] = "pdtool.demo/1"
    out: str
    report: str
    seed: int
    ran: tuple[Ran, ...]
    stream: tuple[StreamResult, ...]
    seconds: float


def commands(out: Path, *, members: int, seed: int, force: bool) -> list[list[str]]:
    """The command lines, in order; the last one's stdout belongs into verdicts.jsonl."""
    model, pool, bundle, report = (str(out / name) for name in ("model.safetensors", "pool", "bundle", "evaluation"))
    data, seeded, forced = ["--data", "digits"], ["--seed", str(seed)], ["--force"] if force else []
    attacks = [word for attack in ATTACKS for word in ("--attack", attack)]
    made_of = ["--method", "random-channel", "--members", str(members), "--rate", "0.5"]
    mixed = str(out / "evaluation" / "mixed.npz")
    return [
        ["train", "--model", "lenet5", *data, "--out", model, *seeded, *forced],
        ["compress", "--weights", model, *data, *made_of, "--out", pool, *seeded, *forced],
        ["export", pool, "--out", bundle, "--format", "onnx", *forced],
        ["calibrate", bundle, *data, *CALIBRATION, *seeded],
        ["evaluate", bundle, "--pool", pool, *data, *attacks, "--out", report, *seeded, *forced],
        ["screen", bundle, "--source", mixed, "--memory-budget", "64MiB", *seeded, "--json"],
    ]


def run_demo(
    out: Path,
    *,
    members: int = 16,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
    results: IO[str] | int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Train, compress, export, calibrate, attack and screen in processes of their own; leave everything in `out`.

    Left there: model.safetensors, pool/, bundle/, evaluation/, verdicts.jsonl, report.html, report.json and
    commands.sh. The commands' own results go to `results` (as `subprocess` takes it; None: this process's stdout).
    Raises InputError where `out` holds something (unless `force`) or cannot be written, MissingError for a missing
    package, and the error of a command that failed.
    """
    try:
        _check_out(out, force)
    except OSError as error:
        raise write_error(out, error) from error
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            require(module, "run the demo")
    lines = commands(out, members=members, seed=seed, force=force)
    verdicts = out / "verdicts.jsonl"
    typed = [shlex.join(["pdtool", *line]) for line in lines]
    typed[-1] += f" > {shlex.quote(str(verdicts))}"
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    script = "\n".join(["set -e", f"export OMP_NUM_THREADS={threads}", *typed]) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "commands.sh").write_text(script)
    except OSError as error:
        raise write_error(out, error) from error
    started = time.perf_counter()
    ran = []
    say(f"$ export OMP_NUM_THREADS={threads}  # nets this small gain nothing from more, and sums keep their order")
    for line, shown in zip(lines, typed, strict=True):
        say(f"\n$ {shown}")
        begun = time.perf_counter()
        if line[0] == "screen":
            with verdicts.open("w") as file:
                _run(line, shown, file, quiet=quiet)
        else:
            _run(line, shown, results, quiet=quiet)
        ran.append(Ran(command=shown, seconds=round(time.perf_counter() - begun, 2)))
    read = _read(verdicts)
    for verdict in verdicts.read_text().splitlines()[:SHOWN]:
        say(verdict)
    say(f"... {len(read)} lines in {verdicts}")
    for name in ("report.html", "report.json"):
        shutil.copyfile(out / "evaluation" / name, out / name)
    result = DemoResult(
        out=str(out),
        report=str(out / "report.html"),
        seed=seed,
        ran=tuple(ran),
        stream=count_stream(out / "evaluation" / "mixed.npz", read, out / "bundle", seed=seed),
        seconds=round(time.perf_counter() - started, 1),
    )
    (out / "demo.json").write_bytes(pretty(result))
    return result


def count_stream(mixed: Path, verdicts: list[Verdict], bundle: Path, *, seed: int) -> tuple[StreamResult, ...]:
    """Clean and attacked frames of a mixed stream counted apart. Raises InputError where a verdict is missing."""
    with np.load(mixed, allow_pickle=False) as stream:
        attack, labels, classes = stream["attack"], stream["labels"], stream["classes"]
    if [verdict.frame for verdict in verdicts] != list(range(len(labels))):
        raise InputError(f"{mixed}: has {len(labels)} frames but {len(verdicts)} verdicts; screen it again")
    with Screener.open(bundle, seed=seed) as screener:
        macs = run_macs(screener.residency.order)
        original = screener.opened.bundle.original.macs
    cleared = np.array([verdict.verdict == "clean" for verdict in verdicts])
    flagged = np.array([verdict.verdict == "adversarial" for verdict in verdicts])
    right = np.array([verdict.corrected_label for verdict in verdicts], dtype=object) == classes[labels]
    used = np.array([verdict.models_used for verdict in verdicts], dtype=np.int64)
    cost = relative_cost(used, original, macs)
    results = []
    for name in ["", *dict.fromkeys(attack[attack != ""].tolist())]:
        kind = attack == name
        counted = kind & flagged if name else np.zeros_like(kind)
        results.append(
            StreamResult(
                name=name or "clean",
                frames=int(kind.sum()),
                cleared=rate(cleared[kind]),
                flagged=rate(flagged[kind]),
                corrected=rate(right[counted]),
                models_used=mean(used[kind]),
                cost=mean(cost[kind]),
            )
        )
    return tuple(results)


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InputError(f"{out}: is not empty; choose another --out or add --force to replace the demo in it")


def _run(line: list[str], shown: str, results: IO[str] | int | None, *, quiet: bool) -> None:
    """Run one command in a process of its own; its error message is on stderr already when it fails."""
    extra = ["--quiet"] if quiet else []
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    call = [sys.executable, "-m", "pdtool", *line, *extra]
    code = subprocess.run(call, stdout=results, env=environment, check=False).returncode
    if code != 0:
        kinds: dict[int, type[PdtoolError]] = {kind.exit_code: kind for kind in PdtoolError.__subclasses__()}
        raise kinds.get(code, PdtoolError)(
            f"the demo stopped: `{shown}` ended with exit code {code} (its message is above)"
        )


def _read(path: Path) -> list[Verdict]:
    documents: list[JsonValue] = [json.loads(line) for line in path.read_text().splitlines()]
    return [decode(Verdict, document, file=f"{path}:{i}") for i, document in enumerate(documents, start=1)]
