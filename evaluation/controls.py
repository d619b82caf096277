"""Benign changes of clean images, by name in `CONTROLS`: what a screener should not take for an attack.

An attacked image differs from a clean one by the attack's purpose and by its mere size; noise of the same size, and
what cameras and storage do to pictures, tell the two apart. Nothing here knows a net.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import UsageError
from pdtool.evaluation.attack_common import Setting, read_settings, spec_of
from pdtool.extras import require
from pdtool.images import Images, as_input

__all__ = ["CONTROLS", "Control", "parse_control", "run_control", "same_norm"]

Pixels = NDArray[np.float32]
BATCH, PASSES = 128, 4  # of noise that is made as long as other changes


@dataclass(frozen=True)
class Control:
    """A benign change: how it is called, what it does and its settings (printed beside each number)."""

    name: str
    function: Callable[..., Pixels]  # (images (N, H, W, C) in [0, 1], random numbers, **settings) -> images
    description: str
    settings: Mapping[str, Setting]

    @property
    def spec(self) -> str:
        """Name and settings as they are given on the command line, e.g. "jpeg:quality=75"."""
        return spec_of(self.name, self.settings)


def noise(images: Pixels, rng: np.random.Generator, *, epsilon: float) -> Pixels:
    """Every pixel `epsilon` up or down by chance: the L-inf size of an attack without its direction."""
    signs: Pixels = rng.integers(0, 2, images.shape).astype(np.float32) * 2 - 1
    changed: Pixels = images + np.float32(epsilon) * signs
    return changed


def gaussian(images: Pixels, rng: np.random.Generator, *, epsilon: float) -> Pixels:
    """Gaussian noise, of the same Euclidean length an image as `noise` of the same `epsilon` (before clipping)."""
    drawn = rng.standard_normal(images.shape, dtype=np.float32)
    length = np.sqrt((drawn**2).sum(axis=(1, 2, 3), keepdims=True))
    wanted = epsilon * np.sqrt(images[0].size) if len(images) else 0.0
    changed: Pixels = images + (drawn / length * wanted).astype(np.float32)
    return changed


def jpeg(images: Pixels, rng: np.random.Generator, *, quality: int) -> Pixels:
    """Through a JPEG file of this quality (1 to 100) and back, in memory. Raises MissingError without Pillow."""
    if not 1 <= quality <= 100:
        raise UsageError(f"control jpeg: expected a quality from 1 to 100, got {quality}; 75 is usual")
    pillow = require("PIL.Image", "compress pictures")
    out = np.empty_like(images)
    for image, place in zip(images, out, strict=True):
        levels = np.rint(image * 255).astype(np.uint8)
        file = io.BytesIO()
        pillow.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(file, "JPEG", quality=quality)
        file.seek(0)
        with pillow.open(file) as picture:
            place[:] = np.asarray(picture, dtype=np.float32).reshape(image.shape) / 255
    return out


def blur(images: Pixels, rng: np.random.Generator, *, radius: float) -> Pixels:
    """Gaussian blur; `radius`: its standard deviation in pixels. Raises MissingError without SciPy."""
    smooth = require("scipy.ndimage", "blur images").gaussian_filter
    blurred: Pixels = smooth(images, sigma=(0, radius, radius, 0), mode="nearest")
    return blurred


def contrast(images: Pixels, rng: np.random.Generator, *, factor: float) -> Pixels:
    """Distances from the image's mean times `factor`."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    changed: Pixels = mean + np.float32(factor) * (images - mean)
    return changed


def stretch(images: Pixels, rng: np.random.Generator) -> Pixels:
    """Each image's darkest value to 0 and its brightest to 1.

    What saving float arrays with `imsave` did to the attacked images, and to those alone, in code of the papers'
    authors: part of the label changes counted there may be this.
    """
    low = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - low
    return np.where(span > 0, (images - low) / np.where(span > 0, span, 1), images)


def brightness(images: Pixels, rng: np.random.Generator, *, factor: float) -> Pixels:
    """Every pixel times `factor`."""
    return images * np.float32(factor)


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control("noise", noise, "random signs, as large as an L-inf attack", {"epsilon": 8 / 255}),
        Control("gaussian", gaussian, "Gaussian noise, as long (L2) as the random signs", {"epsilon": 8 / 255}),
        Control("jpeg", jpeg, "JPEG compression", {"quality": 75}),
        Control("blur", blur, "Gaussian blur", {"radius": 1.0}),
        Control("contrast", contrast, "more contrast", {"factor": 1.3}),
        Control("stretch", stretch, "contrast stretched to the full range", {}),
        Control("brightness", brightness, "brighter", {"factor": 1.3}),
    )
}


def parse_control(text: str) -> Control:
    """`name` or `name:setting=value,...` as a control; a value may be a fraction such as 8/255.

    Raises UsageError for an unknown name or setting, or a value that is no number of its range.

    >>> parse_control("jpeg:quality=50").spec
    'jpeg:quality=50'
    """
    name, _, options = text.partition(":")
    if name not in CONTROLS:
        raise UsageError(f"unknown control {name!r}; expected one of all, same-norm, {', '.join(CONTROLS)}")
    control = CONTROLS[name]
    return replace(control, settings=read_settings("control", text, options, control.settings))


def run_control(images: Images, control: Control | str, *, seed: int = 0) -> Pixels:
    """The images (N, H, W, C) after the change, float32 in [0, 1]; same seed, same bytes.

    Raises UsageError for an unknown control or a setting out of range, MissingError without Pillow (jpeg) or SciPy
    (blur).
    """
    control = parse_control(control) if isinstance(control, str) else control
    given = np.ascontiguousarray(as_input(images).transpose(0, 2, 3, 1))
    changed = control.function(given, np.random.default_rng(seed), **control.settings)
    return np.clip(changed, 0, 1).astype(np.float32, copy=False)


def same_norm(images: Images, changed: Images, *, seed: int = 0) -> Pixels:
    """Gaussian noise on images (N, H, W, C), on each as long (L2) as its way to the `changed` one.

    What clipping to [0, 1] takes from the noise is given back, as far as three passes can.
    """
    rng, noisy = np.random.default_rng(seed), np.empty(images.shape, dtype=np.float32)
    for start in range(0, len(images), BATCH):
        before, after = (as_input(of[start : start + BATCH]).transpose(0, 2, 3, 1) for of in (images, changed))
        drawn = rng.standard_normal(before.shape, dtype=np.float32)
        wanted = _lengths(after - before)
        scale = np.ones_like(wanted)
        for _ in range(PASSES):
            length = _lengths(np.clip(before + drawn * scale, 0, 1) - before)
            scale *= wanted / np.maximum(length, np.float32(1e-12))
        noisy[start : start + BATCH] = np.clip(before + drawn * scale, 0, 1)
    return noisy


def _lengths(changes: Pixels) -> Pixels:
    lengths: Pixels = np.sqrt((changes**2).sum(axis=(1, 2, 3), keepdims=True))
    return lengths
