"""Folders that appear whole or not at all, and replace only what the same command wrote before."""

import ctypes
import errno
import fcntl
import fnmatch
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pdtool.errors import InputError
from pdtool.files import WRITE_ERRORS, sync_file, sync_folder, write_error

__all__ = ["new_folder", "replace_folder", "restore_folder"]


@contextmanager
def new_folder(
    path: Path,
    *,
    force: bool = False,
    marker: str = "",
    own: Collection[str] = (),
    inputs: Sequence[Path] = (),
) -> Iterator[Path]:
    """Build a folder under a temporary name beside `path`; it gets its name only when the block ends well.

    With `force` an existing `path` is replaced, provided it is empty or an older folder of this kind: it holds the file
    `marker` and nothing at its top but that and names that match `own` (wildcards allowed). Raises InputError for any
    other existing `path`, for a link or the root, and where `path` is or contains one of the `inputs` that the
    new folder is made of. After any error or Ctrl-C nothing is left, and at every moment the old folder or the new one
    is there.
    """
    path = Path(os.path.abspath(path))
    if not path.name:
        raise InputError(f"{path}: is the root of the file system; choose another --out")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        restore_folder(path)
        _check_inputs(path, inputs)
        _check_replaceable(path, force, marker, own)
        _clear_stale(path)
        temporary.mkdir(parents=True)
        with _held(temporary):
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    sync_file(Path(folder, name))
                sync_folder(Path(folder))
            _check_replaceable(path, force, marker, own)  # it may have changed meanwhile
            replace_folder(temporary, path)
    except OSError as error:
        if error.errno in WRITE_ERRORS:
            raise write_error(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Give the folder `new` the name `path`; an older folder of that name is deleted once the new one is in its place.

    Both swap names in one step where the file system can do that. Elsewhere `path` is missing for a moment, and
    whatever interrupts that moment, the old folder comes back: here, or with the next call of `restore_folder`.
    """
    if not path.exists():
        new.rename(path)
        sync_folder(path.parent)
        return
    if _exchange(new, path):
        sync_folder(path.parent)
        shutil.rmtree(new)
        return
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    with _held(path):
        try:
            path.rename(old)
            new.rename(path)
            sync_folder(path.parent)
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
        shutil.rmtree(old)


def restore_folder(path: Path) -> None:
    """Where `path` is missing since a process was killed while it replaced it, give the old folder its name back."""
    if not os.path.lexists(path):
        left = [folder for folder in _left_behind(path, "old") if not _is_held(folder)]
        if left:
            max(left, key=lambda folder: folder.stat().st_mtime_ns).rename(path)


def _check_inputs(path: Path, inputs: Sequence[Path]) -> None:
    place = path.resolve()
    for given in inputs:
        if os.path.exists(given) and place in (given.resolve(), *given.resolve().parents):
            raise InputError(f"{path}: is or contains {given}, which is needed to make it; choose another --out")


def _check_replaceable(path: Path, force: bool, marker: str, own: Collection[str]) -> None:
    if path.is_symlink():
        raise InputError(f"{path}: is a link, expected a folder or nothing; choose another --out")
    if not path.exists():
        return
    if not force:
        raise InputError(f"{path}: exists already; choose another --out or add --force to replace it")
    if not path.is_dir():
        raise InputError(f"{path}: is a file, which --force does not replace by a folder; choose another --out")
    found = sorted(entry.name for entry in path.iterdir())
    if found and marker not in found:
        raise InputError(
            f"{path}: has no {marker or 'mark of pdtool'} in it; --force replaces only what this command wrote before; "
            f"choose another --out"
        )
    for name in found:
        # .NAME.PID.tmp is what `write_atomic` leaves where its process is killed
        ours = (marker, *own, *(f".{pattern}.*.tmp" for pattern in (marker, *own)))
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ours):
            raise InputError(
                f"{path}: holds {name!r}, which this command did not write; move it away or choose another --out"
            )


def _clear_stale(path: Path) -> None:
    """Remove what processes that were killed left beside `path`; what a living process holds stays."""
    for left in [*_left_behind(path, "tmp"), *(_left_behind(path, "old") if path.exists() else ())]:
        if not _is_held(left):
            shutil.rmtree(left)


def _left_behind(path: Path, kind: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.{kind}")
    try:
        beside = list(path.parent.iterdir())
    except OSError:  # no such folder yet, or one whose content is hidden from us
        return []
    return [left for left in beside if pattern.fullmatch(left.name) and left.is_dir() and not left.is_symlink()]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: others then leave the folder alone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <linux/fs.h>


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2, Linux); False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))
