"""The real images of an export: those that set the ranges of int8, and others that every file is judged on."""

from dataclasses import dataclass

import numpy as np

from pdtool.compress.folder import PoolFolder
from pdtool.data import pixel_hashes
from pdtool.devices.catalogue import Precision
from pdtool.errors import InputError
from pdtool.images import Images, as_input, size_of
from pdtool.runtime.clean import load_clean

__all__ = ["RealImages", "pick_images", "seen_with"]

MOST_RANGES = 256  # more change the largest magnitudes little and take time for every model
FEWEST_RANGES = 16
MOST = 1024  # images read of a data spec: every model runs on them, in torch too


@dataclass(frozen=True)
class RealImages:
    """`ranges` (None unless int8) set the ranges, `judged` compare a file with its reference; no image is in both."""

    ranges: Images | None
    judged: Images


def pick_images(pool: PoolFolder, precision: Precision, spec: str | None) -> RealImages:
    """The images of the data spec and the pool's held-out samples, or of the samples alone; the same ones every time.

    For int8 every second track or image of the data (without data: of the samples) sets the ranges, evenly at most
    256; all that is left is judged on. Of a published set the part to train on is read, so that the part to calibrate
    the test on stays unseen. Raises InputError for data that cannot be used or that is too little.
    """
    samples: Images = pool.samples()[0]
    if spec is None:
        images, groups, what = samples, np.arange(len(samples)), f"{pool.folder}: the pool"
        others = samples[:0]
        more = "give --calibration-data"
    else:
        data = load_clean(spec, size_of(pool.pool.preprocessing), limit=MOST, role="train")
        images, groups, what = data.images, data.groups, spec
        others = samples if images.dtype == np.uint8 else np.moveaxis(as_input(samples), 1, 3)
        known = {image.tobytes() for image in images}  # a sample that is one of the data's goes where its track goes
        others = others[[image.tobytes() not in known for image in others]]
        more = "give more --calibration-data"
    if precision != "int8":
        judged = np.concatenate([images, others])
        if not len(judged):
            raise InputError(f"{what} holds no images to judge the files on; {more}")
        return RealImages(None, judged)
    names = np.unique(groups)
    # A short video is one group: its second half comes later than its first.
    inside = np.isin(groups, names[::2]) if len(names) > 1 else np.arange(len(images)) < len(images) // 2
    ranges = images[inside]
    if len(ranges) > MOST_RANGES:
        ranges = ranges[np.arange(MOST_RANGES) * len(ranges) // MOST_RANGES]
    mine = {image.tobytes() for image in ranges}
    judged = np.concatenate([images[~inside], others])
    judged = judged[[image.tobytes() not in mine for image in judged]] if len(judged) else judged
    if len(mine) < FEWEST_RANGES or not len(judged):
        raise InputError(
            f"{what} holds {len(images)} images, of which {len(mine)} different ones would set the ranges of int8 and "
            f"{len(judged)} others judge them; expected at least {FEWEST_RANGES} and 1: {more}"
        )
    return RealImages(ranges, judged)


def seen_with(seen: bytes, images: Images | None) -> bytes:
    """`pdtool.data.pixel_hashes` of what was seen already and of `images`."""
    if images is None:
        return seen
    both = seen + pixel_hashes(images)
    return b"".join(sorted({both[i : i + 8] for i in range(0, len(both), 8)}))
