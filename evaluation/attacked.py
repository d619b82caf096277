"""Attacked images as data: float32 pixels with what was done to them, never through a lossy picture file.

Saving through 8 bits would undo small changes, and saving through a stretch of the contrast would add its own; so an
attack's result is stored as the numbers that fooled the net.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.datasets import largest_bytes
from pdtool.errors import InputError, PdtoolError
from pdtool.files import LARGEST_JSON, npz_bytes, npz_header, npz_mapped, write_atomic
from pdtool.jsonform import canonical, parse

__all__ = ["Attacked", "read_attacked", "write_attacked"]

# Number type and axes of every array of a file
ARRAYS = {
    "images": ("<f4", 4),
    "labels": ("<i8", 1),
    "given": ("<i8", 1),
    "success": ("|b1", 1),
    "source": ("<i8", 1),
    "linf": ("<f8", 1),
    "l2": ("<f8", 1),
}
AGAIN = "attack the images again with pdtool evaluate"


@dataclass(frozen=True)
class Attacked:
    """Images (N, H, W, C) float32 in [0, 1] made by one attack from images that the net classified correctly.

    Those that `read_attacked` gives stay in their file, and only what is looked at is in memory: twenty attacks on a
    thousand pictures of 224x224 are 12 GB. A frame with `success` False was attacked but is still labelled correctly:
    it counts in no detection rate.
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


def read_attacked(path: Path) -> Attacked:
    """What `write_attacked` stored, nothing of it taken on trust: names, number types, shapes and values are checked.

    Headers are checked against the file's size and this machine's memory before anything is allocated, and Python
    objects are never loaded. Raises InputError for any other file.
    """
    try:
        with path.open("rb") as whole, zipfile.ZipFile(whole) as archive:
            names = [info.filename for info in archive.infolist()]
            if len(set(names)) != len(names) or {*names} != {
                f"{name}.npy" for name in (*ARRAYS, "provenance", "classes")
            }:
                raise InputError(f"{path}: does not hold the arrays of attacked images; {AGAIN}")
            for info in archive.infolist():
                _check_header(path, archive, info)
            arrays: dict[str, Any] = {}
            arrays["images"] = npz_mapped(whole, archive, archive.getinfo("images.npy"))
            for name in (*ARRAYS, "provenance"):
                if name == "images":
                    continue
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except PdtoolError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception as error:  # damaged bytes raise many kinds: zip, zlib, and those of Python's parser for the header
        raise InputError(f"{path}: not a readable .npz ({' '.join(str(error).split())}); {AGAIN}") from None
    provenance = parse(str(arrays.pop("provenance")).encode(), file=f"{path}: provenance")
    attacked = Attacked(**arrays, provenance=provenance)
    _check_values(path, attacked)
    return attacked


def _check_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuse an array of another kind, and one whose bytes are not those of its header, before it is read."""
    header, name = npz_header(archive, info), info.filename.removesuffix(".npy")
    kind, axes = ARRAYS.get(name, ("<U", 1 if name == "classes" else 0))
    right = header.dtype.kind == "U" if kind == "<U" else header.dtype.str == kind
    if not right or len(header.shape) != axes or header.fortran:
        came = f"{header.dtype.str} {header.shape}"
        raise InputError(f"{path}: {name} should be {kind} with {axes} axes, is {came}; {AGAIN}")
    most = LARGEST_JSON if kind == "<U" else largest_bytes()
    if header.size > most:
        raise InputError(f"{path}: {name} takes {header.size} bytes, at most {most} allowed; {AGAIN}")
    if not header.whole:
        raise InputError(f"{path}: {name} does not hold what its header says; {AGAIN}")


def _check_values(path: Path, a: Attacked) -> None:
    lengths = {name: len(getattr(a, name)) for name in ARRAYS}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{path}: expected an entry an image in every array, got {lengths}; {AGAIN}")
    if len(a) == 0:
        return
    if not (a.images.min() >= 0 and a.images.max() <= 1):  # nor where one is no number
        raise InputError(f"{path}: images should hold numbers in [0, 1]; {AGAIN}")
    if min(a.labels.min(), a.given.min(), a.source.min()) < 0 or len(np.unique(a.source)) != len(a):
        raise InputError(f"{path}: expected labels of at least 0 and each source image once; {AGAIN}")
    if not (a.success == (a.given != a.labels)).all():
        raise InputError(f"{path}: success is not given != labels; {AGAIN}")
    if not all(np.isfinite(norm).all() and norm.min() >= 0 for norm in (a.linf, a.l2)):
        raise InputError(f"{path}: linf and l2 should be finite and at least 0; {AGAIN}")
