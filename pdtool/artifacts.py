"""The frozen data that crosses rooms. `pdtool.jsonform` turns each into its JSON document and back.

    Pool         compress -> export, evaluation      pool.json
    Bundle       export -> runtime, evaluation       bundle.json

`pdtool.decisions` holds the calibration and the verdict.

Sizes are bytes, times ms unless a name says otherwise, accuracies and rates lie in [0, 1].
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, get_args

from pdtool.files import sha256_bytes, write_atomic
from pdtool.jsonform import JsonValue

__all__ = [
    "BACKENDS", "KINDS", "Backend", "BuildOptions", "Bundle", "BundleModel", "FileEntry", "Kind", "LayerCost",
    "ModelCosts", "Parity", "Plan", "Pool", "PoolMember", "PoolModel", "Preprocessing", "check_rate", "entry_of",
    "write_entry",
]  # fmt: skip


Backend = Literal["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
# What a member was trained against. "plain": as by `--recipe paper`; "hardened": attacks on the original; "robust": on
# itself, too. From the easiest to fool to the hardest.
Kind = Literal["plain", "hardened", "robust"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def check_rate(name: str, value: float) -> None:
    """Raise ValueError for what is no share."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} should lie in [0, 1], is {value}")


def _check_unique(name: str, values: tuple[str, ...]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{name} should be distinct, {sorted(v for v in values if values.count(v) > 1)[0]!r} repeats")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How any picture becomes the model's input; the only description of it, used by every room.

    The host (`pdtool.images`) converts the colour, resizes to `height` x `width` with Pillow's antialiased
    filter `resize` and scales to [0, 1]. `(x - mean) / std`, a value a channel, is the first operation of every
    exported graph, so that attacks and engines see pixels in [0, 1].
    """

    channels: int  # 1 (grey) or 3 (RGB)
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["bilinear"] = "bilinear"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels should be 1 or 3, is {self.channels}")
        if not (0 < self.height <= 4096 and 0 < self.width <= 4096):
            raise ValueError(f"height and width should lie in 1..4096, are {self.height}x{self.width}")
        if len(self.mean) != self.channels or len(self.std) != self.channels or min(self.std) <= 0:
            raise ValueError(f"mean and std should be {self.channels} numbers each, std above 0")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of a pool or bundle: POSIX path inside the folder, size and SHA-256 (hex)."""

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or str(path) != self.path or "\\" in self.path:
            raise ValueError(f"path should be plain and inside the folder, is {self.path!r}")
        if self.bytes < 0 or len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"bytes and sha256 of {self.path!r} should be a size and 64 hex digits")


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One layer on one image: multiply-accumulates (FLOPs = 2 x MACs), parameters, bytes of its float32 output."""

    name: str
    kind: str
    macs: int
    parameters: int
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelCosts:
    """What one image costs one model, counted once (`counted_by` names the counter and its version)."""

    macs: int
    parameters: int
    counted_by: str
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`members/<id>.json`: what rebuilds a member's pruned shapes, and what it costs.

    `history` is torch-pruning's `pruning_history()`: a list of [layer name, is output pruning, channel indices];
    replaying it on the model spec gives the shapes that the member's weights fit. Zeroed weights need no plan: they
    are zeros in the member's file. `costs` count them as a dense engine runs them.
    """

    FORMAT: ClassVar[str] = "pdtool.plan/1"
    history: JsonValue
    costs: ModelCosts
    nonzero_weights: dict[str, int]  # convolution or linear layer -> its weights that are not zero


@dataclass(frozen=True, kw_only=True)
class PoolModel:
    """A model of a pool: its weights, what it costs and its accuracy on `accuracy_images` held-out clean images."""

    file: FileEntry
    plan: FileEntry
    macs: int  # of a dense engine, which multiplies by zeros, too
    nonzero_macs: int  # of them, those with a weight that is not zero
    parameters: int
    nonzero_parameters: int
    accuracy: float
    accuracy_images: int


@dataclass(frozen=True, kw_only=True)
class PoolMember:
    """A member and how it was made. `used` is False where it failed its accuracy floor (`reason` says so)."""

    id: str
    model: PoolModel
    used: bool
    reason: str | None
    seed: int
    recipe_key: str  # SHA-256 of everything that was asked for; resume compares it
    made_on: str  # device, threads and torch: on others the same request gives other bytes
    drawn: dict[str, JsonValue]  # what the method drew or settled for this member alone
    layer_rates: dict[str, float]  # achieved share, a pruned layer: of removed output channels, or of zero weights
    channel_rate: float  # achieved share of removed channels, all prunable layers together
    weight_rate: float  # achieved share of removed or zero weights, all convolutions and linear layers together
    parameter_rate: float  # achieved share of removed parameters
    kind: Kind | None = None  # in a hardened pool


@dataclass(frozen=True, kw_only=True)
class Pool:
    """`pool.json`: the original, its members and how they were made."""

    FORMAT: ClassVar[str] = "pdtool.pool/1"
    pdtool: str  # version that wrote it
    model: str  # model spec, e.g. "resnet18:width=16,classes=43,input=3x32x32"
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    method: str
    rate: float  # the overall share asked for: of channels or weights to remove, of neurons or weights to mutate
    group_rates: dict[str, float]  # channels -> rate
    options: dict[str, JsonValue]  # the method's other options as they were used
    recipe: dict[str, JsonValue]  # name and settings of the training, and the layers left whole
    seed: int
    data: str  # data spec the pool was made on
    data_fingerprint: str  # SHA-256 of those images and labels
    seen: FileEntry  # which images the pool was made and judged on (`pdtool.data.pixel_hashes`)
    samples: FileEntry  # npz with a few held-out uint8 images: what export checks parity on
    original: PoolModel
    parent: PoolModel | None = None  # of a hardened pool: what its members were cut from; no member itself
    members: tuple[PoolMember, ...]

    def __post_init__(self) -> None:
        _check_unique("member ids", tuple(member.id for member in self.members))
        _check_unique("classes", self.classes)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported file compares on `images` real images: fp32 with its torch model, the others with the fp32 file.

    No image that set the ranges of int8 is among them.
    """

    images: int
    label_agreement: float
    max_difference: float  # largest absolute difference of a logit


@dataclass(frozen=True, kw_only=True)
class BundleModel:
    """A model of a bundle, or its part of a file that holds several members: a pack, whose one answer (N, k x classes)
    holds their logits side by side. `resident_bytes`, `load_peak_bytes` and `run_bytes` are the whole file's, measured
    at export in a fresh process.
    """

    id: str
    file: FileEntry
    part: int  # its logits are columns part x classes ... (part + 1) x classes; 0 where the file holds it alone
    weights_sha256: str  # of the pool's weights that it was exported from
    macs: int
    parameters: int
    accuracy: float
    resident_bytes: int  # memory it holds once loaded
    load_peak_bytes: int  # most memory it holds while loading
    run_bytes: int  # what running `measured_batch` images takes on top, out of the scratch that all models share
    parity: Parity
    kind: Kind | None = None  # of a member of a hardened pool


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How TensorRT plans are built, at export and on a device. Bytes; None leaves TensorRT's own choice."""

    precision: Literal["fp32", "fp16", "int8"] = "fp32"  # of the ONNX file
    batch_min: int = 1
    batch_opt: int = 1
    batch_max: int = 32
    workspace: int | None = None  # most scratch that an engine may use
    tactic_dram: int | None = None  # most memory that the build may use to try a kernel: a small board needs a bound
    level: int | None = None  # 0 (quick build) to 5 (longest search); TensorRT's default is 3

    def __post_init__(self) -> None:
        if not 1 <= self.batch_min <= self.batch_opt <= self.batch_max:
            raise ValueError(
                f"batch_min, batch_opt and batch_max should grow from 1 on, are {self.batch_min}, {self.batch_opt} and "
                f"{self.batch_max}"
            )
        for name, size in (("workspace", self.workspace), ("tactic_dram", self.tactic_dram)):
            if size is not None and size < 1:
                raise ValueError(f"{name} should be at least 1 byte, is {size}")
        if self.level is not None and not 0 <= self.level <= 5:
            raise ValueError(f"level should lie in 0..5, is {self.level}")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """`bundle.json`: what the device needs, in the order of the members, every file with size and SHA-256.

    `digest` is the SHA-256 of the document's canonical JSON without that field (a signature, when there is one,
    signs the digest from a file of its own).
    """

    FORMAT: ClassVar[str] = "pdtool.bundle/1"
    pdtool: str
    backend: Backend  # what it was exported for; a calibration says what it was measured with
    precision: Literal["fp32", "fp16", "int8"]  # of weights and arithmetic inside the files; in and out is float32
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    original: BundleModel
    members: tuple[BundleModel, ...]
    pack: int  # members a file holds, side by side in their order; the last file may hold fewer
    pack_ratio: float | None  # time of one image through a pack over that through its members apart; None: not measured
    build: BuildOptions | None  # of the plans that were exported; a device builds those that it lacks alike
    costs: FileEntry  # costs.json: model id -> ModelCosts
    calibration: FileEntry | None  # calibration.json once calibrated
    seen: FileEntry  # which images the pool or the ranges of int8 were made on; calibrating on them is refused
    measured_batch: int  # images at once when the memory was measured
    digest: str

    def __post_init__(self) -> None:
        _check_unique("model ids", (self.original.id, *(member.id for member in self.members)))
        _check_unique("classes", self.classes)
        if not self.members:
            raise ValueError("members should hold at least one model")
        if self.pack < 1:
            raise ValueError(f"pack should be at least 1, is {self.pack}")
        if self.pack_ratio is not None and not 0 < self.pack_ratio < inf:
            raise ValueError(f"pack_ratio should be a number above 0, is {self.pack_ratio}")
        if self.build is not None and self.build.precision != self.precision:
            raise ValueError(f"precision of build should be {self.precision}, is {self.build.precision}")
        if self.original.part != 0:
            raise ValueError(f"part of {self.original.id!r} should be 0, is {self.original.part}")
        for i, member in enumerate(self.members):
            if member.part != i % self.pack:
                raise ValueError(
                    f"part of {member.id!r} should be {i % self.pack}, is {member.part} (files hold {self.pack})"
                )
            if member.part > 0 and member.file != self.members[i - 1].file:
                raise ValueError(f"file of {member.id!r} should be that of {self.members[i - 1].id!r}: one pack")
        files = [self.original.file.path, *(member.file.path for member in self.members if member.part == 0)]
        _check_unique("files", tuple(files))


def write_entry(folder: Path, path: str, data: bytes) -> FileEntry:
    """Write the file `path` of an artefact's folder, atomically, and return its entry."""
    write_atomic(folder / path, data)
    return entry_of(path, data)


def entry_of(path: str, data: bytes) -> FileEntry:
    """The entry of a file of those bytes."""
    return FileEntry(path=path, bytes=len(data), sha256=sha256_bytes(data))
