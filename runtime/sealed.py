"""A folder that another program fills and reads without hashes: what it left is what it will find, or an error."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pdtool.errors import IntegrityError
from pdtool.files import read_limited, sha256_file, sync_folder, write_atomic, write_error
from pdtool.jsonform import parse

__all__ = ["sealed"]

RECORD = "sha256.json"
GIVEN_UP = 24 * 3600  # seconds after which nobody works any more on files that were not recorded


@contextmanager
def sealed(folder: Path) -> Iterator[Path]:
    """Where the other program shall read and write inside the `with`; afterwards its files lie in `folder`, recorded.

    Where `folder` holds what its record says, that is `folder` itself, and nothing is written unless the program adds
    something: a read-only disk will do. Else it is a new folder beside it, with what `folder` had recorded, which takes
    its place at the end. So processes that build at the same time do not see each other's files (the first one's stay),
    and what an unfinished build left is not read. The program must not need the path after the `with`.

    Raises IntegrityError for a file that is not the recorded one, InputError where the disk refuses what must be read
    or written.
    """
    with _disk(folder):
        fresh = None if _holds(folder) else _begin(folder)
    try:
        yield fresh or folder
        with _disk(folder):
            if fresh is not None:
                _put(fresh, folder)
            elif _found(folder) != _recorded(folder):  # the program wrote something, such as another GPU's engine
                _record(folder)
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error


def _holds(folder: Path) -> bool:
    """Whether all that was recorded is there and nothing else. Raises IntegrityError for a changed file."""
    recorded, found = _recorded(folder), _found(folder)
    for name in recorded.keys() & found.keys():
        if recorded[name] != found[name]:
            raise IntegrityError(f"{folder / name}: SHA-256 is not the recorded one; delete {folder}")
    return bool(recorded) and recorded.keys() == found.keys()


def _begin(folder: Path) -> Path:
    """A folder beside `folder`, with the files of it that are recorded; given up ones are deleted."""
    start = f".{folder.name}."
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in list(folder.parent.iterdir()):
        if path.name.startswith(start) and path.stat().st_mtime < time.time() - GIVEN_UP:
            shutil.rmtree(path, ignore_errors=True)
    fresh = folder.with_name(f"{start}{os.getpid()}.{secrets.token_hex(4)}")
    fresh.mkdir()
    for name in _recorded(folder).keys() & _found(folder).keys():
        shutil.copyfile(folder / name, fresh / name)
    return fresh


def _put(fresh: Path, folder: Path) -> None:
    """Record what is in `fresh` and let it take the place of `folder`, unless another process was first."""
    if not _found(fresh):
        return
    _record(fresh)
    if _holds(folder):
        return
    old = fresh.with_name(f"{fresh.name}.old")
    with suppress(FileNotFoundError):
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if not _holds(folder):
            raise
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def _record(folder: Path) -> None:
    write_atomic(folder / RECORD, json.dumps(_found(folder), indent=1).encode())


def _found(folder: Path) -> dict[str, str]:
    if not folder.exists():
        return {}
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != RECORD}


def _recorded(folder: Path) -> dict[str, object]:
    path = folder / RECORD
    return dict(parse(read_limited(path), file=str(path))) if path.exists() else {}
