"""What every model says of every image, from the bundle's own files: what calibration and evaluation count."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import Evidence, fit_temperature, graded
from pdtool.errors import InputError
from pdtool.images import Images, as_input, size_of
from pdtool.runtime.bundle import OpenBundle
from pdtool.runtime.engine_onnx import OnnxEngine

__all__ = ["Votes", "collect_votes"]


@dataclass(frozen=True)
class Votes:
    """Labels as class indices: the original's (N,) and each member's (N, M), members in the bundle's order.

    `graded` (N, M) and `temperatures` (M,) where temperatures were given or fitted.
    """

    original: NDArray[np.int64]
    members: NDArray[np.int64]
    graded: NDArray[np.float64] | None = None
    temperatures: tuple[float, ...] | None = None

    @property
    def evidence(self) -> Evidence:
        """What the members say against the original's labels."""
        return Evidence(self.members != self.original[:, None], self.graded)


def collect_votes(
    opened: OpenBundle,
    images: Images,
    *,
    fit_on: NDArray[np.int64] | None = None,
    temperatures: tuple[float, ...] | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Votes:
    """Run every model of the bundle on images (N, H, W, C) of the input's size, one model in memory at a time.

    Graded evidence is recorded with the `temperatures` (M,) given, or with those fitted on the images `fit_on`
    (indices). `advance(1)` is called after each model. Raises InputError for images of another size or a model that
    gives NaN.
    """
    channels, height, width = size_of(opened.bundle.preprocessing)
    if images.ndim != 4 or images.shape[1:] != (height, width, channels):
        raise InputError(f"expected images (N, {height}, {width}, {channels}), got {images.shape}")

    def logits_of(i: int) -> NDArray[np.float32]:
        model = opened.models[i]
        engine = OnnxEngine(opened.read(model.file), name=model.id, threads=threads)
        try:
            step = opened.bundle.measured_batch
            parts = [engine.run(as_input(images[k : k + step])) for k in range(0, len(images), step)]
        finally:
            engine.close()
        together = np.concatenate(parts) if parts else np.zeros((0, len(opened.bundle.classes)), dtype=np.float32)
        if not np.isfinite(together).all():
            raise InputError(f"{model.id}: gives logits that are not finite; compress or export it again")
        advance(1)
        return together

    original = logits_of(0).argmax(axis=1)
    labels, evidence, scales = [], [], []
    for i in range(1, len(opened.models)):
        logits = logits_of(i)
        labels.append(logits.argmax(axis=1))
        if fit_on is not None or temperatures is not None:
            scale = temperatures[i - 1] if temperatures else fit_temperature(logits[fit_on], original[fit_on])
            scales.append(scale)
            evidence.append(graded(logits, original, scale))
    return Votes(
        original,
        np.stack(labels, axis=1),
        np.stack(evidence, axis=1) if evidence else None,
        tuple(scales) or None,
    )
