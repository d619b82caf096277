"""Frames that wait until they are read: pictures, archives, .npz, video files, the test pattern. None is dropped."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pdtool.datasets import read_npz
from pdtool.errors import InputError, UsageError
from pdtool.folders import PICTURES, is_archive, list_pictures, read_pictures
from pdtool.images import LARGEST_PIXELS, decode
from pdtool.runtime.frames import Shot
from pdtool.runtime.video import read_video

__all__ = ["read_path", "read_pattern"]

OTHER_PICTURES = (".webp", ".tif", ".tiff")


def read_path(path: Path) -> Iterator[Shot]:
    """The frames of a folder or archive of pictures, a .npz, a picture or a video file.

    Raises InputError for a path that holds no frames; a picture that cannot be read is a Shot without image.
    """
    if path.is_dir() or is_archive(path):
        yield from _read_pictures(path)
    elif not path.is_file():
        raise InputError(f"{path}: no such file or folder; check the path")
    elif path.suffix.lower() == ".npz":
        for image in read_npz(path).images:
            yield Shot(str(path), image)
    elif path.suffix.lower() in PICTURES + OTHER_PICTURES:
        try:
            data = path.read_bytes()
        except OSError as error:
            yield Shot(str(path), None, f"cannot be read ({error.strerror})")
        else:
            yield _picture(str(path), data)
    else:
        yield from read_video(str(path))


def _read_pictures(path: Path) -> Iterator[Shot]:
    names = list_pictures(path)
    if not names:
        raise InputError(f"{path}: expected pictures ({', '.join(PICTURES)}), found none")
    for position, data in read_pictures(path, names):
        name = f"{path}/{names[position]}"
        yield Shot(name, None, "cannot be read") if data is None else _picture(name, data)


def _picture(name: str, data: bytes) -> Shot:
    try:
        return Shot(name, decode(data, name=name))
    except InputError as error:
        return Shot(name, None, str(error))


def read_pattern(*, width: int, height: int, frames: int, fps: int | None) -> Iterator[Shot]:
    """A square that moves over a gradient: uint8 (height, width, 3), no two neighbouring frames alike.

    With `fps` they come at that rate, otherwise as fast as they are read.
    """
    if width * height > LARGEST_PIXELS:
        raise UsageError(f"test:pattern: {width}x{height} pixels, at most {LARGEST_PIXELS} allowed")
    started = time.monotonic()
    y, x = np.mgrid[:height, :width]
    side = max(min(width, height) // 4, 1)
    for i in range(frames):
        image = np.empty((height, width, 3), dtype=np.uint8)
        image[..., 0] = x * 255 // max(width - 1, 1)
        image[..., 1] = y * 255 // max(height - 1, 1)
        image[..., 2] = i * 8 % 256
        left, top = (3 * i) % max(width - side, 1), (2 * i) % max(height - side, 1)
        image[top : top + side, left : left + side] = 255 - image[top, left]
        if fps:
            time.sleep(max(started + i / fps - time.monotonic(), 0))
        yield Shot("test:pattern", image)
