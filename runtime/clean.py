"""Clean images to calibrate on: a data spec, or recorded footage of the camera itself."""

from pathlib import Path

import numpy as np

from pdtool.data import Dataset, Role, load_data
from pdtool.errors import InputError
from pdtool.images import Size, fit, fit_all
from pdtool.runtime.sources import open_frames

__all__ = ["load_clean"]

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
# A video is cut into at most so many stretches of at least so many frames (10 s at 30 a second); the split never
# separates frames of one, and the promise counts stretches, not frames.
BLOCKS, BLOCK_FRAMES = 160, 300


def load_clean(spec: str, size: Size, *, limit: int | None = None, role: Role = "calibrate") -> Dataset:
    """The images of a data spec (labels where there are some) or of a video file, in the input's size.

    A video's frames are not independent: they are grouped into contiguous stretches, which the calibration's split
    keeps whole. With `limit` a video is read evenly; `role` as for `load_data`. Raises InputError for data that cannot
    be used.
    """
    if Path(spec).suffix.lower() not in VIDEOS:
        return load_data(spec, size, role=role, limit=limit, labelled=False)
    images = []
    skipped = []
    with open_frames(spec) as frames:
        for frame in frames:
            if frame.image is None:
                skipped.append(f"frame {frame.index}: {frame.reason}")
            else:
                images.append(fit(frame.image, size))
    if not images:
        raise InputError(f"{spec}: no readable frames")
    blocks = max(1, min(BLOCKS, len(images) // BLOCK_FRAMES))
    groups = np.arange(len(images), dtype=np.int64) * blocks // len(images)
    if limit is not None and limit < len(images):
        kept = [i * len(images) // limit for i in range(limit)]
        images, groups = [images[i] for i in kept], groups[kept]
    return Dataset(
        spec=spec, images=fit_all(images, size), labels=None, classes=(), groups=groups, skipped=tuple(skipped)
    )
