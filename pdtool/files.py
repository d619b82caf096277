"""Files that are either the old ones or the new ones, never in between; and hashes taken before parsing."""

import errno
import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pdtool.errors import InputError, IntegrityError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LARGEST_JSON",
    "WRITE_ERRORS",
    "NpzHeader",
    "npz_bytes",
    "npz_header",
    "npz_mapped",
    "read_checked",
    "read_limited",
    "sha256_bytes",
    "sha256_file",
    "sync_file",
    "sync_folder",
    "write_atomic",
    "write_error",
]

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
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def npz_bytes(arrays: Mapping[str, "NDArray[Any]"]) -> bytes:
    """Arrays as an uncompressed .npz whose bytes depend on the numbers alone (no times, no pickles)."""
    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            item = io.BytesIO()
            np.lib.format.write_array(item, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), item.getvalue())  # dated 1980
    return buffer.getvalue()


@dataclass(frozen=True)
class NpzHeader:
    """What an array of an .npz says of itself. `size`: bytes of its numbers; `whole`: the file really holds as many."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: "np.dtype[Any]"
    size: int
    whole: bool
    at: int  # bytes of the header: where the numbers begin


def npz_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NpzHeader:
    """Read an array's header and nothing else: to judge before memory is taken. Raises what damaged bytes raise."""
    import numpy as np

    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        header = file.tell()
    size = dtype.itemsize
    for length in shape:
        size *= length  # Python integers: no overflow
    whole = size + header == info.file_size <= 1100 * info.compress_size + 1000  # deflate gains no more than that
    return NpzHeader(shape, fortran, dtype, size, whole, header)


def npz_mapped(file: BinaryIO, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> "NDArray[Any]":
    """An array of an .npz left in its file, read-only: what is looked at comes into memory, and may leave it again.

    `archive` reads the open `file`, which may be closed afterwards. The checksum is tested first. A file that is cut
    short in place after that ends the process (SIGBUS); one that is replaced or deleted does no harm. A compressed or
    Fortran-ordered array is read as a whole. Raises what damaged bytes raise.
    """
    import numpy as np

    header = npz_header(archive, info)
    with archive.open(info) as member:
        if header.fortran or header.size == 0 or info.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(member, allow_pickle=False)
        while member.read(2**20):
            pass  # at the end zipfile compares the checksum
    file.seek(info.header_offset + 26)  # lengths of name and extra field, PKWARE's APPNOTE 4.3.7
    name, extra = struct.unpack("<HH", file.read(4))
    start = info.header_offset + 30 + name + extra + header.at
    return np.memmap(file, dtype=header.dtype, mode="r", offset=start, shape=header.shape)


# What goes wrong in writing that the user can put right
WRITE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST,
)  # fmt: skip


def write_error(path: Path, error: OSError) -> InputError:
    """The error of the tree for one of `WRITE_ERRORS`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: the disk is full; free space or choose another --out (nothing was left behind)")
    return InputError(f"{path}: cannot be written ({error.strerror or error}); check the path and its permissions")


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
