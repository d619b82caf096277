"""JPEG compression, with the usual tables and with a table against attacks.

JPEG: Das et al. 2017, "Keeping the Bad Guys Out"; quality 75 as in Guo et al. 2018.

DO-JPEG: Liu et al. 2019, "Feature Distillation: DNN-Oriented JPEG Compression Against Adversarial Examples". Nearly the
same step for every frequency, so that what an attack hides where eyes see little goes too: 25 for the four by four
lowest, 30 for the others (the authors' program). It differs from the program in that this is a real JPEG file: the
colours are transformed first (YCbCr, not thinned out), where the program quantises red, green and blue.
"""

import io

import numpy as np
from numpy.typing import NDArray

from pdtool.extras import require

__all__ = ["do_jpeg", "jpeg"]

Images32 = NDArray[np.float32]

BLOCK = 8  # side of what JPEG transforms at once


def jpeg(images: Images32, *, quality: int) -> Images32:
    """Images (N, H, W, C) through a JPEG file of that quality, colours thinned out two by two."""
    return _through_files(images, quality=quality)


def do_jpeg(images: Images32, *, low: int, high: int, band: int) -> Images32:
    """Images (N, H, W, C) through a JPEG file with steps `low` for the `band` x `band` lowest frequencies, else `high`.

    Steps are grey levels of 255.
    """
    table = np.full((BLOCK, BLOCK), high)
    table[:band, :band] = low
    # no `quality` beside it: Pillow would scale the tables by it
    return _through_files(images, subsampling=0, qtables=[table.ravel().tolist()] * 2)


def _through_files(images: Images32, **options: object) -> Images32:
    """Each image saved with Pillow's JPEG options and read again; rounded to whole grey levels first."""
    image_module = require("PIL.Image", "compress images")
    pixels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    read = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        file = io.BytesIO()
        image_module.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", **options)
        with image_module.open(file) as picture:
            read[i] = np.asarray(picture, dtype=np.uint8).reshape(image.shape)
    return read.astype(np.float32) / np.float32(255)
