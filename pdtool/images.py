"""Pictures to model input: the one code path that training, calibration, evaluation and screening share."""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import Preprocessing
from pdtool.errors import InputError
from pdtool.extras import require

__all__ = ["Images", "Size", "as_input", "decode", "fit", "fit_all"]

Images = NDArray[np.uint8] | NDArray[np.float32]
Size = tuple[int, int, int]  # channels, height, width

LARGEST_PIXELS = 64_000_000  # a picture larger than this is refused before it is unpacked


def decode(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """An encoded picture (PNG, JPEG, ...) as uint8 (H, W) grey or (H, W, 3) RGB.

    Raises InputError for a truncated, foreign or oversized file, MissingError without Pillow.
    """
    image_module = require("PIL.Image", "read picture files")
    try:
        with image_module.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > LARGEST_PIXELS:
                raise InputError(f"{name}: {picture.width}x{picture.height} pixels, at most {LARGEST_PIXELS} allowed")
            grey = picture.mode in ("1", "L", "LA", "I;16")
            if picture.mode == "I;16":  # 16-bit grey: keep the high byte
                return (np.asarray(picture) >> 8).astype(np.uint8)
            return np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise InputError(f"{name}: not a readable picture ({error})") from None


def fit(image: Images, size: Size) -> Images:
    """One picture (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as (height, width, channels) of `size`.

    uint8 pictures are converted in colour (ITU-R 601 luma; alpha is dropped) and resized with Pillow's
    antialiased bilinear filter. float32 pictures in [0, 1] (attacked images) must have the right size already:
    resizing would change what was measured. Raises InputError for any other shape, type or value.
    """
    channels, height, width = size
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise InputError(f"expected a picture of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {image.shape}")
    if image.dtype == np.float32:
        if image.shape != (height, width, channels):
            raise InputError(f"a float32 picture must be {(height, width, channels)} already, got {image.shape}")
        if not (np.isfinite(image).all() and image.min() >= 0.0 and image.max() <= 1.0):
            raise InputError("a float32 picture must hold numbers in [0, 1]; this one has NaN or values outside")
        return image
    if image.dtype != np.uint8:
        raise InputError(f"expected a uint8 picture (0..255) or float32 (0..1), got {image.dtype}")
    image = image[..., :3] if image.shape[2] == 4 else image
    if image.shape[2] == 3 and channels == 1:
        luma = image.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)  # Pillow's own weights / 2^16
        image = ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]
    elif image.shape[2] == 1 and channels == 3:
        image = np.concatenate([image.astype(np.uint8, copy=False)] * 3, axis=2)
    if image.shape[:2] != (height, width):
        image_module = require("PIL.Image", "resize pictures")
        picture = image_module.fromarray(image[..., 0] if channels == 1 else image)
        resized = picture.resize((width, height), image_module.Resampling.BILINEAR)
        image = np.asarray(resized, dtype=np.uint8).reshape(height, width, channels)
    return image


def fit_all(images: Iterable[Images], size: Size) -> Images:
    """Pictures of any sizes as one array (N, height, width, channels); all uint8 or all float32."""
    channels, height, width = size
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (height, width, channels):
        return images
    fitted = [fit(image, size) for image in images]
    if not fitted:
        return np.zeros((0, height, width, channels), dtype=np.uint8)
    if len({image.dtype for image in fitted}) > 1:
        raise InputError("expected pictures all uint8 or all float32, got both")
    stacked: Images = np.stack(fitted)  # type: ignore[assignment]  # NumPy's stubs lose the union
    return stacked


def as_input(images: Images, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """(N, H, W, C) uint8 (0..255) or float32 (0..1) as the models' input: float32 (N, C, H, W) in [0, 1].

    `out`: where to write them, instead of into new memory.
    """
    planes = images.transpose(0, 3, 1, 2)
    if out is None:
        out = np.empty(planes.shape, dtype=np.float32)
    if images.dtype == np.uint8:
        return np.multiply(planes, np.float32(1 / 255), out=out, dtype=np.float32)
    np.copyto(out, planes)
    return out


def size_of(preprocessing: Preprocessing) -> Size:
    """(channels, height, width) of the model's input."""
    return preprocessing.channels, preprocessing.height, preprocessing.width
