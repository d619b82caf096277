"""Attacked images as data: float32 pixels with what was done to them, never through a lossy picture file.

Saving through 8 bits would undo small changes, and saving through a stretch of the contrast would add its own; so an
attack's result is stored as the numbers that fooled the net.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.files import npz_bytes, write_atomic
from pdtool.jsonform import canonical

__all__ = ["Attacked", "write_attacked"]


@dataclass(frozen=True)
class Attacked:
    """Images (N, H, W, C) float32 in [0, 1] made by one attack from images that the net classified correctly.

    A frame with `success` False was attacked but is still labelled correctly: it counts in no detection rate.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]  # (N,) true label
    given: NDArray[np.int64]  # (N,) label that the attacked net gives
    success: NDArray[np.bool_]  # (N,) given != label
    source: NDArray[np.int64]  # (N,) index of the clean image in the data
    linf: NDArray[np.float64]  # (N,) largest change of a pixel
    l2: NDArray[np.float64]  # (N,) Euclidean length of the change
    provenance: dict[str, Any]  # attack, settings, library, seed, images_given, ...

    def __len__(self) -> int:
        return len(self.labels)


def write_attacked(path: Path, attacked: Attacked, classes: Sequence[str]) -> None:
    """Store as `.npz`: every array by its name, `classes` and `provenance` as a JSON string."""
    arrays: dict[str, NDArray[Any]] = {field.name: getattr(attacked, field.name) for field in fields(attacked)}
    arrays["provenance"] = np.array(canonical(attacked.provenance).decode())
    arrays["classes"] = np.array(classes)
    write_atomic(path, npz_bytes(arrays))
