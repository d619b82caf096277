"""How to use two cores: threads inside a model, or parts of the batch and models side by side.

    python benchmarks/threads.py [--out FILE.md]

ResNet-18 of several widths (random weights) on 32x32 pictures, ONNX Runtime: ms a batch with one thread, with two
threads inside each operator, and with two halves of the batch on a thread each; for one picture, two runs side by side
over two runs in turn. `pdtool.runtime.providers.WIDE_MACS` and `pdtool.runtime.workers` follow from it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pdtool.compress.costs import count
from pdtool.compress.models import ResNet18
from pdtool.export.onnx import to_onnx
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.workers import Workers

WIDTHS, BATCHES, SIZE = (8, 16, 24, 32, 64), (1, 4, 32), (3, 32, 32)


def ms(work: Callable[[], object], seconds: float = 1.0) -> float:
    """Median time of a call, over `seconds`."""
    work()
    taken, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 5:
        started = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken))


def row(width: int) -> str:
    """A width's line of the table."""
    torch.manual_seed(0)
    net = ResNet18(width, 10, SIZE).eval()
    file = to_onnx(net, SIZE)
    one, two = OnnxEngine(file, name="one", threads=1), OnnxEngine(file, name="two", threads=2)
    beside = OnnxEngine(file, name="beside", threads=1)
    workers = Workers(2, max(BATCHES))
    cells = [f"{width}", f"{count(net, SIZE).macs / 1e6:.0f} M"]
    for batch in BATCHES:
        x = np.random.default_rng(0).random((batch, *SIZE), dtype=np.float32)
        times = [ms(lambda x=x, engine=engine: engine.run(x)) for engine in (one, two)]  # type: ignore[misc]
        if batch > 1:
            times.append(ms(lambda x=x: workers.run([one], x)))  # type: ignore[misc]
        cells.append(" / ".join(f"{taken:.2f}" for taken in times))
    x = np.random.default_rng(0).random((1, *SIZE), dtype=np.float32)
    together, apart = ms(lambda: workers.run([one, beside], x)), ms(lambda: (one.run(x), beside.run(x)))
    cells.append(f"{together / apart:.2f}")
    for engine in (one, two, beside):
        engine.close()
    workers.close()
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    heads = ["width", "MACs", *(f"batch {batch}: one / two inside{' / halves' * (batch > 1)}, ms" for batch in BATCHES)]
    heads.append("two models side by side / in turn")
    lines = ["| " + " | ".join(heads) + " |", "|--:" * len(heads) + "|"]
    print("\n".join(lines), flush=True)
    for width in WIDTHS:
        lines.append(row(width))
        print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
