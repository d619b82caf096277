"""One pool as three bundles, fp32, fp16 and int8: bytes, memory, time, labels and clean label changes, in one run.

    pdtool export POOL --out fp32                                                and fp16, int8 with
    pdtool export POOL --out int8 --precision int8 --calibration-data TRAINING
    python benchmarks/precision.py fp32 fp16 int8 CLEAN

CLEAN are images that pool and bundles were not made on. ONNX Runtime on this CPU, one thread. Times are ratios to fp32:
the three files of a model run one after another, again and again, so that a busy machine slows all of them alike; the
median of a model's ratios, then the median over the models.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from pdtool.data import refuse_seen
from pdtool.images import Images, as_input, size_of
from pdtool.runtime.bundle import OpenBundle, open_bundle
from pdtool.runtime.clean import load_clean
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.measure import measure_models
from pdtool.runtime.votes import Votes, collect_votes

BATCHES = (1, 32)


def latency_ratios(bundles: list[OpenBundle], images: Images, seconds: float) -> dict[int, NDArray[np.float64]]:
    """Batch -> time over the first bundle's, a row a model, a column a bundle."""
    ratios: dict[int, list[NDArray[np.float64]]] = {batch: [] for batch in BATCHES}
    for i in range(len(bundles[0].models)):
        engines = [
            OnnxEngine(bundle.read(bundle.models[i].file), name=bundle.models[i].id, threads=1) for bundle in bundles
        ]
        for batch in BATCHES:
            x = as_input(images[:batch])
            rounds = []
            for engine in engines:
                engine.run(x)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or len(rounds) < 20:
                rounds.append([_seconds(engine, x) for engine in engines])
            times = np.array(rounds)
            ratios[batch].append(np.median(times / times[:, :1], axis=0))
        for engine in engines:
            engine.close()
    return {batch: np.array(rows) for batch, rows in ratios.items()}


def _seconds(engine: OnnxEngine, x: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    engine.run(x)
    return time.perf_counter() - started


def resident_bytes(bundle: OpenBundle) -> int:
    """What original and members hold, measured now, one after another in one fresh process."""
    paths = {model.id: bundle.folder / model.file.path for model in bundle.models}
    measured = measure_models(paths, size_of(bundle.bundle.preprocessing), batch=bundle.bundle.measured_batch)
    return sum(figures.resident_bytes for figures in measured.values())


def convolutions(bundle: OpenBundle) -> str:
    """How many convolutions of the original ONNX Runtime runs in float, and how many in int8."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        options.log_severity_level = 3
        onnxruntime.InferenceSession(bundle.read(bundle.models[0].file), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    kinds = [node.op_type for node in nodes]
    return f"{kinds.count('Conv') + kinds.count('FusedConv')}, {kinds.count('QLinearConv')}"


def agreement(votes: Votes, reference: Votes) -> NDArray[np.float64]:
    """Share of the images with the label of the reference: of the original, then of each member."""
    original = (votes.original == reference.original).mean(keepdims=True)
    return np.concatenate([original, (votes.members == reference.members).mean(axis=0)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("fp32", "fp16", "int8"):
        parser.add_argument(name, type=Path)
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=None, help="Use at most this many images.")
    parser.add_argument("--seconds", type=float, default=0.3, help="Time for a model at a batch size.")
    options = parser.parse_args()
    bundles = [open_bundle(folder) for folder in (options.fp32, options.fp16, options.int8)]
    first = bundles[0].bundle
    for bundle, expected in zip(bundles, ("fp32", "fp16", "int8"), strict=True):
        assert bundle.bundle.precision == expected, f"{bundle.folder} holds {bundle.bundle.precision}"
        same = [model.weights_sha256 for model in bundle.models] == [
            model.weights_sha256 for model in bundles[0].models
        ]
        assert same, f"{bundle.folder} is of another pool"
    data = load_clean(options.data, size_of(first.preprocessing), limit=options.limit, role="test")
    for bundle in bundles:
        refuse_seen(data, bundle.read(bundle.bundle.seen), bundle.made_on)
    votes = [collect_votes(bundle, data.images) for bundle in bundles]
    ratios = latency_ratios(bundles, data.images, options.seconds)
    agreements = [agreement(vote, votes[0]) for vote in votes]
    changes = [vote.evidence.changed for vote in votes]
    members, count = len(first.members), len(data.images)

    def row(what: str, cell: Callable[[int], str]) -> None:
        print(f"| {what} | {' | '.join(cell(i) for i in range(3))} |", flush=True)

    print(f"{members} members, n = {count} clean images of `{options.data}`: {members * count} votes.\n")
    print("| | fp32 | fp16 | int8 |\n|---|--:|--:|--:|")
    row("files, KiB", lambda i: f"{sum(model.file.bytes for model in bundles[i].models) / 1024:,.0f}")
    row("resident, KiB", lambda i: f"{resident_bytes(bundles[i]) / 1024:,.0f}")
    row("convolutions of the original that run in float, in int8", lambda i: convolutions(bundles[i]))
    for batch, of in ratios.items():
        row(f"time over fp32, original, batch {batch}", lambda i, of=of: f"{of[0, i]:.2f}")
        row(f"time over fp32, members, batch {batch}", lambda i, of=of: f"{np.median(of[1:, i]):.2f}")
    row("labels as fp32, original", lambda i: f"{agreements[i][0]:.2%}")
    row("labels as fp32, members: mean", lambda i: f"{agreements[i][1:].mean():.2%}")
    row("labels as fp32, members: least", lambda i: f"{agreements[i][1:].min():.2%}")
    row("clean label change rate", lambda i: f"{changes[i].mean():.2%}")
    row("images with any change", lambda i: f"{changes[i].any(axis=1).mean():.2%}")
    row("votes that change the label, and did not at fp32", lambda i: f"{(changes[i] & ~changes[0]).mean():.2%}")
    row("votes that do not, and did at fp32", lambda i: f"{(~changes[i] & changes[0]).mean():.2%}")
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"\n{platform.machine()}, {cores} cores, load {load:.1f} (of other work, too), one thread a model.")


if __name__ == "__main__":
    main()
