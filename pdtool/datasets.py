"""Readers of data sets in their published file formats, of .npz files and of dataset factories.

Nothing is unpickled: CIFAR-10 is read from its binary version, .npz files with `allow_pickle=False`.
"""

import gzip
import importlib
import inspect
import io
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import InputError, PdtoolError
from pdtool.extras import current_folder_importable, require
from pdtool.files import npz_header
from pdtool.folders import is_archive, open_member
from pdtool.images import Images

__all__ = ["NAMED", "Raw", "Role", "largest_bytes", "read_factory", "read_npz"]

Role = Literal["train", "calibrate", "test"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")
NPZ_MEMBERS = ("images.npy", "labels.npy", "classes.npy")
DIGITS_SHARES = (0.55, 0.25)  # train, calibrate; the rest is test


@dataclass(frozen=True)
class Raw:
    """What a reader found: images (N, H, W) or (N, H, W, C), labels (N,) or None, class names ((): numbered)."""

    images: Images
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]


def largest_bytes() -> int:
    """The most bytes that one array of images may take here: half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def halves(raw: Raw, role: Role) -> Raw:
    """The test file's first half within every class for `calibrate`, its second half for `test`."""
    assert raw.labels is not None
    chosen = []
    for label in np.unique(raw.labels):
        inside = np.flatnonzero(raw.labels == label)
        chosen.append(inside[: len(inside) // 2] if role == "calibrate" else inside[len(inside) // 2 :])
    order = np.sort(np.concatenate(chosen))
    return Raw(raw.images[order], raw.labels[order], raw.classes)


def read_digits(folder: Path, role: Role) -> Raw:
    """scikit-learn's 1797 scans of 8x8 pixels with 17 grey levels, cut once and for all into three stratified parts."""
    del folder
    digits = require("sklearn.datasets", "read the data set 'digits'").load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    rng = np.random.default_rng(0)
    part = np.empty(len(labels), dtype="<U9")
    for label in range(10):
        inside = rng.permutation(np.flatnonzero(labels == label))
        train, calibrate = (round(share * len(inside)) for share in DIGITS_SHARES)
        part[inside[:train]] = "train"
        part[inside[train : train + calibrate]] = "calibrate"
        part[inside[train + calibrate :]] = "test"
    return Raw(images[part == role], labels[part == role], DIGITS)


def read_cifar10(folder: Path, role: Role) -> Raw:
    """CIFAR-10's binary version: records of one label byte and 3072 bytes, red, green and blue planes of 32x32."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if role == "train" else ["test_batch.bin"]
    labels, images = [], []
    for name in names:
        data = _member(folder, name, "cifar-10-binary.tar.gz, unpacked or as it is")
        if data is None:
            if _member(folder, name.removesuffix(".bin"), "") is not None:
                raise InputError(
                    f"{folder}: holds CIFAR-10's python version, whose files are pickles; they are never opened: "
                    f"use the binary version (cifar-10-binary.tar.gz)"
                )
            raise InputError(f"{folder}: expected {name} of CIFAR-10's binary version, found none; check the path")
        if not data or len(data) % 3073:
            raise InputError(f"{folder}: {name} should be records of 3073 bytes, has {len(data)} bytes; copy it again")
        records = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3073)
        if records[:, 0].max() > 9:
            raise InputError(f"{folder}: {name} holds label {records[:, 0].max()}, expected 0..9; is it CIFAR-10?")
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    raw = Raw(np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels), CIFAR10_CLASSES)
    return raw if role == "train" else halves(raw, role)


def read_svhn(folder: Path, role: Role) -> Raw:
    """SVHN's cropped digits (MATLAB files): X (32, 32, 3, N) uint8, y (N, 1) with 10 for the digit 0."""
    name = "train_32x32.mat" if role == "train" else "test_32x32.mat"
    data = _member(folder, name, "the folder of SVHN's cropped digits")
    if data is None:
        raise InputError(f"{folder}: expected {name} of SVHN's cropped digits, found none; check the path")
    loadmat = require("scipy.io", "read SVHN's .mat files").loadmat
    try:
        content = loadmat(io.BytesIO(data), variable_names=("X", "y"))
    except Exception as error:  # scipy raises whatever the damaged bytes lead to
        raise InputError(f"{folder}: {name} is not a readable .mat file ({error}); copy it again") from None
    x, y = content.get("X"), content.get("y")
    if (
        x is None
        or y is None
        or x.dtype != np.uint8
        or x.ndim != 4
        or x.shape[:3] != (32, 32, 3)
        or y.size != x.shape[3]
    ):
        raise InputError(f"{folder}: {name} should hold X (32, 32, 3, N) uint8 and y (N, 1); copy it again")
    labels = y.reshape(-1).astype(np.int64)
    if labels.min() < 1 or labels.max() > 10:
        raise InputError(f"{folder}: {name} holds labels {labels.min()}..{labels.max()}, expected 1..10; copy it again")
    raw = Raw(np.ascontiguousarray(x.transpose(3, 0, 1, 2)), labels % 10, DIGITS)
    return raw if role == "train" else halves(raw, role)


def read_mnist(folder: Path, role: Role) -> Raw:
    """MNIST's idx files, plain or gzipped, under their published names or any that says train or test and images."""
    part = ("train",) if role == "train" else ("t10k", "test")
    images = _read_idx(_find_idx(folder, part, "images-idx3"), 3)
    labels = _read_idx(_find_idx(folder, part, "labels-idx1"), 1).astype(np.int64)
    if len(images) != len(labels):
        raise InputError(
            f"{folder}: {len(images)} images but {len(labels)} labels; the two files do not belong together"
        )
    if labels.max(initial=0) > 9:
        raise InputError(f"{folder}: holds label {labels.max()}, expected 0..9; is it MNIST?")
    raw = Raw(images, labels, DIGITS)
    return raw if role == "train" else halves(raw, role)


NAMED: dict[str, Callable[[Path, Role], Raw]] = {
    "digits": read_digits,
    "cifar10": read_cifar10,
    "svhn": read_svhn,
    "mnist": read_mnist,
}


def read_npz(path: Path) -> Raw:
    """A .npz file: `images` uint8 or float32 (N, H, W, C) or (N, H, W), and if there are any `labels` and `classes`.

    Sizes are checked against headers and memory before anything is allocated.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for info in _check_npz(path, archive):
                with archive.open(info) as file:
                    arrays[info.filename] = np.lib.format.read_array(file, allow_pickle=False)
    except PdtoolError:
        raise
    except Exception as error:  # damaged bytes raise many kinds: zip, zlib, and those of Python's parser for the header
        raise InputError(
            f"{path}: not a readable .npz ({' '.join(str(error).split())}); write it again with numpy.savez"
        ) from None
    return _checked(str(path), *(arrays.get(member) for member in NPZ_MEMBERS))


def read_factory(name: str, role: Role) -> Raw:
    """What `package.module:factory` returns: (images, labels) or (images, labels, classes); labels may be None.

    The factory gets `role=` where it takes such an argument. Its module comes from the installed packages or the
    current folder.
    """
    module_name, _, function = name.partition(":")
    try:
        with current_folder_importable():
            factory = getattr(importlib.import_module(module_name), function)
            answer = factory(role=role) if "role" in inspect.signature(factory).parameters else factory()
    except PdtoolError:
        raise
    except Exception as error:
        raise InputError(
            f"data {name!r} cannot be made ({type(error).__name__}: {error}); check module and function"
        ) from error
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise InputError(
            f"data {name!r} should return (images, labels) or (images, labels, classes), got {type(answer).__name__}"
        )
    return _checked(f"data {name!r}", *answer)


def _checked(name: str, images: Any, labels: Any, classes: Any = None) -> Raw:
    """Arrays from outside as Raw, or InputError saying which one does not fit."""
    if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32) or images.ndim not in (3, 4):
        came = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        came = "none" if images is None else came
        raise InputError(f"{name}: expected images as a uint8 or float32 array (N, H, W, C), got {came}")
    if images.ndim == 3 and images.shape[-1] in (1, 3, 4):
        raise InputError(
            f"{name}: images {images.shape} look like one picture (H, W, C), expected (N, H, W, C) or grey (N, H, W); "
            f"save one picture as images[None]"
        )
    names = tuple(map(str, classes)) if classes is not None else ()
    if len(set(names)) != len(names):
        raise InputError(f"{name}: class names should be distinct")
    if labels is None:
        return Raw(images, None, names)
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{name}: expected {len(images)} integer labels, one an image, got {labels.dtype} {labels.shape}"
        )
    most = len(names) or 100_000
    if len(labels) and not (labels.min() >= 0 and labels.max() < most):
        raise InputError(f"{name}: labels should lie in 0..{most - 1}, are {labels.min()}..{labels.max()}")
    return Raw(images, labels.astype(np.int64), names)


def _check_npz(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members to read, those of NPZ_MEMBERS alone: what is not checked here is not read either."""
    total = 0
    members = [info for info in archive.infolist() if info.filename in NPZ_MEMBERS]
    if len({info.filename for info in members}) != len(members):
        raise InputError(f"{path}: holds an array twice; write it again with numpy.savez")
    for info in members:
        header = npz_header(archive, info)
        total += header.size
        if header.dtype.hasobject:
            raise InputError(
                f"{path}: {info.filename} holds Python objects, which are never loaded; save plain numbers"
            )
        if not header.whole:
            raise InputError(f"{path}: {info.filename} does not hold what its header says; the file is refused")
    if total > largest_bytes():
        raise InputError(
            f"{path}: holds {total} bytes of images, more than half of this machine's memory; split the file"
        )
    return members


def _member(folder: Path, name: str, what: str) -> bytes | None:
    if not folder.exists():
        raise InputError(f"{folder}: no such folder or archive; expected {what}")
    if folder.is_dir() or is_archive(folder):
        return open_member(folder, name)
    raise InputError(f"{folder}: expected a folder or a .tar.gz, got another file")


def _find_idx(folder: Path, parts: tuple[str, ...], kind: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with MNIST's idx files")
    found = sorted(
        path
        for path in folder.iterdir()
        if kind in path.name.replace(".idx", "-idx") and any(part in path.name.lower() for part in parts)
    )
    if not found:
        raise InputError(f"{folder}: expected a file like {parts[0]}-{kind}-ubyte or .gz (MNIST), found none")
    return next((path for path in found if path.suffix != ".gz"), found[0])


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An idx file of bytes: magic 0x0000080D with D dimensions, each a big-endian uint32, then the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
                raise InputError(f"{path}: not an idx file of {dimensions}-dimensional bytes; copy it again")
            shape = [int(n) for n in np.frombuffer(head[4:], dtype=">u4")]
            size = 1
            for length in shape:
                size *= length
            if size > largest_bytes():
                raise InputError(f"{path}: claims {size} bytes, more than half of this machine's memory; it is refused")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again") from None
    if len(data) != size:
        raise InputError(
            f"{path}: should hold {size} bytes after its head, holds {'more' if len(data) > size else len(data)}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
