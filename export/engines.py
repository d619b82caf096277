"""Plans into a bundle's cache, built here: with TensorRT on this machine's GPU, with TensorRT-RTX on any machine."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pdtool.artifacts import BundleModel, Parity
from pdtool.devices.catalogue import Precision
from pdtool.errors import GateError, MissingError
from pdtool.files import read_checked
from pdtool.images import Images, as_input
from pdtool.runtime.build_plan import BuildOptions, TimingCache, build_plan
from pdtool.runtime.engine import Engine
from pdtool.runtime.engine_loader import key_of, make_record
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.engine_tensorrt import TensorRTEngine
from pdtool.runtime.plan_cache import store_plan
from pdtool.runtime.plans import PlanRecord
from pdtool.runtime.tensorrt_module import Library, find_tensorrt, library_of
from pdtool.runtime.tensorrt_session import TensorRTSession, open_session

__all__ = ["PlanBuild", "export_plans", "open_build", "trtexec_line"]

PIECE = 64  # images at once


@dataclass(frozen=True)
class PlanBuild:
    """What an export builds plans with: TensorRT's module object, a GPU where there is one, and how."""

    trt: Any
    session: TensorRTSession | None
    options: BuildOptions
    timing: TimingCache = field(default_factory=TimingCache)  # one serves all builds


@contextmanager
def open_build(library: Library, options: BuildOptions) -> Iterator[PlanBuild]:
    """TensorRT as it is installed here. TensorRT-RTX goes without a GPU, and then without measuring or comparing.

    Raises MissingError where the library is missing or, for TensorRT, the GPU.
    """
    trt, session = find_tensorrt(library), None
    try:
        session = open_session(library)
    except MissingError:
        if library == "tensorrt":  # it builds for the GPU that it builds on
            raise
    try:
        yield PlanBuild(trt, session, options)
    finally:
        if session is not None:
            session.close()


@contextmanager
def _enough_memory() -> Iterator[None]:
    """An export cannot do without a model, as a stream of frames can."""
    try:
        yield
    except MemoryError as error:
        raise GateError(" ".join(str(error).split()) or "not enough memory to load a plan") from None


@_enough_memory()
def export_plans(
    folder: Path,
    models: Sequence[BundleModel],
    precision: Precision,
    build: PlanBuild,
    *,
    images: Images | None = None,
    min_agreement: float = 0.99,
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[PlanRecord, ...]:
    """Build the plan of every file of the bundle in `folder` and put it, with its record, into the bundle's cache.

    A plan goes by its file's name: the model's id, or that of the pack of several.

    With a GPU, each plan is loaded, measured, and its labels for `images` (N, H, W, C) compared with those of its ONNX
    file; without one (TensorRT-RTX alone) the records' sizes and parity are null. `advance` is called after each file
    with the number of its models. Raises IntegrityError for a changed ONNX file, InputError where the parser
    refuses one, GateError where a build fails, the GPU has no room for an engine or fewer than `min_agreement` of the
    labels agree.
    """
    trt, session, timing, records = build.trt, build.session, build.timing, []
    options = replace(build.options, precision=precision)
    parts = Counter(model.file for model in models)
    for file, count in parts.items():
        name = Path(file.path).stem
        onnx = read_checked(folder / file.path, file.bytes, file.sha256)
        if session is None:
            key = key_of(trt, None, precision, file.sha256)
            plan, image = build_plan(trt, onnx, options, name=name, timing=timing)
            record = make_record(name, key, plan, image, options)
        else:
            key = key_of(trt, session.memory.compute_capability, precision, file.sha256)
            with session.active():
                plan, image = build_plan(trt, onnx, options, name=name, timing=timing)
            with closing(TensorRTEngine(session, plan, name=name)) as engine:
                parity = None if images is None else _parity(engine, onnx, images, name, count, min_agreement)
                gpu = session.memory.gpu
                record = make_record(name, key, plan, image, options, gpu=gpu, engine=engine, parity=parity)
        store_plan(folder, record, plan)
        records.append(record)
        advance(count)
    return tuple(records)


def plan_loader(build: PlanBuild, precision: Precision) -> Callable[[bytes], Engine] | None:
    """What builds an ONNX file's plan and loads it, to be measured; None where there is no GPU to run it.

    Raises as `export_plans`.
    """
    session = build.session
    if session is None:
        return None
    options = replace(build.options, precision=precision)

    @_enough_memory()
    def load(onnx: bytes) -> TensorRTEngine:
        with session.active():
            plan, _ = build_plan(build.trt, onnx, options, name="a member", timing=build.timing)
        return TensorRTEngine(session, plan, name="a member")

    return load


def _parity(engine: TensorRTEngine, onnx: bytes, images: Images, name: str, models: int, least: float) -> Parity:
    """How the plan of a file of some models compares with its ONNX file, which the export has checked already."""
    pieces = [as_input(images[i : i + PIECE]) for i in range(0, len(images), PIECE)]
    with closing(OnnxEngine(onnx, name=name)) as reference:
        expected = np.concatenate([reference.run(piece) for piece in pieces])
    came = np.concatenate([engine.run(piece) for piece in pieces])
    labels = [logits.reshape(len(logits), models, -1).argmax(axis=2) for logits in (expected, came)]
    agreement = float((labels[0] == labels[1]).mean())
    difference = float(np.abs(expected - came).max())
    if agreement < least or not np.isfinite(difference):
        raise GateError(
            f"{name}: the plan agrees with its ONNX file on {agreement:.1%} of {len(images)} images, --min-agreement "
            f"asks for {least:.1%} (largest difference {difference:.3g}); use --format onnx or another precision"
        )
    return Parity(images=len(images), label_agreement=agreement, max_difference=difference)


def trtexec_line(
    onnx: str,
    plan: str,
    image: tuple[int, ...],
    options: BuildOptions,
    *,
    library: Library = "tensorrt",
    trt: Any = None,
) -> str:
    """The command line of NVIDIA's own tool that builds the same plan; `trt` None: for a strongly typed line (10, 11).

    trtexec has no word for the tactic DRAM limit, which is therefore left out.

    >>> trtexec_line("m0.onnx", "m0.plan", (3, 32, 32), BuildOptions(batch_max=8))
    'trtexec --onnx=m0.onnx --saveEngine=m0.plan --minShapes=input:1x3x32x32 --optShapes=input:1x3x32x32 \
--maxShapes=input:8x3x32x32 --noTF32 --stronglyTyped --skipInference'
    """
    library = library_of(trt) if trt is not None else library
    shape = "x".join(map(str, image))
    parts = ["trtexec" if library == "tensorrt" else "tensorrt_rtx", f"--onnx={onnx}", f"--saveEngine={plan}"]
    for word, batch in (("min", options.batch_min), ("opt", options.batch_opt), ("max", options.batch_max)):
        parts.append(f"--{word}Shapes=input:{batch}x{shape}")
    if options.workspace is not None:
        parts.append(f"--memPoolSize=workspace:{options.workspace}B")
    if options.level is not None:
        parts.append(f"--builderOptimizationLevel={options.level}")
    if options.precision == "fp32":
        parts.append("--noTF32")
    typed = trt is None or hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    always = trt is not None and not hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    if typed and not always and library == "tensorrt":
        parts.append("--stronglyTyped")
    elif not typed and options.precision != "fp32":
        parts.append(f"--{options.precision}")
    return shlex.join([*parts, "--skipInference"])
