"""Use the cores: run engines, and parts of a batch, at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pdtool.runtime.engine import Engine

__all__ = ["Workers"]

Logits = NDArray[np.float32]


class Workers:
    """`count` threads, the caller's among them, that run engines which use one core each.

    A small model on two threads of ONNX Runtime's own is slower than on one, and two halves of a batch on a thread each
    are faster than both (measured: ResNet-18 of width 16 and its members, benchmarks/threads.md). At most `most` images
    are under way at once, as many as the memory was measured for.
    """

    def __init__(self, count: int, most: int) -> None:
        self.count = max(1, min(count, most))
        self._most = most
        self._pool = ThreadPoolExecutor(self.count - 1, thread_name_prefix="pdtool-run") if self.count > 1 else None

    def run(self, engines: Sequence[Engine], batch: NDArray[np.float32]) -> list[Logits]:
        """What each engine says of the whole batch (N, C, H, W): logits (N, classes)."""
        if self._pool is None or len(engines) * len(batch) < 2:
            return [engine.run(batch) for engine in engines]
        piece = max(1, min(-(-len(batch) // self.count), self._most // self.count))
        bounds = [*range(0, len(batch), piece), len(batch)]
        parts = len(bounds) - 1
        tasks = [(e, i) for e in range(len(engines)) for i in range(parts)]
        done: dict[tuple[int, int], Logits] = {}
        left = iter(tasks)

        def work() -> None:
            for e, i in left:  # `next` of a list's iterator is atomic: no task is taken twice
                done[e, i] = engines[e].run(batch[bounds[i] : bounds[i + 1]])

        others = [self._pool.submit(work) for _ in range(min(self.count, len(tasks)) - 1)]
        try:
            work()
        finally:
            for other in others:
                other.exception()  # wait, whatever became of it: buffers are used again afterwards
        for other in others:
            other.result()
        if parts == 1:
            return [done[e, 0] for e in range(len(engines))]
        return [np.concatenate([done[e, i] for i in range(parts)]) for e in range(len(engines))]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
