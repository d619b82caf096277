"""A folder that another program fills and reads without hashes: what it left is what it will find, or an error."""

import json
from pathlib import Path

from pdtool.errors import IntegrityError
from pdtool.files import read_limited, sha256_file, write_atomic, write_error
from pdtool.jsonform import parse

__all__ = ["open_sealed", "seal"]

RECORD = "sha256.json"


def open_sealed(folder: Path) -> None:
    """Make the folder, delete the files that no `seal` has recorded (of a build that did not end), check the others.

    Raises IntegrityError for a changed file, InputError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        recorded = _recorded(folder)
        for name, digest in _found(folder).items():
            if name not in recorded:
                (folder / name).unlink()
            elif recorded[name] != digest:
                raise IntegrityError(f"{folder / name}: SHA-256 is not the recorded one; delete {folder}")
    except OSError as error:
        raise write_error(folder, error) from error


def seal(folder: Path) -> None:
    """Record the SHA-256 of all files in the folder. Raises InputError where it cannot be written."""
    found = _found(folder)
    if found != _recorded(folder):
        write_atomic(folder / RECORD, json.dumps(found, indent=1).encode())


def _found(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != RECORD}


def _recorded(folder: Path) -> dict[str, object]:
    path = folder / RECORD
    return dict(parse(read_limited(path), file=str(path))) if path.exists() else {}
