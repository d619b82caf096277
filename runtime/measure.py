"""What a model really takes on this machine: memory while loading and once loaded, time to load and to run.

Run in a process of its own (`python -m pdtool.runtime.measure`, request and answer are JSON on stdin and stdout),
since memory figures of a process that has done other work mean nothing.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pdtool.devices.memory import peak_bytes, reset_peak, resident_bytes, tune_malloc
from pdtool.errors import InputError
from pdtool.images import Size
from pdtool.jsonform import decode, encode
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.need import grown
from pdtool.runtime.workers import Workers

__all__ = ["Measured", "measure_models"]

FIRST_REGION = (
    2**20
)  # bytes of the shared scratch that never go back: they are there before the first model is measured
WORKERS = 2  # parts of a batch at once, whose tensors lie between each other's and take more room together
WARM_UP_S = 0.2  # runs that are not counted: the first ones of a small model take up to twice as long


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model's figures. Memory is the growth of the process (RSS) over an idle one with the runtime loaded."""

    load_ms: float
    resident_bytes: int  # once loaded, without what lives during a run alone
    load_peak_bytes: int  # most during loading and a run of one image
    run_bytes: int  # what a run of `batch` images takes on top: the scratch that all models share
    latency_ms: tuple[float, ...]  # p50, p90, p99 of `runs` runs of one image
    runs: int
    batch: int


def measure_models(
    models: Mapping[str, Path], size: Size, *, batch: int = 1, runs: int = 0, threads: int = 1
) -> dict[str, Measured]:
    """Measure ONNX files (id -> path) one after another in one fresh process.

    `batch` images at once for the memory figures, `runs` single images for the latency (0: none measured).
    Raises RuntimeError with the process's own words where it fails.
    """
    request = {
        "models": {name: str(path) for name, path in models.items()},
        "size": list(size),
        "batch": batch,
        "runs": runs,
        "threads": threads,
    }
    command = [sys.executable, "-m", "pdtool.runtime.measure"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode < 0 or "MemoryError" in done.stderr:
        raise InputError(
            f"measuring {batch} images at once was stopped (exit code {done.returncode}), probably for want of memory; "
            f"use a smaller --batch"
        )
    if done.returncode != 0:
        raise RuntimeError(f"measuring failed with exit code {done.returncode}: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return {name: decode(Measured, figures, file="measurement") for name, figures in answer.items()}


def _measure(path: Path, size: Size, batch: int, runs: int, threads: int) -> Measured:
    model = path.read_bytes()
    images = np.full((batch, *size), 0.5, dtype=np.float32)
    filler = OnnxEngine(model, name=path.name, threads=threads)  # takes the holes that the model before has left
    workers = Workers(WORKERS, batch)
    workers.run([filler], images)
    filler.shrink()
    reset_peak()
    before = resident_bytes() - len(model)  # the file's bytes are part of what loading it takes
    started = time.perf_counter()
    engine = OnnxEngine(model, name=path.name, threads=threads)
    load_ms = 1e3 * (time.perf_counter() - started)
    del model
    engine.run(images[:1])
    load_peak = peak_bytes() - before
    engine.shrink()
    resident = max(resident_bytes() - before, 0)  # a model of a few KiB fits into pages that were there already
    reset_peak()
    workers.run([engine], images)
    run_peak = peak_bytes() - before
    engine.shrink()
    resident = max(resident, resident_bytes() - before)
    one = images[:1]
    times = np.zeros(runs)
    warm = time.perf_counter() + WARM_UP_S if runs else 0.0
    while time.perf_counter() < warm:
        engine.run(one)
    for i in range(runs):
        started = time.perf_counter()
        engine.run(one)
        times[i] = 1e3 * (time.perf_counter() - started)
    engine.close()
    filler.close()
    workers.close()
    latency = tuple(float(x) for x in np.percentile(times, (50, 90, 99))) if runs else ()
    return Measured(
        load_ms=load_ms,
        resident_bytes=resident,
        load_peak_bytes=max(load_peak, resident),
        run_bytes=grown(run_peak - resident) + FIRST_REGION,
        latency_ms=latency,
        runs=runs,
        batch=batch,
    )


def _main() -> None:
    request = json.load(sys.stdin)
    paths = {name: Path(path) for name, path in request["models"].items()}
    size: Size = tuple(request["size"])
    tune_malloc()
    largest = max(paths.values(), key=os.path.getsize)
    # The first session also loads the runtime's own machinery: paid once, before the first model is measured.
    _measure(largest, size, request["batch"], 0, request["threads"])
    answer = {
        name: encode(_measure(path, size, request["batch"], request["runs"], request["threads"]))
        for name, path in paths.items()
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
