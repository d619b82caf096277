"""Data specs: what they read, how they split, and what they refuse."""

import gzip
import io
import os
import struct
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pdtool import data as module
from pdtool.data import Dataset, labels_as, load_data, pixel_hashes, refuse_seen
from pdtool.errors import InputError, PdtoolError, UsageError
from pdtool.images import Images

GREY = (1, 32, 32)
COLOUR = (3, 32, 32)


def png(value: int, size: tuple[int, int] = (32, 32), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, kind)
    return file.getvalue()


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


TREE = {
    "cat/2.png": png(20),
    "cat/1.png": png(10),
    "dog/1.jpg": png(30, kind="JPEG"),
    "dog/2.bmp": png(40, kind="BMP"),
    "dog/3.PPM": png(50, kind="PPM"),
    "dog/.hidden.png": b"",
    "dog/notes.txt": b"no picture",
}


# -- folders and archives


def test_a_folder_of_classes_is_read_sorted(tmp_path):
    read = load_data(str(write_tree(tmp_path, TREE)), COLOUR, role="train")
    assert read.classes == ("cat", "dog")
    assert read.labels is not None and read.labels.tolist() == [0, 0, 1, 1, 1]
    assert read.images.dtype == np.uint8 and read.images.shape == (5, 32, 32, 3)
    assert read.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50]
    assert read.skipped == () and len(set(read.groups.tolist())) == 5


@pytest.mark.parametrize("name, mode", [("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar", "w")])
@pytest.mark.parametrize("prefix", ["", "./", "set/", "./some/set/"])
def test_an_archive_reads_like_the_folder_in_it(tmp_path, name, mode, prefix):
    shuffled = {prefix + key: TREE[key] for key in sorted(TREE, reverse=True)}
    packed = load_data(str(write_tar(tmp_path / name, shuffled, mode)), COLOUR, role="train")
    plain = load_data(str(write_tree(tmp_path / "plain", TREE)), COLOUR, role="train")
    assert packed.fingerprint == plain.fingerprint
    assert packed.classes == plain.classes


def test_unlabelled_pictures_need_leave(tmp_path):
    folder = write_tree(tmp_path, {"a.png": png(1), "b.png": png(2)})
    read = load_data(str(folder), GREY, role="calibrate", labelled=False)
    assert read.labels is None and read.classes == () and len(read.images) == 2
    with pytest.raises(InputError, match="expected pictures in class folders"):
        load_data(str(folder), GREY, role="train")


def test_labels_are_read_where_there_are_some(tmp_path):
    read = load_data(str(write_tree(tmp_path, TREE)), GREY, role="calibrate", labelled=False)
    assert read.labels is not None


def test_a_damaged_picture_is_skipped_and_named(tmp_path):
    write_tree(tmp_path, TREE | {"cat/3.png": png(60)[:40], "cat/4.png": b""})
    os.mkfifo(tmp_path / "cat/5.png")
    (tmp_path / "cat/6.png").symlink_to("nowhere.png")
    read = load_data(str(tmp_path), COLOUR, role="train")
    assert read.skipped == ("cat/3.png", "cat/4.png", "cat/5.png", "cat/6.png")
    assert read.labels is not None and read.labels.tolist() == [0, 0, 1, 1, 1]
    assert read.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50]


def test_pictures_of_any_size_are_fitted(tmp_path):
    folder = write_tree(tmp_path, {"a/1.png": png(9, (100, 7)), "b/1.png": png(8, (1, 1))})
    read = load_data(str(folder), GREY, role="train")
    assert read.images.shape == (2, 32, 32, 1) and (read.images[0] == 9).all() and (read.images[1] == 8).all()


@pytest.mark.parametrize(
    "files, message",
    [
        ({"readme.txt": b"x"}, "holds no images"),
        ({"a/1.png": b"x", "b/1.png": b"y"}, "none of its 2 pictures can be read, the first is a/1.png"),
        ({"a/1.png": png(1), "2.png": png(2)}, "both in class folders and beside them"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        load_data(str(write_tree(tmp_path, files)), GREY, role="train")


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    for name in ("/etc/x.png", "../x.png", "a/../../x.png"):
        with pytest.raises(InputError, match="leads outside"):
            load_data(str(write_tar(tmp_path / "x.tar.gz", {name: png(1)})), GREY, role="train", labelled=False)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_an_archive_with_links_or_devices_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError, match="link or a device"):
        load_data(str(tmp_path / "x.tar"), GREY, role="train")


def test_an_archive_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pdtool.folders.FREELY", 2**20)
    write_tar(tmp_path / "bomb.tar.gz", {f"a/{i}.png": bytes(2**20) for i in range(8)})
    with pytest.raises(InputError, match="unpacks to far more than pictures do"):
        load_data(str(tmp_path / "bomb.tar.gz"), GREY, role="train")


def test_a_member_with_a_huge_name_is_refused(tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    (tmp_path / "x.tar").write_bytes(info.tobuf() + bytes(10_240))
    with pytest.raises(InputError, match="unpacks to far more|not a readable"):
        load_data(str(tmp_path / "x.tar"), GREY, role="train")


@pytest.mark.parametrize("keep", [0, 1, 20, 300, 600, 1500])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    files = {}
    for i, picture in enumerate(noise):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        files[f"{i % 2}/{i}.png"] = file.getvalue()
    whole = write_tar(tmp_path / "x.tar.gz", files).read_bytes()
    assert len(whole) > 1500
    (tmp_path / "x.tar.gz").write_bytes(whole[:keep])
    with pytest.raises(InputError, match="readable|no images|copy it again"):
        load_data(str(tmp_path / "x.tar.gz"), GREY, role="train")


# -- parts and limits


def tracks(folder: Path, per_class: dict[str, dict[str, int]]) -> str:
    files = {
        f"{name}/{track}_{frame:05}.png": png(frame)
        for name, of_class in per_class.items()
        for track, frames in of_class.items()
        for frame in range(frames)
    }
    return str(write_tree(folder, files))


def test_tracks_make_groups_and_are_not_cut(tmp_path):
    spec = tracks(tmp_path, {"a": {"00000": 3, "00001": 5, "00002": 2, "00003": 4}, "b": {"00000": 6, "00001": 1}})
    whole = load_data(spec, GREY, role="train")
    assert sorted(Counter(whole.groups.tolist()).values()) == [1, 2, 3, 4, 5, 6]
    first, second = (load_data(f"{spec}#{k}/2", GREY, role="train") for k in (1, 2))
    assert not set(first.groups) & set(second.groups)
    assert len(first.images) + len(second.images) == len(whole.images)
    assert first.labels is not None and Counter(first.labels.tolist()) == {0: 8, 1: 6}


def test_a_class_with_too_few_tracks_is_cut_inside(tmp_path):
    spec = tracks(tmp_path, {"a": {"00000": 6}, "b": {"00000": 3, "00001": 3}})
    for k in (1, 2):
        labels = load_data(f"{spec}#{k}/2", GREY, role="test").labels
        assert labels is not None and Counter(labels.tolist()) == {0: 3, 1: 3}


def test_numbered_pictures_are_no_track(tmp_path):
    spec = tracks(tmp_path, {"a": {"img": 4}, "b": {"img": 4}})
    assert len(set(load_data(spec, GREY, role="train").groups.tolist())) == 8


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    tracks=st.integers(1, 8),
    n=st.integers(1, 6),
)
def test_parts_cover_everything_once(labels, tracks, n):
    label = np.sort(np.array(labels))
    group = np.arange(len(label)) % tracks + 100 * label
    parts = [module._part(label, group, k, n) for k in range(1, n + 1)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(label)))
    for value in np.unique(label):
        sides = [set(group[part][label[part] == value]) for part in parts]
        if len(set(group[label == value])) >= n:
            assert all(sides) and len(set.union(*sides)) == sum(map(len, sides))


def test_unlabelled_data_is_cut_as_a_whole(tmp_path):
    folder = write_tree(tmp_path, {f"{i}.png": png(i) for i in range(7)})
    first, second = (load_data(f"{folder}#{k}/2", GREY, role="test", labelled=False) for k in (1, 2))
    assert first.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert second.images[:, 0, 0, 0].tolist() == [3, 4, 5, 6]


def test_limit_spreads_evenly(tmp_path):
    path = tmp_path / "x.npz"
    images = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(32, 1).repeat(32, 2)
    np.savez(path, images=images, labels=np.arange(100) // 10)
    read = load_data(str(path), GREY, role="train", limit=10)
    assert read.images[:, 0, 0, 0].tolist() == list(range(0, 100, 10))
    assert len(load_data(str(path), GREY, role="train", limit=1000).images) == 100
    assert load_data(f"{path}#2/2", GREY, role="train", limit=10).images[:, 0, 0, 0].tolist() == list(range(5, 100, 10))


@pytest.mark.parametrize("suffix", ["#0/2", "#3/2", "#1/0"])
def test_parts_that_make_no_sense(suffix):
    with pytest.raises(InputError, match="k in 1..n"):
        load_data(f"digits{suffix}", GREY, role="train")


def test_a_part_given_twice_or_to_a_folder(tmp_path):
    with pytest.raises(InputError, match="given twice"):
        load_data("digits#test#train", GREY, role="train")
    with pytest.raises(InputError, match="only named sets have a part"):
        load_data(f"{write_tree(tmp_path, TREE)}#test", GREY, role="train")


# -- digits


def test_digits_has_three_disjoint_stratified_parts():
    parts = [load_data("digits", GREY, role=role) for role in ("train", "calibrate", "test")]
    assert [len(part.images) for part in parts] == [989, 450, 358]
    for part, share in zip(parts, (0.55, 0.25, 0.2), strict=True):
        assert part.labels is not None and part.images.max() == 255 and part.images.dtype == np.uint8
        assert all(abs(count - share * 179.7) < 5 for count in Counter(part.labels.tolist()).values())
    from sklearn.datasets import load_digits

    seen = {image.tobytes() for part in parts for image in part.images}
    assert len(seen) >= len({image.tobytes() for image in load_digits().images}) - 5  # resizing may merge a few


def test_digits_is_the_same_every_time_and_a_suffix_beats_the_role():
    assert load_data("digits", GREY, role="train").fingerprint == load_data("digits", GREY, role="train").fingerprint
    assert (
        load_data("digits#test", GREY, role="train").fingerprint == load_data("digits", GREY, role="test").fingerprint
    )
    assert len(load_data("digits#test#1/2", GREY, role="train").images) == 179


@pytest.mark.parametrize("spec", ["", " ", "mnist:"])
def test_an_empty_spec_is_not_the_current_folder(spec):
    with pytest.raises(UsageError, match="names no data; expected a folder"):
        load_data(spec, GREY, role="train")


# -- .npz


def npz(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def test_npz_bytes_and_floats(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    read = load_data(
        npz(tmp_path / "a.npz", images=small, labels=[0, 1, 2, 0, 1, 2], classes=list("xyz")), GREY, role="test"
    )
    assert read.images.shape == (6, 32, 32, 1) and read.classes == ("x", "y", "z")
    floats = rng.random((6, 32, 32, 1), dtype=np.float32)
    read = load_data(npz(tmp_path / "b.npz", images=floats, labels=np.arange(6)), GREY, role="test")
    assert read.images.dtype == np.float32 and np.array_equal(read.images, floats) and read.classes == tuple("012345")
    grey = load_data(npz(tmp_path / "c.npz", images=small[..., 0]), GREY, role="calibrate", labelled=False)
    assert grey.labels is None and grey.images.shape == (6, 32, 32, 1)


IMAGES = np.zeros((4, 32, 32, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"labels": np.arange(4)}, "got none"),
        ({"images": IMAGES}, "has no labels"),
        ({"images": IMAGES[:0], "labels": np.arange(0)}, "holds no images"),
        ({"images": IMAGES, "labels": np.arange(3)}, "expected 4 integer labels"),
        ({"images": IMAGES, "labels": np.arange(4) / 2}, "integer labels"),
        ({"images": IMAGES, "labels": np.arange(4) - 1}, "labels should lie in 0"),
        ({"images": IMAGES, "labels": np.arange(4), "classes": ["a", "b"]}, r"labels should lie in 0\.\.1, are 0\.\.3"),
        ({"images": IMAGES, "labels": np.arange(4), "classes": ["a", "b", "c", "a"]}, "distinct"),
        ({"images": IMAGES.astype(np.float64), "labels": np.arange(4)}, r"got float64 \(4, 32, 32, 1\)"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, r"\(32, 32, 3\) look like one picture .*images\[None\]"),
        ({"images": IMAGES[0, 0], "labels": np.arange(4)}, r"\(N, H, W, C\), got uint8 \(32, 1\)"),
        ({"images": IMAGES.astype(np.float32) + 2, "labels": np.arange(4)}, r"numbers in \[0, 1\]"),
        ({"images": np.zeros((4, 8, 8, 1), np.float32), "labels": np.arange(4)}, "must be .* already"),
        ({"images": np.array([{}] * 4, dtype=object), "labels": np.arange(4)}, "Python objects"),
    ],
)
def test_npz_files_that_cannot_be_used(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        load_data(npz(tmp_path / "x.npz", **arrays), GREY, role="train")


def header(shape: str, kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "shape", ["(1000000000, 1000, 1000, 3)", "(4, 32, 32, 2)", "(-4, 32, 32, 1)", "(10**9,)", "'x'"]
)
def test_an_npz_with_a_lying_header_is_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header(shape) + IMAGES.tobytes())
    with pytest.raises(InputError, match="not a readable|does not hold what its header says|half of this machine"):
        load_data(str(tmp_path / "x.npz"), GREY, role="train")


def test_an_npz_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("pdtool.datasets.largest_bytes", lambda: 10**6)
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((2000, 32, 32, 1), dtype=np.uint8))
    with pytest.raises(InputError, match="2048000 bytes of images, more than half of this machine's memory"):
        load_data(str(tmp_path / "x.npz"), GREY, role="train")


def test_an_npz_member_that_is_not_checked_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images", header("(2000, 32, 32, 1)") + bytes(2000 * 32 * 32))  # no .npy: numpy takes it too
    with pytest.raises(InputError, match="expected images as a uint8 or float32 array .* got none"):
        load_data(str(tmp_path / "x.npz"), GREY, role="calibrate", labelled=False)


def test_an_npz_with_an_array_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("images.npy", header("(4, 32, 32, 1)") + IMAGES.tobytes())
    with pytest.raises(InputError, match="holds an array twice; write it again"):
        load_data(str(tmp_path / "x.npz"), GREY, role="calibrate", labelled=False)


@settings(max_examples=150, deadline=None)
@given(position=st.one_of(st.integers(0, 300), st.integers(0, 10_000)), value=st.integers(0, 255))
@example(position=133, value=0)
def test_a_damaged_npz_is_read_or_refused_never_worse(tmp_path_factory, position, value):
    path = tmp_path_factory.mktemp("damaged") / "x.npz"
    npz(path, images=IMAGES, labels=np.arange(4))
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(bytes(content))
    try:
        load_data(str(path), GREY, role="train")
    except PdtoolError as error:
        assert "\n" not in str(error)


# -- published formats


def write_cifar(folder: Path, count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    records = b"".join(bytes([i % 10]) + image.tobytes() for i, image in enumerate(images))
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (folder / name).write_bytes(records)
    return images.transpose(0, 2, 3, 1)


def test_cifar10_binary_folder_and_archive(tmp_path):
    images = write_cifar(tmp_path / "bin")
    train = load_data(f"cifar10:{tmp_path}/bin", COLOUR, role="train")
    assert len(train.images) == 200 and np.array_equal(train.images[:40], images)
    assert train.classes[3] == "cat" and train.labels is not None and train.labels[:11].tolist() == [*range(10), 0]
    calibrate, test = (load_data(f"cifar10:{tmp_path}/bin", COLOUR, role=role) for role in ("calibrate", "test"))
    assert np.array_equal(calibrate.images, images[:20]) and np.array_equal(test.images, images[20:])
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "bin", "cifar-10-batches-bin")
    packed = load_data(f"cifar10:{tmp_path}/cifar-10-binary.tar.gz", COLOUR, role="train")
    assert packed.fingerprint == train.fingerprint


def test_cifar10_pickles_are_refused_by_name(tmp_path):
    write_tree(tmp_path, {"cifar-10-batches-py/data_batch_1": b"\x80\x02cos\nsystem\n"})
    with pytest.raises(InputError, match="pickles; they are never opened: use the binary version"):
        load_data(f"cifar10:{tmp_path}", COLOUR, role="train")


def test_cifar10_damage(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(InputError, match="records of 3073 bytes, has 3072"):
        load_data(f"cifar10:{tmp_path}", COLOUR, role="test")
    (tmp_path / "test_batch.bin").write_bytes(b"\x0b" + bytes(3072))
    with pytest.raises(InputError, match=r"label 11, expected 0\.\.9"):
        load_data(f"cifar10:{tmp_path}", COLOUR, role="test")
    with pytest.raises(InputError, match="no such folder"):
        load_data(f"cifar10:{tmp_path}/nowhere", COLOUR, role="test")


def test_svhn_label_ten_is_the_digit_zero(tmp_path):
    from scipy.io import savemat

    x = np.random.default_rng(2).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    y = (np.arange(20) % 10 + 1).reshape(-1, 1).astype(np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": x, "y": y})
    read = load_data(f"svhn:{tmp_path}", COLOUR, role="train")
    assert read.labels is not None and read.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(read.images[7], x[..., 7])
    with pytest.raises(InputError, match="expected test_32x32.mat"):
        load_data(f"svhn:{tmp_path}", COLOUR, role="test")
    (tmp_path / "test_32x32.mat").write_bytes((tmp_path / "train_32x32.mat").read_bytes()[:500])
    with pytest.raises(InputError, match="test_32x32.mat"):
        load_data(f"svhn:{tmp_path}", COLOUR, role="test")


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray, name: str = "t10k") -> None:
    (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def test_mnist_plain_and_gzipped(tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    write_mnist(tmp_path, images, labels)
    read = load_data(f"mnist:{tmp_path}", (1, 28, 28), role="test")
    assert np.array_equal(read.images[..., 0], images[10:])
    assert read.labels is not None and read.labels.tolist() == list(range(10))
    write_mnist(tmp_path, images, labels[:19])
    with pytest.raises(InputError, match="20 images but 19 labels"):
        load_data(f"mnist:{tmp_path}", GREY, role="test")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images)[:-1])
    with pytest.raises(InputError, match="should hold 15680 bytes after its head, holds 15679"):
        load_data(f"mnist:{tmp_path}", GREY, role="test")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + b"\xff" * 12)
    with pytest.raises(InputError, match="half of this machine's memory"):
        load_data(f"mnist:{tmp_path}", GREY, role="test")


# -- factories


def test_a_factory_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_frames_for_test.py").write_text(
        "import numpy as np\n"
        "def make(role):\n"
        "    n = 4 if role == 'test' else 8\n"
        "    return np.full((n, 32, 32, 1), n, np.uint8), np.arange(n) % 2, ('no', 'yes')\n"
        "def unlabelled():\n"
        "    return np.zeros((3, 32, 32, 1), np.uint8), None\n"
        "def wrong():\n"
        "    return 7\n"
        "def broken():\n"
        "    raise RuntimeError('out of film')\n"
    )
    monkeypatch.chdir(tmp_path)
    read = load_data("my_frames_for_test:make", GREY, role="test")
    assert len(read.images) == 4 and read.classes == ("no", "yes")
    assert len(load_data("my_frames_for_test:make#train", GREY, role="test").images) == 8
    assert load_data("my_frames_for_test:unlabelled", GREY, role="calibrate", labelled=False).labels is None
    for spec, message in [
        ("my_frames_for_test:wrong", "should return .* got int"),
        ("my_frames_for_test:broken", "RuntimeError: out of film"),
        ("my_frames_for_test:absent", "AttributeError"),
        ("no_such_module_here:make", "ModuleNotFoundError"),
    ]:
        with pytest.raises(InputError, match=message):
            load_data(spec, GREY, role="test")


@pytest.mark.parametrize("spec", ["nowhere/at/all", "digitz", "digits:somewhere", "nowhere.npz", "nowhere.tar.gz"])
def test_a_wrong_path_is_one_line(spec):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        load_data(spec, GREY, role="train")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match="is a file of another kind; expected a folder"):
        load_data(str(tmp_path / "x.pkl"), GREY, role="train")


# -- fingerprint and class order


def test_the_fingerprint_sees_every_change():
    one = load_data("digits", GREY, role="test", limit=20)
    assert one.labels is not None
    other = one.images.copy()
    other[0, 0, 0, 0] ^= 1
    variants = [
        one,
        make(one, images=other),
        make(one, labels=np.roll(one.labels, 1)),
        make(one, labels=None),
        make(one, images=one.images[::-1]),
        make(one, images=one.images.reshape(20, 16, 64, 1)),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert one.fingerprint == make(one, images=np.asfortranarray(one.images)).fingerprint


def make(data: Dataset, **changes: object) -> Dataset:
    return Dataset(**({name: getattr(data, name) for name in data.__dataclass_fields__} | changes))


def test_labels_in_the_models_order():
    data = load_data("digits", GREY, role="test", limit=20)
    assert data.labels is not None
    assert labels_as(data, data.classes) is data.labels
    turned = labels_as(data, data.classes[::-1])
    assert turned is not None and (turned == 9 - data.labels).all()
    assert labels_as(make(data, labels=None), ("a",)) is None
    with pytest.raises(InputError, match="class '0' is not one of the model's 2 classes "):
        labels_as(data, ("cat", "dog"))


# -- images that were seen before


def test_hashes_name_the_images_whatever_their_order_and_labels():
    data = load_data("digits", GREY, role="test", limit=20)
    assert len(pixel_hashes(data.images)) == 8 * 20
    assert pixel_hashes(data.images[::-1]) == pixel_hashes(data.images)
    other = data.images.copy()
    other[0, 0, 0, 0] ^= 1
    assert len(common(other, data.images)) == 19


def common(one: Images, other: Images) -> set[bytes]:
    parts = [pixel_hashes(images) for images in (one, other)]
    first, second = ({hashes[i : i + 8] for i in range(0, len(hashes), 8)} for hashes in parts)
    return first & second


def test_a_part_of_the_images_that_were_seen_is_refused():
    seen = pixel_hashes(load_data("digits", GREY, role="train").images)
    with pytest.raises(InputError, match="digits#train#2/3: 329 of its 329 images are ones that the pool was made on"):
        refuse_seen(load_data("digits#train#2/3", GREY, role="test"), seen, "the pool was made on")
    refuse_seen(load_data("digits", GREY, role="test"), seen, "the pool was made on")
    refuse_seen(load_data("digits", GREY, role="test"), b"", "nothing was made on")


def test_unlabelled_copies_of_what_was_seen_are_refused(tmp_path):
    known, new = (load_data("digits", GREY, role=role, limit=20) for role in ("train", "test"))
    for i, image in enumerate([*known.images[:5], *new.images]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"copy{i}.png")
    copies = load_data(str(tmp_path), GREY, role="calibrate", labelled=False)
    assert copies.labels is None
    with pytest.raises(InputError, match="5 of its 25 images are ones that the bundle was calibrated on; .* use"):
        refuse_seen(copies, pixel_hashes(known.images), "the bundle was calibrated on")


def test_one_image_in_a_hundred_may_repeat():
    known, new = (load_data("digits", GREY, role=role) for role in ("train", "test"))
    assert not common(known.images, new.images)
    seen = pixel_hashes(known.images)

    def mixed(repeated: int) -> Dataset:
        return make(new, images=np.concatenate([known.images[:repeated], new.images[: 200 - repeated]]))

    refuse_seen(mixed(2), seen, "were seen")
    with pytest.raises(InputError, match="3 of its 200 images"):
        refuse_seen(mixed(3), seen, "were seen")


# -- the real sets


def test_gtsrb_keeps_tracks_together(shared_data):
    spec = f"{shared_data}/gtsrb-test-public.tar.gz"
    first = load_data(f"{spec}#1/2", COLOUR, role="calibrate")
    second = load_data(f"{spec}#2/2", COLOUR, role="test")
    assert first.labels is not None and second.labels is not None
    assert len(first.images) + len(second.images) == 1760 and not first.skipped
    assert len(first.classes) == 43 and first.classes[14] == "14" and set(first.labels) == set(range(43))
    for label in range(43):
        one, other = set(first.groups[first.labels == label]), set(second.groups[second.labels == label])
        assert len(one | other) == 1 or not one & other, f"a track of class {label} is in both halves"


def test_mnist_as_published(shared_data):
    calibrate, test = (load_data(f"mnist:{shared_data}", GREY, role=role) for role in ("calibrate", "test"))
    assert len(calibrate.images) + len(test.images) == 5000 and test.images.shape[1:] == (32, 32, 1)


@pytest.mark.slow
def test_fifty_thousand_pictures_load_in_time(shared_data):
    started = time.monotonic()
    read = load_data(f"{shared_data}/cifar10-train.tar.gz", COLOUR, role="train")
    assert read.images.shape == (50_000, 32, 32, 3) and read.classes[0] == "airplane"
    assert time.monotonic() - started < 60
