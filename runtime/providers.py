"""What runs a bundle's models: ONNX Runtime on the CPU or a GPU, TensorRT or TensorRT-RTX, behind one `Provider`.

with open_provider(opened, "onnxruntime") as provider:
    engine = provider.load(provider.models[0])
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType

from pdtool.artifacts import Backend, BundleModel
from pdtool.devices.memory import held_bytes
from pdtool.errors import IntegrityError, MissingError
from pdtool.extras import require
from pdtool.images import size_of
from pdtool.runtime.build_plan import options_of
from pdtool.runtime.bundle import OpenBundle
from pdtool.runtime.engine import Engine
from pdtool.runtime.engine_loader import build_missing, engine_loader, measured_records
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.execution import Execution
from pdtool.runtime.plan_cache import PlanCache
from pdtool.runtime.plans import ENGINES, PlanRecord
from pdtool.runtime.tensorrt_module import Library
from pdtool.runtime.tensorrt_session import TensorRTSession, open_session

__all__ = ["Provider", "open_calibrated", "open_provider"]

WIDE_MACS = 300_000_000  # an original above it keeps all cores busy by itself (benchmarks/threads.md)
ITEM = 4  # bytes of a float32


@dataclass(frozen=True)
class Provider:
    """Loads a bundle's models. `engines` says what with, for a calibration to be bound to: the backend, on a GPU the
    library's version, and for TensorRT the GPU's compute capability."""

    engines: str
    models: tuple[BundleModel, ...]  # the original first; their bytes are those that they take here
    load: Callable[[BundleModel], Engine]
    held: Callable[[], int | None] | None  # memory of the process, where that is what engines take
    workers: int  # engines that may run at once
    in_background: bool  # one may be loaded while others run
    close: Callable[[], None]

    def __enter__(self) -> "Provider":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_provider(
    opened: OpenBundle,
    backend: Backend,
    *,
    threads: int | None = None,
    build: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Provider:
    """The provider of a backend; `threads` of the CPU (None: all that this process may use).

    With TensorRT, plans that the bundle's cache lacks are built now, none later; `note` is told of each. Without
    `build`, nothing is built or written: `note` is told how many lack, and models without a plan are said to take what
    they take in ONNX Runtime. Raises MissingError where a library or the GPU is missing, and what `build_missing` and
    `measured_records` raise.
    """
    return _open(opened, backend, threads, build, note, None)


def open_calibrated(
    opened: OpenBundle,
    *,
    threads: int | None = None,
    build: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Provider:
    """The provider that the bundle's calibration was measured with; the rest as `open_provider`.

    Raises MissingError where it is missing here, IntegrityError where it is another version or GPU, before anything is
    built for that.
    """
    assert opened.calibration is not None
    measured = opened.calibration.engines
    hint = f"calibrate on this device: pdtool calibrate {opened.folder} --data CLEAN_IMAGES --backend onnxruntime"
    try:
        return _open(opened, _backend_of(measured), threads, build, note, measured)
    except MissingError as error:
        raise MissingError(f"the calibration was measured with {measured}: {error}; or {hint}") from None


def _open(
    opened: OpenBundle,
    backend: Backend,
    threads: int | None,
    build: bool,
    note: Callable[[str], None],
    measured: str | None,
) -> Provider:
    """`measured`: what a calibration was measured with, None where there is none to keep to."""
    if backend == "tensorrt" or backend == "tensorrt-rtx":
        session = open_session(backend)
        try:
            _check_engines(opened, _engines(session, backend), measured)
            return _tensorrt(opened, session, backend, build, note)
        except BaseException:
            session.close()
            raise
    provider = _onnxruntime(opened, backend, threads or len(os.sched_getaffinity(0)))
    _check_engines(opened, provider.engines, measured)
    return provider


def _check_engines(opened: OpenBundle, engines: str, measured: str | None) -> None:
    if measured is not None and engines != measured:
        raise IntegrityError(
            f"{opened.folder}: its calibration was measured with {measured}, here runs {engines}; calibrate on this "
            f"device"
        )


def _backend_of(engines: str) -> Backend:
    """The backend that `Provider.engines` begins with."""
    return engines.split()[0]  # type: ignore[return-value]  # `Calibration` has checked it


def _onnxruntime(opened: OpenBundle, execution: Execution, cores: int) -> Provider:
    on_cpu = execution == "onnxruntime"
    wide = not on_cpu or opened.bundle.original.macs >= WIDE_MACS
    most, build = opened.bundle.measured_batch, options_of(opened.bundle)
    # Its TensorRT provider refuses batches outside of the profile, which `TensorRTEngine` fills up and cuts.
    build = replace(build, batch_min=1, batch_opt=min(build.batch_opt, most), batch_max=most)

    def load(model: BundleModel) -> OnnxEngine:
        return OnnxEngine(
            opened.read(model.file),
            name=model.id,
            threads=cores if wide else 1,
            execution=execution,
            image=size_of(opened.bundle.preprocessing),
            build=build,
            cache=opened.folder / ENGINES,
        )

    return Provider(
        engines=execution if on_cpu else f"{execution} {require('onnxruntime', 'run ONNX models').__version__}",
        models=opened.models,
        load=load,
        held=held_bytes if on_cpu else None,
        workers=1 if wide else cores,
        in_background=on_cpu,
        close=lambda: None,
    )


def _engines(session: TensorRTSession, library: Library) -> str:
    version = f"{library} {session.trt.__version__}"
    return version if library == "tensorrt-rtx" else f"{version} cc{session.memory.compute_capability}"


def _tensorrt(
    opened: OpenBundle, session: TensorRTSession, library: Library, build: bool, note: Callable[[str], None]
) -> Provider:
    cache = PlanCache(opened.folder, note)
    answers = opened.bundle.pack * len(opened.bundle.classes)
    try:
        if build:
            build_missing(opened, session, cache, note=note)
        records = measured_records(opened, session, cache, store=build)
    except BaseException:
        cache.close()
        raise
    files = {model.file.path for model in opened.models}
    if lacking := len(files - set(records)):
        note(
            f"{lacking} of {len(files)} plans for {_engines(session, library)} lack and are built first when frames "
            f"come; until then, what their models take is ONNX Runtime's"
        )

    def close() -> None:
        session.close()
        cache.close()

    return Provider(
        engines=_engines(session, library),
        models=tuple(
            _as_recorded(model, records[model.file.path], answers) if model.file.path in records else model
            for model in opened.models
        ),
        load=engine_loader(opened, session, cache),
        held=None,
        workers=1,  # they share one scratch buffer
        in_background=False,  # loading would hold the GPU while frames wait
        close=close,
    )


def _as_recorded(model: BundleModel, record: PlanRecord, answers: int) -> BundleModel:
    """The model with what its plan takes on the GPU."""
    assert record.measured_bytes is not None and record.device_memory_bytes is not None  # by `measured_records`
    one = ITEM * (math.prod(record.input_shape) + answers)  # the input and output buffers of an image
    return replace(
        model,
        resident_bytes=record.measured_bytes,
        load_peak_bytes=record.measured_bytes + record.plan.bytes,  # the file's bytes, while TensorRT reads them
        run_bytes=record.device_memory_bytes + record.batch_max * one,
    )
