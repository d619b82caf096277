"""Files that are either the old ones or the new ones, never in between; and hashes taken before parsing."""

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdtool.errors import InputError, IntegrityError

__all__ = ["LARGEST_JSON", "new_folder", "read_checked", "read_limited", "sha256_bytes", "sha256_file", "write_atomic"]

LARGEST_JSON = 64 * 2**20  # bytes; a manifest larger than this is not one of ours


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def read_limited(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """The bytes of a file of at most `largest` bytes. Raises InputError where it is missing or larger."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise InputError(f"{path}: {size} bytes, expected at most {largest}; this is not a file of pdtool")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def read_checked(path: Path, size: int, sha256: str) -> bytes:
    """The bytes of a recorded file. Raises IntegrityError unless size (bytes) and SHA-256 are the recorded ones."""
    try:
        if path.is_symlink():
            raise IntegrityError(f"{path}: is a link; files of a bundle or pool must be plain files")
        came = path.stat().st_size
        if came != size:
            raise IntegrityError(f"{path}: expected {size} bytes, found {came}; copy or export it again")
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); copy or export it again") from None
    if sha256_bytes(data) != sha256:
        raise IntegrityError(f"{path}: SHA-256 is not the recorded one; the file was changed, copy or export it again")
    return data


def write_atomic(path: Path, data: bytes) -> None:
    """Write a temporary sibling, fsync, rename: a killed process leaves the old file or the new one.

    Raises InputError where the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _write_error(path, error) from error


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Build a folder under a temporary name beside `path`; it gets its name only when the block ends well.

    An existing `path` is replaced with `force`, otherwise InputError. After any error or Ctrl-C nothing is left.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; choose another --out or add --force to replace it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _clear_stale(path)
        temporary.mkdir(parents=True)
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync_file(Path(folder, name))
            _sync_folder(Path(folder))
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _WRITE_ERRORS:
            raise _write_error(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clear_stale(path: Path) -> None:
    """Remove what processes that were killed left beside `path`; those of living processes stay."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        number = left.name.split(".")[-2]
        if left.suffix in (".tmp", ".old") and number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(left) if left.is_dir() else left.unlink()


_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def _write_error(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: the disk is full; free space or choose another --out (nothing was left behind)")
    return InputError(f"{path}: cannot be written ({error.strerror or error}); check the path and its permissions")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
