"""What screening costs: ratios within one run, on a calibrated bundle.

    python benchmarks/screening.py BUNDLE POOL DATA [--frames 2000]

- overhead: wall time of screening over the time inside the models' own `run`, exactly those used, on one core;
- two cores against one;
- against every member in PyTorch for every frame, and against groups of 20 members read from the disk for every frame
  (as the published MMT code does), at the same rule;
- loads per 1,000 clean frames by eviction policy, with room for 1/8, 1/4 and 1/2 of the members (counted, not timed);
- a camera's frames in the least memory that works, members loaded ahead of need or only when asked for;
- cold start, and what an idle process holds.

The frames are DATA's, from the beginning and over again.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pdtool.calibration.table import CONTINUE, table_of
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.data import load_data
from pdtool.images import as_input, size_of
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.engine import Engine
from pdtool.runtime.forecast import expected_loads
from pdtool.runtime.screener import Screener

MMT_GROUP = 20
PACE = 30  # frames a second of a camera


class Timed:
    """An engine whose runs are timed."""

    inside = 0.0
    measured_bytes = None

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the engine's."""
        started = time.perf_counter()
        logits = self.engine.run(batch)
        Timed.inside += time.perf_counter() - started
        return logits

    def close(self) -> None:
        """As the engine's."""
        self.engine.close()


@contextmanager
def screening(bundle: Path) -> Iterator[Screener]:
    """A screener without a budget, every model loaded, its runs timed."""
    with Screener.open(bundle, seed=0, threads=1) as screener:
        load = screener.residency.load
        screener.residency.load = lambda model: Timed(load(model))
        for model in (screener.residency.original, *screener.residency.order):
            screener.residency.engine(model)
        yield screener


def seconds_a_frame(work: Callable[[], object], frames: int) -> float:
    """Wall time."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / frames


def overhead(bundle: Path, frames: NDArray[np.uint8], batch: int) -> tuple[float, float]:
    """(wall over model time, seconds a frame) for frames given `batch` at once."""
    with screening(bundle) as screener:
        screener.screen(frames[:batch])
        Timed.inside = 0.0
        wall = seconds_a_frame(
            lambda: [screener.screen(frames[i : i + batch]) for i in range(0, len(frames), batch)], len(frames)
        )
        return wall * len(frames) / Timed.inside, wall


def on(cores: int, bundle: Path, frames: NDArray[np.uint8], batch: int) -> float:
    """Seconds a frame on so many cores, every model loaded."""
    with Screener.open(bundle, seed=0, threads=cores) as screener:
        for model in (screener.residency.original, *screener.residency.order):
            screener.residency.engine(model)
        screener.screen(frames[:batch])
        return seconds_a_frame(
            lambda: [screener.screen(frames[i : i + batch]) for i in range(0, len(frames), batch)], len(frames)
        )


def paced(bundle: Path, frames: NDArray[np.uint8], ahead: bool) -> tuple[float, float, int]:
    """(mean and 95 of 100 latencies in seconds, loads a frame) in the least memory that works, `PACE` frames a second.

    The first fifth of the frames is not counted.
    """
    with Screener.open(bundle, seed=0) as screener:
        least = screener.plan().least
    taken = list[float]()
    with Screener.open(bundle, seed=0, memory_budget=least) as screener:
        screener.residency.in_background = ahead
        due = time.perf_counter()
        for frame in frames:
            due = max(due + 1 / PACE, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            started = time.perf_counter()
            screener.screen(frame[None])
            taken.append(time.perf_counter() - started)
        loads = screener.residency.counters.loads
    counted = taken[len(taken) // 5 :]
    return float(np.mean(counted)), float(np.quantile(counted, 0.95)), loads


def in_torch(pool: PoolFolder, frames: NDArray[np.uint8]) -> float:
    """Seconds a frame for original and every member in PyTorch, frames one by one."""
    nets = [pool.original(), *(pool.member(m.id) for m in pool.pool.members if m.used)]
    pictures = [torch.from_numpy(as_input(frame[None])) for frame in frames]

    def work() -> None:
        with torch.inference_mode():
            for picture in pictures:
                for net in nets:
                    net(picture)

    return seconds_a_frame(work, len(frames))


def reloading(bundle: Path, pool: PoolFolder, frames: NDArray[np.uint8]) -> float:
    """Seconds a frame where members are read from the disk, 20 at once, until the test decides."""
    calibration = open_bundle(bundle).calibration
    assert calibration is not None
    table, original = table_of(calibration), pool.original()
    assert calibration.evidence == "label", "members are read to count label changes: calibrate with --evidence label"
    ids = [member.id for member in pool.pool.members if member.used]

    @torch.inference_mode()
    def label_of(net: torch.nn.Module, picture: torch.Tensor) -> int:
        return int(net(picture).argmax())

    def work() -> None:
        for frame in frames:
            picture = torch.from_numpy(as_input(frame[None]))
            label, changes = label_of(original, picture), 0
            for n in range(1, table.max_models + 1):
                if (n - 1) % MMT_GROUP == 0:
                    group = [pool.member(id) for id in ids[n - 1 : n - 1 + MMT_GROUP]]
                changed = int(label_of(group[(n - 1) % MMT_GROUP], picture) != label)
                changes += changed
                if table.decide(n, np.array([changes]), np.array([changed]))[0] != CONTINUE:
                    break

    return seconds_a_frame(work, len(frames))


def policies(bundle: Path, share: float) -> tuple[float, float, float]:
    """Loads per 1,000 clean frames with room for `share` of the members: ours, least recently used, nothing kept."""
    with Screener.open(bundle, seed=0) as screener:
        calibration, plan = screener.calibration, screener.plan()
        members = sum(model.resident_bytes for model in screener.residency.members)
    budget = plan.everything - int((1 - share) * members)
    with Screener.open(bundle, seed=0, memory_budget=budget) as screener:
        ours, places = expected_loads(screener.residency, calibration.models_clean), screener.residency.stays() + 1
    rng, kept = np.random.default_rng(0), list[int]()
    shares = np.array(calibration.models_clean) / sum(calibration.models_clean)
    depths = rng.choice(len(shares), size=5000, p=shares) + 1
    loads = 0
    for depth in depths:
        for member in range(depth):
            if member in kept:
                kept.remove(member)
            else:
                loads += 1
            kept = [*kept, member][-places:]
    return 1000 * ours, 1000 * loads / len(depths), 1000 * float(depths.mean())


COLD = """
import sys, time
begun = time.perf_counter()
import pdtool.runtime
imported = time.perf_counter() - begun
from pdtool.runtime.screener import Screener
import numpy as np
with Screener.open(sys.argv[1], seed=0, threads=1) as screener:
    size = screener.opened.bundle.preprocessing
    screener.screen(np.zeros((1, size.height, size.width, size.channels), dtype=np.uint8))
    rss = [int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS")][0]
    print(imported, rss)
"""
BARE = """
import numpy, onnxruntime
print([int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS")][0])
"""


def cold(bundle: Path) -> tuple[float, float, float]:
    """(seconds from process start to the first verdict, of them importing, MiB above Python with ONNX Runtime)."""
    best = (np.inf, 0.0, 0.0)
    bare = float(subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True, text=True).stdout)
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", COLD, str(bundle)], capture_output=True, check=True, text=True)
        imported, rss = map(float, done.stdout.split())
        best = min(best, (time.perf_counter() - started, imported, rss - bare))
    return best


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("bundle", "pool"):
        parser.add_argument(name, type=Path)
    parser.add_argument("data")
    parser.add_argument("--frames", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    opened, pool = open_bundle(options.bundle), open_pool(options.pool)
    images = load_data(options.data, size_of(opened.bundle.preprocessing), role="test").images
    frames = images[np.arange(options.frames) % len(images)]
    few = frames[: max(20, options.frames // 10)]
    print("| what | measured |\n|---|--:|")
    for batch in (32, 1):
        ratio, wall = overhead(options.bundle, frames, batch)
        print(
            f"| time over that of the models used, batch {batch} | {ratio:.3f} ({1e3 * wall:.2f} ms a frame) |",
            flush=True,
        )
    for batch in (32, 1):
        one, two = (on(cores, options.bundle, frames, batch) for cores in (1, 2))
        print(f"| one core over two, batch {batch} | {one / two:.2f} x ({1e3 * two:.2f} ms a frame) |", flush=True)
    for ahead in (False, True):
        mean, slow, loads = paced(options.bundle, few, ahead)
        print(
            f"| {PACE} frames a second in the least memory, members loaded {'ahead' if ahead else 'when asked for'}: "
            f"mean, 95 of 100, loads | {1e3 * mean:.1f}, {1e3 * slow:.1f} ms, {loads / len(few):.2f} a frame |",
            flush=True,
        )
    naive, read = in_torch(pool, few), reloading(options.bundle, pool, few)
    count = 1 + len(opened.bundle.members)
    print(f"| all {count} models in PyTorch for every frame, against batch 1 | {naive / wall:.1f} x |")
    print(f"| groups of {MMT_GROUP} read from the disk for every frame, against batch 1 | {read / wall:.1f} x |")
    for share in (1 / 8, 1 / 4, 1 / 2):
        ours, lru, none = policies(options.bundle, share)
        print(
            f"| loads per 1,000 clean frames with room for {share:.3g} of the members: ours, least recently used, "
            f"nothing kept "
            f"| {ours:.0f}, {lru:.0f}, {none:.0f} |"
        )
    total, imported, more = cold(options.bundle)
    print(f"| process start to first verdict, of it importing | {total:.2f} s, {imported:.2f} s |")
    print(f"| held after one verdict above Python with ONNX Runtime | {more:.0f} MiB |")


if __name__ == "__main__":
    main()
