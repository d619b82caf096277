"""TensorRT engines of a bundle: from its cache of plans, built from the ONNX file where the cache has none.

session = open_session("tensorrt")        # MissingError: no TensorRT or GPU here, run the ONNX files instead
build_missing(opened, session)            # before the first frame: builds take memory and minutes
load = engine_loader(opened, session)     # a `BundleModel` -> a loaded engine: what `Residency` calls
...
session.close()                           # after the engines
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdtool.artifacts import BundleModel, Parity, entry_of
from pdtool.devices.catalogue import Precision
from pdtool.errors import InputError
from pdtool.files import write_atomic, write_error
from pdtool.runtime.build_plan import BuildOptions, TimingCache, build_plan
from pdtool.runtime.bundle import OpenBundle, pretty
from pdtool.runtime.engine_tensorrt import TensorRTEngine
from pdtool.runtime.plans import ANY_GPU, ENGINES, EngineKey, PlanRecord, find_plan, foreign, plans_of, read_header
from pdtool.runtime.tensorrt_module import library_of
from pdtool.runtime.tensorrt_session import TensorRTSession

__all__ = ["build_missing", "engine_loader", "key_of", "make_record", "plan_id", "store_plan"]


def engine_loader(
    opened: OpenBundle,
    session: TensorRTSession,
    *,
    options: BuildOptions | None = None,
    build: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Callable[[BundleModel], TensorRTEngine]:
    """What loads a bundle's models as TensorRT engines, for `Residency.load`.

    A plan is taken from the bundle's cache; where the cache has none for this GPU, TensorRT version, precision and
    ONNX file, it is built and stored (`build` False: refused). `options` are for such builds (None: batches up to the
    bundle's measured one). `note` is told of each build. The returned function raises IntegrityError (exit code 7) for
    a damaged plan or one for another device, both keys shown; InputError where TensorRT refuses a file; MemoryError where
    the GPU's memory does not suffice.
    """
    options = options or _options(opened)
    timing = TimingCache()

    def load(model: BundleModel) -> TensorRTEngine:
        key = key_of(session.trt, session.memory.compute_capability, opened.bundle.precision, model.file.sha256)
        found = find_plan(opened.folder, plan_id(model), key)
        if found is not None:
            return TensorRTEngine(session, found[1], name=model.id)
        if not build:
            for other in plans_of(opened.folder, plan_id(model)):
                raise foreign(model.id, other, key)
            raise InputError(f"{model.id}: {opened.folder} holds no plan {key}; let pdtool build it on this device")
        note(f"building the plan of {model.id} for {key}")
        wanted = replace(options, precision=opened.bundle.precision)
        with session.active():
            plan, image = build_plan(session.trt, opened.read(model.file), wanted, name=model.id, timing=timing)
        engine = TensorRTEngine(session, plan, name=model.id)
        record = make_record(plan_id(model), key, plan, image, wanted, gpu=session.memory.gpu, engine=engine)
        try:
            store_plan(opened.folder, record, plan)
        except InputError as error:  # a bundle on a read-only disk works, it builds at every start
            note(f"the plan of {model.id} is not kept: {error}")
        return engine

    return load


def build_missing(
    opened: OpenBundle,
    session: TensorRTSession,
    *,
    models: Sequence[BundleModel] | None = None,
    options: BuildOptions | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Build and store what the cache lacks (of `models`, None: all), one engine loaded at a time; returns how many.

    Errors as `engine_loader`'s.
    """
    load, built = engine_loader(opened, session, options=options, note=note), 0
    for model in models if models is not None else opened.models:
        key = key_of(session.trt, session.memory.compute_capability, opened.bundle.precision, model.file.sha256)
        if find_plan(opened.folder, plan_id(model), key) is None:
            load(model).close()
            built += 1
    return built


def plan_id(model: BundleModel) -> str:
    """What a model's plan is called: as its ONNX file, which may hold several members."""
    return Path(model.file.path).stem


def key_of(trt: Any, compute_capability: str | None, precision: Precision, onnx_sha256: str) -> EngineKey:
    """The key of a plan built by a module object on a GPU; TensorRT-RTX's plans are not bound to one."""
    library = library_of(trt)
    return EngineKey(
        library=library,
        version=trt.__version__,
        compute_capability=ANY_GPU if library == "tensorrt-rtx" else compute_capability or "unknown",
        precision=precision,
        onnx_sha256=onnx_sha256,
    )


def make_record(
    model: str,
    key: EngineKey,
    plan: bytes,
    image: tuple[int, ...],
    options: BuildOptions,
    *,
    gpu: str | None = None,
    engine: TensorRTEngine | None = None,
    parity: Parity | None = None,
) -> PlanRecord:
    """What lies beside a plan; `engine` is the plan loaded once, None where there is no GPU: sizes not measured."""
    header = read_header(plan, name=model)
    return PlanRecord(
        model=model,
        key=key,
        plan=entry_of(f"{ENGINES}/{key.folder}/{model}.plan", plan),
        built_with=".".join(map(str, header.version)),
        gpu=gpu,
        input_shape=image,
        batch_min=options.batch_min,
        batch_opt=options.batch_opt,
        batch_max=options.batch_max,
        device_memory_bytes=engine.scratch_bytes if engine else None,
        weights_bytes=engine.weights_bytes if engine else None,
        measured_bytes=engine.measured_bytes if engine else None,
        parity=parity,
    )


def store_plan(folder: Path, record: PlanRecord, plan: bytes) -> None:
    """Put a plan into the bundle's cache: the plan, then its record. Raises InputError where the disk refuses."""
    path = folder / record.plan.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
    write_atomic(path, plan)
    write_atomic(path.with_suffix(".json"), pretty(record))


def _options(opened: OpenBundle) -> BuildOptions:
    return BuildOptions(batch_max=opened.bundle.measured_batch)
