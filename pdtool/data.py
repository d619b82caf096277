"""Data specs: one string names the images that a command works on.

DIR                          pictures in class folders, DIR/<class>/*.png, or unlabelled, DIR/*.png
DIR.tar.gz                   the same in an archive (.tar.gz, .tgz, .tar)
file.npz                     `images` (N, H, W, C) uint8 or float32 in [0, 1], `labels`, `classes`
digits                       scikit-learn's scans of handwritten digits
cifar10:DIR svhn:DIR mnist:DIR     published files; test file: first half `calibrate`, second half `test`
package.module:factory       a function that returns (images, labels) or (images, labels, classes)

SPEC#1/2                     the first of two contiguous parts of every class, tracks kept whole
digits#test                  the part of a published set, whatever the command would take
"""

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pdtool.datasets import NAMED, Raw, Role, largest_bytes, read_factory, read_npz
from pdtool.errors import InputError, UsageError
from pdtool.folders import ARCHIVES, PICTURES, is_archive, list_pictures, read_pictures, source_of
from pdtool.images import Images, Size, decode, fit, fit_all

__all__ = ["Dataset", "Role", "labels_as", "load_data", "pixel_hashes", "refuse_seen"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images (N, H, W, C), uint8 or float32 in [0, 1]; labels (N,) int64 indices into `classes`, or None."""

    spec: str
    images: Images
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]  # () when unlabelled
    groups: NDArray[np.int64]  # (N,) images of one source (track, video) share a number; see `calibrate`
    skipped: tuple[str, ...]  # unreadable files, each named

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over shape, number type, image bytes and labels."""
        images = np.ascontiguousarray(self.images)
        digest = hashlib.sha256(f"{images.shape} {images.dtype.str}\n".encode())
        digest.update(images.data)
        if self.labels is not None:
            digest.update(b"labels")
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


Choose = Callable[[NDArray[np.int64] | None, NDArray[np.int64]], NDArray[np.int64]]  # labels, groups -> indices


def load_data(spec: str, size: Size, *, role: Role, limit: int | None = None, labelled: bool = True) -> Dataset:
    """The images that `spec` names, as (N, height, width, channels) of `size`, the same ones every time.

    `role` picks the part of a set that is published in parts. `limit`: at most that many images, evenly spread.
    With `labelled` False pictures without class folders are allowed; labels are read where there are some.
    A picture that cannot be read is left out, named in `skipped` and in one logged warning.

    Raises UsageError for an empty spec, InputError for a path or file that does not fit, MissingError for a package
    not installed.
    """
    path, role_given, part = _parse(spec)
    name, colon, rest = path.partition(":")
    if not path.strip() or (name in NAMED and colon and not rest):
        raise UsageError(f"the data spec {spec!r} names no data; expected a folder, file.npz, digits or cifar10:DIR")

    def choose(labels: NDArray[np.int64] | None, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        order = _part(labels, groups, *part) if part else np.arange(len(groups))
        return order if limit is None or limit >= len(order) else order[np.arange(limit) * len(order) // limit]

    named = not Path(path).exists() and name in NAMED and (name == "digits") == (not colon)
    factory = not Path(path).exists() and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path)
    if role_given and not (named or factory):
        raise InputError(f"{spec}: only named sets have a part #{role_given}; use #1/2 for halves of others")
    if named:
        data = _from_arrays(spec, NAMED[name](Path(rest), role_given or role), size, choose)
    elif factory:
        data = _from_arrays(spec, read_factory(path, role_given or role), size, choose)
    elif Path(path).suffix.lower() == ".npz":
        data = _from_arrays(spec, read_npz(Path(path)), size, choose)
    elif Path(path).is_dir() or is_archive(Path(path)):
        data = _from_pictures(spec, Path(path), size, choose, labelled=labelled)
    else:
        what = "is a file of another kind" if Path(path).exists() else "does not exist"
        raise InputError(
            f"{spec}: {what}; expected a folder, {', '.join(ARCHIVES)}, file.npz, digits, cifar10:DIR, svhn:DIR, "
            f"mnist:DIR or package.module:factory"
        )
    if data.skipped:
        first = ", ".join(data.skipped[:5]) + (", ..." if len(data.skipped) > 5 else "")
        LOG.warning(
            "%s: skipped %d unreadable pictures of %d: %s",
            *(spec, len(data.skipped), len(data.skipped) + len(data.images), first),
        )
    if len(data.images) == 0:
        raise InputError(f"{spec}: holds no images; expected pictures ({', '.join(PICTURES)}) or arrays of them")
    if labelled and data.labels is None:
        raise InputError(f"{spec}: has no labels; expected them in `labels` or as class folders")
    return data


def labels_as(data: Dataset, classes: tuple[str, ...]) -> NDArray[np.int64] | None:
    """The labels (N,) as indices into a model's `classes`; None where the data is unlabelled.

    Raises InputError where an image's class is none of the model's.
    """
    if data.labels is None or data.classes == classes:
        return data.labels
    unknown = [name for name in data.classes if name not in classes]
    if unknown:
        raise InputError(
            f"{data.spec}: class {unknown[0]!r} is not one of the model's {len(classes)} classes "
            f"({', '.join(classes[:5])}, ...); use data with the classes it was trained on"
        )
    return np.array([classes.index(name) for name in data.classes], dtype=np.int64)[data.labels]


def pixel_hashes(images: Images) -> bytes:
    """Which images these are, not how they look: the first 8 bytes of each one's SHA-256, sorted, joined.

    Labels, order and names play no part; `refuse_seen` compares.
    """
    return b"".join(sorted(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images))


def refuse_seen(data: Dataset, seen: bytes, what: str) -> None:
    """Raises InputError where more than 1 % of the images are among those of `seen` (`pixel_hashes`).

    `what` was done with those ("the pool was made on"). A few are let pass: public sets repeat some images.
    """
    mine = np.frombuffer(pixel_hashes(data.images), dtype="<u8")
    common = int(np.isin(mine, np.frombuffer(seen, dtype="<u8")).sum())
    if common > 0.01 * len(mine):
        raise InputError(
            f"{data.spec}: {common} of its {len(mine)} images are ones that {what}; rates measured on them would be "
            f"too good: use images that were not used before"
        )


def _parse(spec: str) -> tuple[str, Role | None, tuple[int, int] | None]:
    """The spec without its suffixes, and what they say."""
    role: Role | None = None
    part: tuple[int, int] | None = None
    path = spec
    while suffix := re.fullmatch(r"(.+)#(?:(\d+)/(\d+)|(train|calibrate|test))", path, re.DOTALL):
        if (suffix[4] and role) or (suffix[2] and part):
            raise InputError(f"{spec}: the same kind of part is given twice; give one")
        if suffix[4]:
            role = suffix[4]  # type: ignore[assignment]  # one of the three that the pattern names
        else:
            part = int(suffix[2]), int(suffix[3])
            if not 1 <= part[0] <= part[1]:
                raise InputError(f"{spec}: expected #k/n with k in 1..n, got #{part[0]}/{part[1]}")
        path = suffix[1]
    return path, role, part


def _part(labels: NDArray[np.int64] | None, groups: NDArray[np.int64], k: int, n: int) -> NDArray[np.int64]:
    """Indices of the k-th of n contiguous parts within every class, cut between groups where there are enough."""
    chosen = []
    for label in (0,) if labels is None else np.unique(labels):
        inside = np.arange(len(groups)) if labels is None else np.flatnonzero(labels == label)
        _, first, inverse = np.unique(groups[inside], return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(first))[inverse] if len(first) >= n else np.arange(len(inside))
        places = max(len(first) if len(first) >= n else len(inside), 1)
        chosen.append(inside[(place >= (k - 1) * places // n) & (place < k * places // n)])
    return np.sort(np.concatenate(chosen))


def _from_arrays(spec: str, raw: Raw, size: Size, choose: Choose) -> Dataset:
    groups = np.arange(len(raw.images))
    order = choose(raw.labels, groups)
    classes = raw.classes
    if raw.labels is not None and not classes:
        classes = tuple(map(str, range(int(raw.labels.max(initial=-1)) + 1)))
    _check_memory(spec, len(order), size)
    try:
        images = fit_all(raw.images[order], size)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None
    labels = None if raw.labels is None else raw.labels[order]
    return Dataset(
        spec=spec,
        images=images,
        labels=labels,
        classes=() if labels is None else classes,
        groups=groups[order],
        skipped=(),
    )


def _from_pictures(spec: str, path: Path, size: Size, choose: Choose, *, labelled: bool) -> Dataset:
    names = list_pictures(path)
    parts = [PurePosixPath(name).parts for name in names]
    shared = 0  # leading folders of an archive that all pictures share
    while is_archive(path) and names and min(map(len, parts)) > shared + 2 and len({p[shared] for p in parts}) == 1:
        shared += 1
    depths = {min(len(p) - shared, 2) for p in parts}
    if len(depths) > 1:
        raise InputError(f"{spec}: holds pictures both in class folders and beside them; move them into one layout")
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if depths == {2}:
        classes = tuple(sorted({p[shared] for p in parts}))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[p[shared]] for p in parts], dtype=np.int64)
    elif labelled and names:
        raise InputError(f"{spec}: expected pictures in class folders, <class>/*.png; found them without")
    sources: dict[str, int] = {}
    groups = np.array([sources.setdefault(source_of(name), len(sources)) for name in names], dtype=np.int64)
    order = choose(labels, groups)
    _check_memory(spec, len(order), size)
    channels, height, width = size
    images = np.empty((len(order), height, width, channels), dtype=np.uint8)
    readable = np.zeros(len(order), dtype=bool)
    for position, data in read_pictures(path, [names[i] for i in order]):
        try:
            if data is not None:
                images[position] = fit(decode(data, name=names[order[position]]), size)
                readable[position] = True
        except InputError:
            pass  # named in `skipped`
    skipped = tuple(names[i] for i in order[~readable])
    if skipped and len(skipped) == len(order):
        raise InputError(f"{spec}: none of its {len(order)} pictures can be read, the first is {skipped[0]}")
    order = order[readable]
    return Dataset(
        spec=spec,
        images=images if readable.all() else images[readable],
        labels=None if labels is None else labels[order],
        classes=classes,
        groups=groups[order],
        skipped=skipped,
    )


def _check_memory(spec: str, images: int, size: Size) -> None:
    needed = images * size[0] * size[1] * size[2]
    if needed > largest_bytes():
        raise InputError(f"{spec}: {images} images take {needed} bytes, more than half of this memory; give --limit")
