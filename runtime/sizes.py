"""What the models take in this process, measured once before the first frame: later, other threads allocate, too."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pdtool.artifacts import BundleModel
from pdtool.images import Size
from pdtool.runtime.engine import Engine
from pdtool.runtime.need import grown
from pdtool.runtime.workers import Workers

__all__ = ["measure_here"]

NOISE = 2**19  # bytes; loading one file again and again takes up to 0.2 MiB more or less
OTHERS = 2**20  # bytes; what a program that is busy with other things grows by meanwhile
THIRSTY = 2  # members that are run, those with the most scratch; ONNX Runtime's arena then serves the others


def measure_here(
    models: Sequence[BundleModel],
    load: Callable[[BundleModel], Engine],
    held: Callable[[], int | None],
    workers: Workers,
    size: Size,
    batch: int,
) -> tuple[tuple[BundleModel, ...], int]:
    """The models (the original first) with what they take here where that is more than the bundle says; how many do.

    Every file is loaded once beside the original, and the scratch is taken by running `batch` pictures on the workers
    that will run them. `held` gives the process's memory in bytes; where it cannot, the records are taken as they are.
    Growth beyond a record is checked by a second load, and the smaller one counts. Raises what loading raises.
    """
    if held() is None:
        return tuple(models), 0
    pixels = np.full((batch, *size), 0.5, dtype=np.float32)

    def load_once(model: BundleModel) -> tuple[Engine, int]:
        before = held() or 0
        engine = load(model)
        return engine, (held() or 0) - before

    def load_measured(model: BundleModel) -> tuple[Engine, int]:
        """The engine, and what it takes: as recorded, or more."""
        engine, taken = load_once(model)
        if taken > model.resident_bytes + NOISE:
            engine.close()
            engine, again = load_once(model)
            taken = min(taken, again)
        return engine, taken if taken > model.resident_bytes + NOISE else model.resident_bytes

    first = load(models[0])  # a process's first session also pays for the runtime's own machinery
    workers.run([first], pixels)
    first.close()
    original, resident = load_measured(models[0])
    before = held() or 0
    sizes = {models[0].file.path: resident}
    workers.run([original], pixels)
    files = {model.file.path: model for model in models[1:]}
    thirsty = sorted(files, key=lambda file: files[file].run_bytes)[-THIRSTY:]
    for file, model in files.items():
        engine, sizes[file] = load_measured(model)
        if file in thirsty:
            workers.run([original, engine], pixels)  # side by side, as for the members that every frame needs
        engine.close()
    runs = grown((held() or 0) - before - OTHERS)  # with the original loaded: what is left is the scratch
    original.close()
    larger = sum(
        sizes[file] != model.resident_bytes for file, model in {models[0].file.path: models[0], **files}.items()
    )
    return tuple(
        replace(model, resident_bytes=sizes[model.file.path], run_bytes=max(model.run_bytes, runs)) for model in models
    ), larger
