"""A bundle folder: open it only if every byte is the exported one; put a calibration into it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from pdtool.artifacts import Bundle, BundleModel, Calibration, FileEntry, ModelCosts
from pdtool.errors import InputError, IntegrityError
from pdtool.files import read_checked, read_limited, sha256_bytes, sha256_file, write_atomic
from pdtool.jsonform import canonical, decode, encode, parse

__all__ = ["OpenBundle", "models_digest", "open_bundle", "pretty", "write_bundle", "write_calibration"]

MANIFEST, CALIBRATION = "bundle.json", "calibration.json"


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
    if bundle.digest != _digest(bundle):
        raise IntegrityError(f"{path}: its digest does not match its content; the file was edited, export it again")
    entries = [model.file for model in (bundle.original, *bundle.members)] + [bundle.costs, bundle.seen]
    for entry in entries:
        _verify(folder / entry.path, entry)
    return OpenBundle(folder, bundle, _read_calibration(folder, bundle))


def models_digest(bundle: Bundle) -> str:
    """SHA-256 over what a calibration is measured on: backend, precision, preprocessing and every model file."""
    models = [[model.id, model.file.sha256] for model in (bundle.original, *bundle.members)]
    what = [bundle.backend, bundle.precision, encode(bundle.preprocessing), models]
    return sha256_bytes(canonical(what))


def write_bundle(folder: Path, bundle: Bundle) -> Bundle:
    """Write `bundle.json` with its digest, atomically; returns the bundle as written."""
    bundle = dataclasses.replace(bundle, digest=_digest(bundle))
    write_atomic(folder / MANIFEST, pretty(bundle))
    return bundle


def write_calibration(opened: OpenBundle, calibration: Calibration) -> OpenBundle:
    """Put a calibration into a bundle; a killed process leaves the old bundle or the new one.

    `bundle.json` is the commit point: the new calibration lies beside the old one until the manifest names it, and a
    reader that comes in between takes it from there.
    """
    data = pretty(calibration)
    final, fresh = opened.folder / CALIBRATION, opened.folder / (CALIBRATION + ".new")
    write_atomic(fresh, data)
    entry = FileEntry(path=CALIBRATION, bytes=len(data), sha256=sha256_bytes(data))
    bundle = write_bundle(opened.folder, dataclasses.replace(opened.bundle, calibration=entry))
    fresh.replace(final)
    return OpenBundle(opened.folder, bundle, calibration)


def pretty(artefact: object) -> bytes:
    """An artefact as indented JSON that people can read and diff."""
    return (json.dumps(encode(artefact), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _digest(bundle: Bundle) -> str:
    document = encode(bundle)
    del document["digest"]
    return sha256_bytes(canonical(document))


def _verify(path: Path, entry: FileEntry) -> None:
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{path}: listed in {MANIFEST} but not there as a plain file; export or copy it again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise IntegrityError(f"{path}: expected {entry.bytes} bytes, found {size}; export or copy it again")
    if sha256_file(path) != entry.sha256:
        raise IntegrityError(f"{path}: SHA-256 is not the recorded one; the file was changed, export or copy it again")


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
