"""How long a frame takes on this machine, one image at a time: what a latency limit can afford."""

import time

import numpy as np

from pdtool.errors import GateError, UsageError
from pdtool.images import Images, as_input
from pdtool.runtime.providers import Provider

__all__ = ["affordable", "single_ms"]

WARM_UP, RUNS = 3, 20


def single_ms(provider: Provider, image: Images) -> list[float]:
    """Median wall time (ms) of each file, the original first, on one image (1, H, W, C), already loaded."""
    taken = []
    for model in {model.file.path: model for model in provider.models}.values():
        engine = provider.load(model)
        try:
            batch = as_input(image)
            for _ in range(WARM_UP):
                engine.run(batch)
            runs = []
            for _ in range(RUNS):
                started = time.perf_counter()
                engine.run(batch)
                runs.append(1e3 * (time.perf_counter() - started))
        finally:
            engine.close()
        taken.append(float(np.median(runs)))
    return taken


def affordable(provider: Provider, image: Images, limit_ms: float) -> int:
    """How many members fit a frame's time after the original, the slowest ones: the models' own time, all loaded.

    A file that holds several members runs as a whole.

    Raises GateError where none does, UsageError for a limit that is no time.
    """
    if not 0 < limit_ms < np.inf:
        raise UsageError(f"expected --latency-ms above 0, got {limit_ms:g}")
    original, *files = single_ms(provider, image)
    spent = original + np.cumsum(sorted(files, reverse=True))
    held = len(provider.models) - 1
    most = min(int((spent <= limit_ms).sum()) * -(-held // len(files)), held)
    if most == 0:
        raise GateError(
            f"the original and one member take {spent[0]:.2f} ms on this machine, --latency-ms allows {limit_ms:g}; "
            f"raise it, or prune more"
        )
    return most
