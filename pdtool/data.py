"""Data specs: one string names the images that a command works on.

(interface; readers follow)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pdtool.images import Images, Size

Role = Literal["train", "calibrate", "test"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images (N, H, W, C), uint8 or float32 in [0, 1]; labels (N,) int64 indices into `classes`, or None."""

    spec: str
    images: Images
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]  # () when unlabelled
    groups: NDArray[np.int64]  # (N,) images of one source (track, video) share a number; see `calibrate`
    skipped: tuple[str, ...]  # unreadable files, each named

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError


def load_data(spec: str, size: Size, *, role: Role, limit: int | None = None, labelled: bool = True) -> Dataset:
    raise NotImplementedError
