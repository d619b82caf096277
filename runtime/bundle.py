"""A bundle folder: open it only if every byte is the exported one; put a calibration into it."""

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pdtool.artifacts import Bundle, BundleModel, FileEntry, ModelCosts
from pdtool.decisions import Calibration
from pdtool.errors import InputError, IntegrityError
from pdtool.files import read_checked, read_limited, sha256_bytes, sha256_file, write_atomic
from pdtool.jsonform import JsonValue, canonical, decode, encode, parse

__all__ = [
    "BATCH",
    "OpenBundle",
    "models_digest",
    "open_bundle",
    "pretty",
    "screened_at_once",
    "write_bundle",
    "write_calibration",
]

MANIFEST, CALIBRATION = "bundle.json", "calibration.json"
BATCH = 32  # images at once that an export measures memory for, unless told otherwise


@dataclass(frozen=True)
class OpenBundle:
    """A verified bundle: its folder, its manifest and, once calibrated, its calibration."""

    folder: Path
    bundle: Bundle
    calibration: Calibration | None

    @property
    def models(self) -> tuple[BundleModel, ...]:
        """The original first, then the members in the bundle's order."""
        return (self.bundle.original, *self.bundle.members)

    def read(self, entry: FileEntry) -> bytes:
        """A file's bytes, checked again at this moment. Raises IntegrityError."""
        return read_checked(self.folder / entry.path, entry.bytes, entry.sha256)

    @property
    def made_on(self) -> str:
        """What was done with the images of `seen.bin`, for `pdtool.data.refuse_seen`."""
        return "the pool or its int8 files were made on" if self.bundle.precision == "int8" else "the pool was made on"

    def costs(self) -> dict[str, ModelCosts]:
        """Model id -> its costs, layer by layer."""
        document = parse(self.read(self.bundle.costs), file=self.bundle.costs.path)
        return {name: decode(ModelCosts, costs, file=self.bundle.costs.path) for name, costs in document.items()}


def open_bundle(folder: Path | str) -> OpenBundle:
    """Read and verify a bundle: format, digest, then size and SHA-256 of every file, then the calibration.

    Raises InputError where there is no bundle or a field is wrong, IntegrityError where anything was changed or the
    calibration was measured on other files.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: no {MANIFEST} in it; expected a folder written by `pdtool export`")
    document = parse(read_limited(path), file=str(path))
    bundle = decode(Bundle, document, file=str(path))
    if bundle.digest != _digest(document):
        raise IntegrityError(f"{path}: its digest does not match its content; the file was edited, export it again")
    entries = [model.file for model in (bundle.original, *bundle.members)] + [bundle.costs, bundle.seen]
    for entry in entries:
        read_checked(folder / entry.path, entry.bytes, entry.sha256)
    return OpenBundle(folder, bundle, _read_calibration(folder, bundle))


def screened_at_once(folder: Path) -> int:
    """Most images that a bundle in `folder` runs at once; for a folder that is none yet, what an export would set.

    Raises InputError and IntegrityError for a damaged bundle.
    """
    return open_bundle(folder).bundle.measured_batch if (folder / MANIFEST).is_file() else BATCH


def models_digest(bundle: Bundle) -> str:
    """SHA-256 over what a calibration is measured on: precision, preprocessing and every model, with its kind if it has
    one."""
    models = [
        [model.id, model.file.sha256, model.part, *filter(None, [model.kind])]
        for model in (bundle.original, *bundle.members)
    ]
    what = [bundle.precision, encode(bundle.preprocessing), models]
    return sha256_bytes(canonical(what))


def write_bundle(folder: Path, bundle: Bundle) -> Bundle:
    """Write `bundle.json` with its digest, atomically; returns the bundle as written."""
    bundle = dataclasses.replace(bundle, digest=_digest(encode(bundle)))
    write_atomic(folder / MANIFEST, pretty(bundle))
    return bundle


def write_calibration(opened: OpenBundle, calibration: Calibration) -> OpenBundle:
    """Put a calibration into a bundle; a killed process leaves the old bundle or the new one.

    `bundle.json` is the commit point: the new calibration lies beside the old one until the manifest names it, and a
    reader that comes in between takes it from there. Raises InputError where the disk refuses, and leaves no trace.
    """
    data = pretty(calibration)
    manifest, final = opened.folder / MANIFEST, opened.folder / CALIBRATION
    fresh = opened.folder / (CALIBRATION + ".new")
    before = read_limited(manifest)
    old = opened.bundle.calibration
    try:
        if old is not None and fresh.is_file() and sha256_file(fresh) == old.sha256:
            fresh.replace(final)  # the manifest names it: the last calibration was killed after its commit
        write_atomic(fresh, data)
        entry = FileEntry(path=CALIBRATION, bytes=len(data), sha256=sha256_bytes(data))
        bundle = write_bundle(opened.folder, dataclasses.replace(opened.bundle, calibration=entry))
    except BaseException as error:
        kept = manifest.read_bytes() == before  # else it is committed and the manifest names it
        if kept:
            fresh.unlink(missing_ok=True)
        cause = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"{opened.folder}: the calibration cannot be stored ({cause.strerror}); free space or check the folder's "
            f"permissions and calibrate again (the bundle holds the {'old' if kept else 'new'} one)"
        ) from cause
    with suppress(OSError):  # it is stored; readers find it under either name, and the next calibration renames it
        fresh.replace(final)
    return OpenBundle(opened.folder, bundle, calibration)


def pretty(artefact: object) -> bytes:
    """An artefact as indented JSON that people can read and diff."""
    return (json.dumps(encode(artefact), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _digest(document: dict[str, JsonValue]) -> str:
    """Of a document as it stands: files of earlier versions lack fields that were added since."""
    return sha256_bytes(canonical({name: value for name, value in document.items() if name != "digest"}))


def _read_calibration(folder: Path, bundle: Bundle) -> Calibration | None:
    entry = bundle.calibration
    if entry is None:
        return None
    fresh = folder / (CALIBRATION + ".new")
    path = fresh if fresh.is_file() and sha256_file(fresh) == entry.sha256 else folder / entry.path
    data = read_checked(path, entry.bytes, entry.sha256)
    calibration = decode(Calibration, parse(data, file=str(path)), file=str(path))
    if calibration.models_sha256 != models_digest(bundle):
        raise IntegrityError(
            f"{path}: was measured on other model files than this bundle holds; run `pdtool calibrate` on this bundle"
        )
    return calibration
