"""TensorRT plans on the disk: which ones fit this device, and are they the ones that were written.

A plan runs on the GPU architecture and the TensorRT version that it was built for, so it is a cache of a device and the
ONNX file is the artefact. Beside every `<id>.plan` lies `<id>.json`, which says what the plan is and what it takes:
nothing of that can be read from the plan itself, but for the version in its header.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pdtool.artifacts import FileEntry, Parity
from pdtool.devices.catalogue import PRECISIONS, Precision
from pdtool.errors import InputError, IntegrityError
from pdtool.files import read_checked, read_limited
from pdtool.jsonform import decode, parse
from pdtool.runtime.tensorrt_module import Library

__all__ = [
    "ANY_GPU", "ENGINES", "EngineKey", "Header", "PlanRecord", "check_header", "find_plan", "foreign", "plans_of",
    "read_header",
]  # fmt: skip

ENGINES = "engines"  # the cache's folder in a bundle
ANY_GPU = "any"  # compute capability of TensorRT-RTX plans: portable over all GPUs that it supports
LIBRARY_OF = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}  # a plan's first four bytes
HEADER = 28  # bytes


@dataclass(frozen=True)
class Header:
    """What a plan's first bytes say."""

    library: str
    version: tuple[int, int, int, int]  # major, minor, patch, build


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What a plan is good for; another key is another plan."""

    library: Library
    version: str  # as the module says it, e.g. "10.3.0" or "1.7.1.116"
    compute_capability: str  # e.g. "8.7", or `ANY_GPU`
    precision: Precision
    onnx_sha256: str

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision should be one of {', '.join(PRECISIONS)}, is {self.precision!r}")
        if not all(part and set(part) <= set("0123456789abcdefghijklmnopqrstuvwxyz.+-_") for part in self._parts()):
            raise ValueError(f"version and compute_capability should be plain words, are {self._parts()!r}")

    def _parts(self) -> tuple[str, str]:
        return self.version, self.compute_capability

    @property
    def folder(self) -> str:
        """The key as a folder's name."""
        gpu = f"cc{self.compute_capability}"
        return f"{self.library}-{self.version}-{gpu}-{self.precision}-{self.onnx_sha256[:16]}"

    def __str__(self) -> str:
        gpu = "any GPU" if self.compute_capability == ANY_GPU else f"compute capability {self.compute_capability}"
        return f"[{self.library} {self.version}, {gpu}, {self.precision}, ONNX {self.onnx_sha256[:16]}]"


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """`engines/<key>/<id>.json`. Sizes are bytes; None: not measured (a plan built without a GPU)."""

    FORMAT: ClassVar[str] = "pdtool.engine/1"
    model: str  # id
    key: EngineKey
    plan: FileEntry  # path in the bundle
    built_with: str  # the version in the plan's header, with the build number
    gpu: str | None  # name of the GPU that it was built and measured on, or since then measured on
    input_shape: tuple[int, ...]  # of one image: C, H, W
    batch_min: int
    batch_opt: int
    batch_max: int
    device_memory_bytes: int | None  # scratch that it needs while it runs
    weights_bytes: int | None  # where TensorRT says (10.16 and later)
    measured_bytes: int | None  # what loading it took on the GPU: weights and what its context keeps, no scratch
    parity: Parity | None  # with the ONNX file in ONNX Runtime, where an export compared them

    def __post_init__(self) -> None:
        if not 1 <= self.batch_min <= self.batch_opt <= self.batch_max:
            raise ValueError(f"batches should grow, are {self.batch_min}, {self.batch_opt}, {self.batch_max}")
        if self.plan.path != f"{ENGINES}/{self.key.folder}/{self.model}.plan":
            raise ValueError(f"plan should lie in {ENGINES}/{self.key.folder}, is {self.plan.path!r}")


def read_header(plan: bytes, *, name: str) -> Header:
    """Library and version from a plan's first bytes, without TensorRT (as trtexec --getPlanVersionOnly reads them).

    Raises IntegrityError for what is no plan.
    """
    library = LIBRARY_OF.get(plan[:4])
    if library is None or len(plan) <= HEADER:
        what = f"{len(plan)} bytes that begin with {plan[:4]!r}"
        raise IntegrityError(f"{name}: expected a TensorRT plan, got {what}; delete it, it is built again")
    (serialisation,) = struct.unpack_from("<I", plan, 4)
    if serialisation != 0:
        raise IntegrityError(f"{name}: plan of serialisation version {serialisation}, expected 0; delete it")
    major, minor, patch, build = plan[24:28]
    return Header(library, (major, minor, patch, build))


def check_header(plan: bytes, *, library: Library, version: str, name: str) -> Header:
    """The header of a plan that this TensorRT may be given. Raises IntegrityError where another one wrote it."""
    header = read_header(plan, name=name)
    wanted = tuple(int(part) for part in version.split(".")[:4] if part.isdigit())
    if header.library != library or header.version[: len(wanted)] != wanted:
        built = f"{header.library} {'.'.join(map(str, header.version))}"
        raise IntegrityError(
            f"{name}: the plan was built by {built}, here runs {library} {version}; delete it, it is built again from "
            f"the ONNX file"
        )
    return header


def find_plan(folder: Path, model: str, key: EngineKey) -> tuple[PlanRecord, bytes] | None:
    """The plan of a model for `key` in a bundle's folder, as it was written; None where there is none.

    Raises IntegrityError where it is for another key, or is not the recorded one, and InputError for a bad record. The
    header is checked where the plan is loaded (`check_header`).
    """
    path = folder / ENGINES / key.folder / f"{model}.json"
    if not path.is_file():
        return None
    document = parse(read_limited(path), file=str(path))
    try:
        record = decode(PlanRecord, document, file=str(path))
    except InputError as error:
        raise InputError(f"{error}; or delete {path.parent}, it is built again") from None
    if (record.key, record.model) != (key, model):
        raise foreign(str(path), record.key, key)
    return record, read_checked(folder / record.plan.path, record.plan.bytes, record.plan.sha256)


def plans_of(folder: Path, model: str) -> tuple[EngineKey, ...]:
    """The keys for which a bundle's folder holds plans of a model, damaged records left out."""
    keys = []
    for path in sorted((folder / ENGINES).glob(f"*/{model}.json")):
        try:
            keys.append(decode(PlanRecord, parse(read_limited(path), file=str(path)), file=str(path)).key)
        except InputError:
            continue
    return tuple(keys)


def foreign(what: str, built_for: EngineKey, here: EngineKey) -> IntegrityError:
    """The error for a plan of another GPU, version, precision or ONNX file: both keys."""
    return IntegrityError(
        f"{what}: the plan was built for {built_for}, this device needs {here}; delete it and let pdtool build it here "
        f"from the ONNX file"
    )
