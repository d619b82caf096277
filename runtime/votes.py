"""Every model's label on every image, from the bundle's own files: what calibration and evaluation count."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import InputError
from pdtool.images import Images, as_input, size_of
from pdtool.runtime.bundle import OpenBundle
from pdtool.runtime.engine_onnx import OnnxEngine

__all__ = ["Votes", "collect_votes"]


@dataclass(frozen=True)
class Votes:
    """Labels as class indices: the original's (N,) and each member's (N, M), members in the bundle's order."""

    original: NDArray[np.int64]
    members: NDArray[np.int64]

    @property
    def changed(self) -> NDArray[np.bool_]:
        """(N, M): the member disagrees with the original."""
        changed: NDArray[np.bool_] = self.members != self.original[:, None]
        return changed


def collect_votes(
    opened: OpenBundle,
    images: Images,
    *,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Votes:
    """Run every model of the bundle on images (N, H, W, C) of the input's size, one model in memory at a time.

    `advance(1)` is called after each model. Raises InputError for images of another size or a model that gives NaN.
    """
    channels, height, width = size_of(opened.bundle.preprocessing)
    if images.ndim != 4 or images.shape[1:] != (height, width, channels):
        raise InputError(f"expected images (N, {height}, {width}, {channels}), got {images.shape}")
    labels = []
    for model in opened.models:
        engine = OnnxEngine(opened.read(model.file), name=model.id, threads=threads)
        try:
            step = opened.bundle.measured_batch
            logits = [engine.run(as_input(images[i : i + step])) for i in range(0, len(images), step)]
        finally:
            engine.close()
        together = np.concatenate(logits) if logits else np.zeros((0, len(opened.bundle.classes)), dtype=np.float32)
        if not np.isfinite(together).all():
            raise InputError(f"{model.id}: gives logits that are not finite; compress or export it again")
        labels.append(together.argmax(axis=1))
        advance(1)
    return Votes(labels[0], np.stack(labels[1:], axis=1))
