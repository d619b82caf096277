"""TensorRT engines of a bundle: from its cache of plans, built from the ONNX file where the cache has none.

session = open_session("tensorrt")        # MissingError: no TensorRT or GPU here, run the ONNX files instead
cache = PlanCache(opened.folder)
build_missing(opened, session, cache)     # before the first frame: builds take memory and minutes
records = measured_records(opened, session, cache)
load = engine_loader(opened, session, cache)  # a `BundleModel` -> a loaded engine: what `Residency` calls
...
session.close()                           # after the engines
cache.close()
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdtool.artifacts import BundleModel, Parity, entry_of
from pdtool.devices.catalogue import Precision
from pdtool.errors import InputError
from pdtool.runtime.build_plan import BuildOptions, TimingCache, build_plan, options_of
from pdtool.runtime.bundle import OpenBundle
from pdtool.runtime.engine_tensorrt import TensorRTEngine
from pdtool.runtime.plan_cache import PlanCache
from pdtool.runtime.plans import ANY_GPU, ENGINES, EngineKey, PlanRecord, foreign, plans_of, read_header
from pdtool.runtime.tensorrt_module import library_of
from pdtool.runtime.tensorrt_session import TensorRTSession

__all__ = ["build_missing", "engine_loader", "key_of", "make_record", "measured_records", "plan_id"]


def engine_loader(
    opened: OpenBundle, session: TensorRTSession, cache: PlanCache
) -> Callable[[BundleModel], TensorRTEngine]:
    """What loads a bundle's models as TensorRT engines, for `Residency.load`.

    The cache must hold a plan for this GPU, TensorRT version, precision and ONNX file: no frame can wait for a build.

    The returned function raises IntegrityError (exit code 7) for a damaged plan or where there are those of another
    device alone, both keys shown; InputError where there is none or TensorRT refuses it; MemoryError where the GPU's
    memory does not suffice.
    """

    def load(model: BundleModel) -> TensorRTEngine:
        key = _key(opened, session, model)
        found = cache.find(plan_id(model), key)
        if found is not None:
            return TensorRTEngine(session, found[1], name=model.id)
        for other in plans_of(opened.folder, plan_id(model)):
            raise foreign(model.id, other, key)
        raise InputError(f"{model.id}: {opened.folder} holds no plan {key}; start again, what lacks is built then")

    return load


def build_missing(
    opened: OpenBundle,
    session: TensorRTSession,
    cache: PlanCache,
    *,
    models: Sequence[BundleModel] | None = None,
    options: BuildOptions | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Build and store what the cache lacks (of `models`, None: all), one engine loaded at a time; returns how many.

    `options` None: the bundle's (`options_of`); `note` is told of each build. Raises IntegrityError for a
    damaged plan or ONNX file, InputError where TensorRT refuses a file or no disk takes a plan, GateError where a build
    fails, MemoryError where the GPU has no room for an engine.
    """
    wanted = options or options_of(opened.bundle)
    timing, built = TimingCache(), 0
    for model in models if models is not None else opened.models:
        key = _key(opened, session, model)
        if cache.find(plan_id(model), key) is not None:
            continue
        note(f"building the plan of {model.id} for {key}")
        with session.active():
            plan, image = build_plan(session.trt, opened.read(model.file), wanted, name=model.id, timing=timing)
        with closing(TensorRTEngine(session, plan, name=model.id)) as engine:
            record = make_record(plan_id(model), key, plan, image, wanted, gpu=session.memory.gpu, engine=engine)
        cache.store(record, plan)
        built += 1
    return built


def measured_records(
    opened: OpenBundle, session: TensorRTSession, cache: PlanCache, *, store: bool = True
) -> dict[str, PlanRecord]:
    """Path of an ONNX file -> what its plan takes on this GPU; files without a plan are left out.

    A plan that was built without a GPU, or one for any that was measured on another, is loaded and measured, and its
    record completed (`store`). Errors as those of the function that `engine_loader` returns.
    """
    records: dict[str, PlanRecord] = {}
    for model in opened.models:
        if model.file.path in records:  # of a pack
            continue
        found = cache.find(plan_id(model), _key(opened, session, model))
        if found is None:
            continue
        record, plan = found
        elsewhere = record.key.compute_capability == ANY_GPU and record.gpu != session.memory.gpu
        if record.device_memory_bytes is None or record.measured_bytes is None or elsewhere:
            with closing(TensorRTEngine(session, plan, name=model.id)) as engine:
                record = _measured(replace(record, gpu=session.memory.gpu), engine)
            if store:
                cache.renew(record)
        records[model.file.path] = record
    return records


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
    record = PlanRecord(
        model=model,
        key=key,
        plan=entry_of(f"{ENGINES}/{key.folder}/{model}.plan", plan),
        built_with=".".join(map(str, header.version)),
        gpu=gpu,
        input_shape=image,
        batch_min=options.batch_min,
        batch_opt=options.batch_opt,
        batch_max=options.batch_max,
        device_memory_bytes=None,
        weights_bytes=None,
        measured_bytes=None,
        parity=parity,
    )
    return record if engine is None else _measured(record, engine)


def _measured(record: PlanRecord, engine: TensorRTEngine) -> PlanRecord:
    return replace(
        record,
        device_memory_bytes=engine.scratch_bytes,
        weights_bytes=engine.weights_bytes,
        measured_bytes=engine.measured_bytes,
    )


def _key(opened: OpenBundle, session: TensorRTSession, model: BundleModel) -> EngineKey:
    return key_of(session.trt, session.memory.compute_capability, opened.bundle.precision, model.file.sha256)
