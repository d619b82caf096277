"""Attacked images come back bit for bit, and a file that is not what it says is refused before it is read."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdtool.errors import InputError
from pdtool.evaluation.attacked import Attacked, read_attacked, write_attacked
from pdtool.evaluation.attacks import run_attack
from pdtool.files import npz_bytes

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def attacked(net: torch.nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Attacked:
    return run_attack(net, images[:20], labels[:20], "fgsm:epsilon=0.1", seed=3, provenance={"data": "scans"})


@pytest.fixture
def file(attacked: Attacked, tmp_path: Path) -> Path:
    path = tmp_path / "fgsm.npz"
    write_attacked(path, attacked, [str(i) for i in range(10)])
    return path


def test_what_was_written_is_read_bit_for_bit(attacked: Attacked, file: Path, tmp_path: Path) -> None:
    read = read_attacked(file)
    assert read.provenance == attacked.provenance
    for name in ("images", "labels", "given", "success", "source", "linf", "l2"):
        mine, theirs = getattr(read, name), getattr(attacked, name)
        assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes() and mine.shape == theirs.shape
    write_attacked(tmp_path / "again.npz", read, [str(i) for i in range(10)])
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def test_images_stay_in_their_file_once_their_checksum_is_right(file: Path, tmp_path: Path) -> None:
    images = read_attacked(file).images
    assert isinstance(images, np.memmap) and not images.flags.writeable
    whole = bytearray(file.read_bytes())
    place = bytes(whole).index(images.tobytes()) + 400  # one bit of a pixel that stays a number in [0, 1]
    whole[place] ^= 1
    (tmp_path / "changed.npz").write_bytes(whole)
    with pytest.raises(InputError, match="CRC"):
        read_attacked(tmp_path / "changed.npz")
    with np.load(file) as archive:
        np.savez_compressed(tmp_path / "small.npz", **archive)
    assert np.array_equal(read_attacked(tmp_path / "small.npz").images, images)


def _set(name: str, at: int, value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name].reshape(-1)[at] = value

    return change


def _as(name: str, make: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = make(arrays[name])

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_as("images", lambda a: a.astype(np.float64)), "images should be <f4 with 4 axes, is <f8"),
        (_as("images", lambda a: a[0]), "images should be <f4 with 4 axes"),
        (_as("images", lambda a: a[:-1]), "expected an entry an image in every array"),
        (_as("labels", lambda a: a.astype(np.int32)), "labels should be <i8 with 1 axes, is <i4"),
        (_as("classes", lambda a: np.arange(10)), "classes should be <U with 1 axes"),
        (_as("provenance", lambda a: np.array("[1]")), "provenance: expected a JSON object, got list"),
        (_as("provenance", lambda a: np.array('{"a": NaN}')), "provenance: NaN is not a number"),
        (_set("images", 5, np.nan), r"images should hold numbers in \[0, 1\]"),
        (_set("images", 5, 1.5), r"images should hold numbers in \[0, 1\]"),
        (_set("labels", 0, -1), "labels of at least 0"),
        (_set("source", 0, 19), "each source image once"),
        (_set("linf", 0, np.inf), "linf and l2 should be finite"),
        (_set("l2", 0, -1.0), "linf and l2 should be finite"),
        (_as("success", lambda a: ~a), "success is not given != labels"),
        (lambda arrays: arrays.pop("given"), "does not hold the arrays of attacked images"),
        (lambda arrays: arrays.update(more=np.zeros(3)), "does not hold the arrays of attacked images"),
    ],
)
def test_what_does_not_fit_is_refused(file: Path, change: Callable[[Arrays], None], says: str) -> None:
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    file.write_bytes(npz_bytes(arrays))
    with pytest.raises(InputError, match=says):
        read_attacked(file)


def test_objects_are_not_loaded(file: Path, tmp_path: Path) -> None:
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["classes"] = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "objects.npz", **arrays)
    with pytest.raises(InputError, match=r"classes should be <U with 1 axes, is \|O"):
        read_attacked(tmp_path / "objects.npz")


def test_a_header_that_promises_more_than_there_is_is_refused(file: Path, tmp_path: Path) -> None:
    def copy(shape: tuple[int, ...]) -> Path:
        path = tmp_path / "big.npz"
        with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                data = source.read(info)
                if info.filename == "images.npy":
                    head = io.BytesIO()
                    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    data = head.getvalue() + b"\0" * 64
                target.writestr(info.filename, data)
        return path

    with pytest.raises(InputError, match="at most [0-9]+ allowed"):
        read_attacked(copy((10**9, 1000, 1000, 3)))
    with pytest.raises(InputError, match="images does not hold what its header says"):
        read_attacked(copy((20, 16, 16, 1)))


@pytest.mark.parametrize("damage", ["cut", "text", "flip", "missing"])
def test_a_damaged_file_is_one_line(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        file.write_bytes(b"not an archive")
    elif damage == "flip":
        content[len(content) // 2] ^= 255  # the archive's own CRC notices
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(InputError, match=r"fgsm\.npz: (not a readable .npz|cannot be read)") as caught:
        read_attacked(file)
    assert "\n" not in str(caught.value)
