"""What every model says of every image, from the bundle's own files: what calibration and evaluation count."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import Evidence, fit_grading, fit_temperature, log_odds, margins, shift_of, shifted
from pdtool.calibration.kinds import Kinds, kinds_of
from pdtool.decisions import Grading
from pdtool.errors import InputError
from pdtool.images import Images, as_input, size_of
from pdtool.runtime.bundle import OpenBundle
from pdtool.runtime.providers import Provider, open_provider
from pdtool.runtime.waves import part_of
from pdtool.runtime.workers import Workers

__all__ = ["Votes", "collect_votes"]


@dataclass(frozen=True)
class Votes:
    """Labels as class indices: the original's (N,) and each member's (N, M), members in the bundle's order.

    `graded` (N, M) and `grading` where that was given or fitted; `shift` (N,) where that weighs the original's margin;
    `kinds` (M,) of a mixed pool.
    """

    original: NDArray[np.int64]
    members: NDArray[np.int64]
    graded: NDArray[np.float64] | None = None
    grading: Grading | None = None
    shift: NDArray[np.float64] | None = None
    kinds: Kinds | None = None

    @property
    def evidence(self) -> Evidence:
        """What the members say against the original's labels."""
        return Evidence(self.members != self.original[:, None], self.graded, self.shift, self.kinds)


def collect_votes(
    opened: OpenBundle,
    images: Images,
    *,
    fit_on: NDArray[np.int64] | None = None,
    weigh: bool = False,
    grading: Grading | None = None,
    provider: Provider | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Votes:
    """Run every model of the bundle on images (N, H, W, C) of the input's size, one model in memory at a time.

    Graded evidence is recorded with the `grading` given, or with one fitted on the images `fit_on` (indices), which
    with `weigh` weighs the original's margin, too. `provider` runs the models (None: ONNX Runtime on the CPU).
    `advance(1)` is called after each model.
    Raises InputError for images of another size or a model that gives NaN.
    """
    channels, height, width = size_of(opened.bundle.preprocessing)
    if images.ndim != 4 or images.shape[1:] != (height, width, channels):
        raise InputError(f"expected images (N, {height}, {width}, {channels}), got {images.shape}")
    if provider is None:
        with open_provider(opened, "onnxruntime") as on_cpu:
            return _votes(opened, images, fit_on, weigh, grading, on_cpu, advance)
    return _votes(opened, images, fit_on, weigh, grading, provider, advance)


def _votes(
    opened: OpenBundle,
    images: Images,
    fit_on: NDArray[np.int64] | None,
    weigh: bool,
    grading: Grading | None,
    provider: Provider,
    advance: Callable[[int], None],
) -> Votes:
    logits_of = _logits(opened, images, provider, advance)
    kinds = kinds_of([member.kind for member in opened.bundle.members])
    first = next(logits_of)
    original, margin = first.argmax(axis=1), margins(first)
    labels, odds, scales = [], [], []
    for i, logits in enumerate(logits_of):
        labels.append(logits.argmax(axis=1))
        if fit_on is not None or grading is not None:
            scales.append(grading.temperatures[i] if grading else fit_temperature(logits[fit_on], original[fit_on]))
            odds.append(log_odds(logits, original, scales[-1]))
    if not odds:
        return Votes(original, np.stack(labels, axis=1), kinds=kinds)
    against = np.stack(odds, axis=1)
    if grading is None:
        grading = Grading(temperatures=tuple(scales))
        if weigh:
            grading = fit_grading(against[fit_on], grading.temperatures, margin[fit_on])
    shift = shift_of(grading, margin)
    return Votes(original, np.stack(labels, axis=1), shifted(against, shift), grading, shift, kinds)


def _logits(
    opened: OpenBundle, images: Images, provider: Provider, advance: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    """Logits (N, classes) of the original and of each member; a file that holds several members runs once."""
    classes, step = len(opened.bundle.classes), opened.bundle.measured_batch
    workers, sharing = Workers(provider.workers, step), Counter(model.file.path for model in provider.models)
    file, said = "", np.zeros((0, classes), dtype=np.float32)
    try:
        for model in provider.models:
            if model.file.path != file:
                engine, file = provider.load(model), model.file.path
                try:
                    starts = range(0, len(images), step)
                    parts = [workers.run([engine], as_input(images[k : k + step]))[0] for k in starts]
                finally:
                    engine.close()
                said = np.concatenate(parts) if parts else np.zeros((0, sharing[file] * classes), np.float32)
            logits = part_of(said, model, classes, sharing[file])
            if not np.isfinite(logits).all():
                raise InputError(f"{model.id}: gives logits that are not finite; compress or export it again")
            advance(1)
            yield logits
    finally:
        workers.close()
