"""A process that screens, and what the system says that it holds: read from outside, from Linux's /proc.

The process is this file, run as a program. It reads the pictures, runs a tiny model that is none of the bundle's, so
that ONNX Runtime's own machinery is there, opens the bundle and stops: what it holds then is the idle figure. It then
screens on two cores, stops for a moment every so many frames, closes the screener, stops once more, and ends.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.decisions import Verdict
from pdtool.devices.memory import give_back
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.frames import Frame
from pdtool.runtime.screener import Screener

__all__ = ["AGED", "DRIFT", "MIB", "Outside", "Stop", "as_rows", "drift", "screening", "tenths"]

MIB = 2**20
POLL_S = 0.004
AGED = 6000  # loads; until then a heap that loads and drops models ages, and its peaks rise
DRIFT = MIB / 2  # most that `drift` may be in a process that is called flat: what is loaded differs from time to time


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What the process said and held when it stopped after `done` frames. Bytes; growth is that over the idle one."""

    done: int
    closed: bool  # the screener is closed: the last stop
    growth: int  # VmRSS
    peak: int  # VmHWM since the stop before
    polled: int  # most VmRSS that was read so far, between stops and at them
    reserved: int  # by the ledger
    counters: dict[str, int]  # of the residency
    verdicts: dict[str, int]
    asked: int  # members, over all frames
    files: int  # open ones
    threads: int


class Outside:
    """The process, seen from outside. Raises SystemExit where it ends early; what it printed says why."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Wait until it is idle, then watch it."""
        self.process, self.folder = process, Path(f"/proc/{process.pid}")
        self.idle = self.polled = 0
        if self._said()["reserved"]:
            raise SystemExit("models were loaded before the first frame: the idle figure would hold them")
        self._reset_peak()
        self.idle = self._grown("VmRSS")
        threading.Thread(target=self._poll, daemon=True).start()

    def stops(self) -> Iterator[Stop]:
        """Let it go on from stop to stop, until it has ended."""
        closed = False
        while not closed:
            self._go()
            said = self._said()
            closed, growth = said["closed"], self._grown("VmRSS")
            self.polled = max(self.polled, growth)
            stop = Stop(
                growth=growth,
                peak=self._grown("VmHWM"),
                polled=self.polled,
                files=len(os.listdir(self.folder / "fd")),
                threads=len(os.listdir(self.folder / "task")),
                **said,
            )
            self._reset_peak()
            yield stop
        self._go()

    def _said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the screening process ended early, with exit code {self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def _go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")

    def _grown(self, name: str) -> int:
        for line in (self.folder / "status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024 - self.idle
        raise OSError(f"{self.folder}/status has no {name}")

    def _reset_peak(self) -> None:
        (self.folder / "clear_refs").write_text("5")

    def _poll(self) -> None:
        with suppress(OSError):  # it has ended
            while self.process.returncode is None:
                self.polled = max(self.polled, self._grown("VmRSS"))
                time.sleep(POLL_S)


@contextmanager
def screening(bundle: Path, data: str, *, budget: int, frames: int, batch: int | None, every: int) -> Iterator[Outside]:
    """The process, idle: `frames` pictures of DATA, over and over, `batch` at once (None: as one stream).

    It stops every `every` frames and at their end, then once more when the screener is closed.
    """
    from pdtool.data import load_data
    from pdtool.images import size_of

    with tempfile.TemporaryDirectory() as folder:
        images = load_data(data, size_of(open_bundle(bundle).bundle.preprocessing), role="test").images
        np.save(f"{folder}/pictures.npy", images)
        Path(f"{folder}/tiny.onnx").write_bytes(_tiny())
        settings = {"bundle": str(bundle), "budget": budget, "frames": frames, "batch": batch, "every": every}
        command = [sys.executable, __file__, folder, json.dumps(settings)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            try:
                yield Outside(process)
            except BaseException:
                process.kill()
                raise


def tenths(stops: list[Stop]) -> list[tuple[float, int]]:
    """(mean, most) of the stops' peaks in every tenth of the frames.

    Peaks, since they differ less than what is held at the stops, when one member more or less may be loaded.
    """
    return [(float(part.mean()), int(part.max())) for part in np.array_split([stop.peak for stop in stops], 10)]


def drift(stops: list[Stop]) -> float:
    """Bytes by which the mean peak of the last tenth of the frames exceeds that of the tenth after `AGED` loads.

    Where there were not so many loads, of the tenth in the middle.
    """
    peaks, part = [stop.peak for stop in stops], max(1, len(stops) // 10)
    aged = [stop.peak for stop in stops if stop.counters["loads"] >= AGED]
    begin = aged if len(aged) > part else peaks[len(peaks) // 2 :]
    return float(np.mean(peaks[-part:]) - np.mean(begin[:part]))


def as_rows(rows: list[tuple[str, ...]]) -> str:
    """Rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _tiny() -> bytes:
    """Pixels (N, 3, 8, 8) to 10 numbers, through the operators that classifiers are made of."""
    import onnx

    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    rng = np.random.default_rng(0)
    weights = {"kernel": (16, 3, 3, 3), "second": (16, 16, 3, 3), "head": (16, 10)}
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", floats, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", floats, ["batch", 10])],
        [onnx.numpy_helper.from_array(rng.standard_normal(w).astype(np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _verdicts(screener: Screener, pictures: NDArray[np.uint8], frames: int, batch: int | None) -> Iterator[Verdict]:
    if batch is not None:
        for start in range(0, frames, batch):
            yield from screener.screen(pictures[np.arange(start, min(start + batch, frames)) % len(pictures)])
        return
    yield from screener.screen_frames(
        Frame(index=i, source="", time=0.0, image=pictures[i % len(pictures)], reason=None, live=False, dropped=0)
        for i in range(frames)
    )


def _main(folder: Path, bundle: str, budget: int, frames: int, batch: int | None, every: int) -> None:
    """The process."""
    if len(cores := sorted(os.sched_getaffinity(0))) > 2:
        os.sched_setaffinity(0, cores[:2])
    pictures = np.load(folder / "pictures.npy")
    tiny = OnnxEngine((folder / "tiny.onnx").read_bytes(), name="tiny")
    tiny.run(np.zeros((8, 3, 8, 8), dtype=np.float32))
    tiny.close()
    verdicts, asked = Counter[str](), 0

    def stop(done: int, closed: bool = False) -> None:
        residency = screener.residency
        said = {"done": done, "closed": closed, "reserved": residency.reserved, "counters": vars(residency.counters)}
        print(json.dumps({**said, "verdicts": verdicts, "asked": asked}), flush=True)
        sys.stdin.readline()

    with Screener.open(bundle, memory_budget=budget, seed=0) as screener:
        give_back()  # freed memory that stayed would hide what models take
        stop(0)
        for done, verdict in enumerate(_verdicts(screener, pictures, frames, batch), start=1):
            verdicts[verdict.verdict] += 1
            asked += verdict.models_used
            if done % every == 0 or done == frames:
                stop(done)
    stop(frames, closed=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
