"""Picture files in a folder or a tar archive, read in place: nothing is unpacked to disk.

An archive is refused whole when it holds a link, a device, an absolute or `..` name, or unpacks to far more
than pictures do.
"""

import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pdtool.errors import InputError

__all__ = ["ARCHIVES", "PICTURES", "is_archive", "list_pictures", "open_member", "read_pictures", "source_of"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm")
ARCHIVES = (".tar.gz", ".tgz", ".tar")

LARGEST_FILE = 256 * 2**20  # bytes of one member of an archive
MOST_FILES = 5_000_000
FREELY = 2**30  # bytes that any archive may unpack to
RATIO = 100  # pictures hardly compress; one that unpacks to more than that and so many times its size is hostile


def is_archive(path: Path) -> bool:
    """Whether the name says .tar.gz, .tgz or .tar."""
    return path.name.lower().endswith(ARCHIVES)


def list_pictures(path: Path) -> list[str]:
    """The names of all pictures inside a folder or archive, sorted, as POSIX paths relative to it.

    Hidden files and files that are no pictures are left out, and so are leading folders that all share as long as
    a class folder remains. Raises InputError for a missing path or a refused archive.
    """
    if is_archive(path):
        with _open_tar(path) as tar:
            names = [member.name for member in _members(tar, path)]
        return sorted(name for name in map(_plain, names) if _is_picture(name))
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; check the path")
    found = []
    for folder, folders, files in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = PurePosixPath(Path(folder).relative_to(path).as_posix())
        found += [str(relative / name) for name in files if _is_picture(name)]
    return sorted(found)


def read_pictures(path: Path, names: Sequence[str]) -> Iterator[tuple[int, bytes | None]]:
    """The bytes of the files `names` (of `list_pictures`) with each one's position in `names`; None: unreadable.

    An archive is read once, front to back, so positions come in its order.
    """
    if not is_archive(path):
        for position, name in enumerate(names):
            try:
                plain = (path / name).is_file()  # a pipe would be waited for
                data = (path / name).read_bytes() if plain else None
            except OSError:
                data = None
            yield position, data
        return
    positions = {name: position for position, name in enumerate(names)}
    with _open_tar(path) as tar:
        for member in _members(tar, path):
            if (name := _plain(member.name)) in positions:
                yield positions.pop(name), _content(tar, member, path)


def open_member(path: Path, name: str) -> bytes | None:
    """The file called `name` (its last part) inside a folder or archive, at any depth; None where there is none."""
    if not is_archive(path):
        return next((found.read_bytes() for found in sorted(path.rglob(name)) if found.is_file()), None)
    with _open_tar(path) as tar:
        for member in _members(tar, path):
            if PurePosixPath(member.name).name == name:
                return _content(tar, member, path)
    return None


def source_of(name: str) -> str:
    """What one picture shares with the others of its source: folder and track, where the name shows one.

    >>> source_of("14/00012_00029.png")  # track 12, frame 29
    '14/00012'
    >>> source_of("14/img_29.png")  # no number before the frame's: no track
    '14/img_29.png'
    """
    path = PurePosixPath(name)
    track = re.fullmatch(r"(.*\d)_\d+", path.stem)
    return str(path.parent / track[1]) if track else name


def _is_picture(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(PICTURES)


def _plain(name: str) -> str:
    return str(PurePosixPath(name))  # "./a//b" is "a/b"


class _Bounded(io.RawIOBase):
    """An unpacking stream that refuses to give more than `most` bytes, or too many at once."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, most: int, path: Path) -> None:
        self._stream = stream
        self._most = most
        self._path = path

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_FILE or self._stream.tell() > self._most:
            raise InputError(f"{self._path}: unpacks to far more than pictures do; it is refused")
        return self._stream.read(size if size >= 0 else LARGEST_FILE)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > self._most:
            raise InputError(f"{self._path}: unpacks to far more than pictures do; it is refused")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            most = max(FREELY, RATIO * path.stat().st_size)
            stream = gzip.GzipFile(fileobj=file) if packed else file
            with tarfile.open(fileobj=_Bounded(stream, most, path), mode="r:") as tar:
                yield tar
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{path}: not a readable .tar or .tar.gz ({error}); copy it again") from None


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The plain files of an archive, in its order."""
    for count, member in enumerate(tar):
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or "\\" in member.name:
            raise InputError(f"{path}: holds the name {member.name!r}, which leads outside; the archive is refused")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise InputError(f"{path}: {member.name!r} is a link or a device; an archive may hold plain files only")
        if member.size > LARGEST_FILE or count >= MOST_FILES:
            raise InputError(f"{path}: {member.name!r} is too large or one too many; the archive is refused")
        yield member
        tar.members = []  # type: ignore[attr-defined]  # the archive's list would keep every header in memory


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise InputError(f"{path}: ends inside {member.name!r}; copy it again")
    return data
