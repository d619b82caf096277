"""Where ONNX Runtime runs a model: the CPU, or an NVIDIA GPU by its CUDA or TensorRT execution provider.

Seen with onnxruntime-gpu 1.31.1 on a machine without a driver, and with one that reports no GPU: both providers are
"available", a provider that cannot be loaded or started is replaced by the CPU with lines on stderr or stdout, and so
is one that fails in a run. A calibration holds for what it was measured on, so `open_session` lets none of that pass.

Options, from onnxruntime.ai/docs/execution-providers (CUDA-ExecutionProvider, TensorRT-ExecutionProvider) and, by
number, microsoft/onnxruntime's issues and pull requests:
- `cudnn_conv_algo_search` HEURISTIC: with the default EXHAUSTIVE, results differ from session to session (19822) and,
  before 1.20, the first run tries all kernels; DEFAULT is cuDNN's slow last resort since 1.20 (22705).
- `arena_extend_strategy` kSameAsRequested: the other one doubles what the arena holds.
- TF32 rounds fp32's 23 bits to 10. CUDA has `use_tf32` (19357), TensorRT only NVIDIA_TF32_OVERRIDE (26029).
- No trt_fp16_enable or trt_int8_enable: without them, TensorRT 10 takes the types that the ONNX file has (18707).
- Explicit profiles: the engine is built with the session, once, not anew for every larger batch (13851, 15546).
- No gpu_mem_limit: it bounds the arena alone, not cuDNN's workspace. No trt_context_memory_sharing_enable: it shares
  between the subgraphs of one session (11859), and ours have one.
- No session.disable_cpu_ep_fallback: ONNX Runtime puts Shape and what follows on the CPU on purpose (17930), and that
  would refuse every model that flattens with `view`. CUDA comes after TensorRT for nodes that TensorRT does not know;
  the CPU is always last, unnamed.
"""

import ctypes
import importlib
import io
import os
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from functools import cache as once
from pathlib import Path
from typing import Any, Literal

from pdtool.errors import MissingError
from pdtool.extras import require
from pdtool.files import sha256_bytes
from pdtool.runtime.build_plan import BuildOptions
from pdtool.runtime.sealed import sealed

__all__ = ["Execution", "check_providers", "open_session", "providers"]

Execution = Literal["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"]
Named = str | tuple[str, dict[str, Any]]  # a provider, or a provider and its options

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
NAMES = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-cuda": CUDA, "onnxruntime-tensorrt": TENSORRT}
LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
# One of the two packages only: they write the same files. Hence no extra of pyproject.toml.
INSTALL = "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
INSTALLS = {"onnxruntime-cuda": INSTALL, "onnxruntime-tensorrt": f"{INSTALL} 'tensorrt<11'"}
CUDA_OPTIONS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
INPUT = "input"  # of every ONNX file that an export writes


def open_session(
    ort: Any,
    model: bytes,
    settings: Any,
    backend: Execution,
    *,
    image: Sequence[int] | None = None,
    build: BuildOptions | None = None,
    cache: Path | None = None,
) -> Any:
    """An InferenceSession of a model file's bytes that runs on `backend` or not at all; `settings`: SessionOptions.

    `image`, `build`: as `providers`'. TensorRT's engines are kept in the folder `cache` (None: built anew every time,
    in minutes). ONNX Runtime names an engine by its model's node names, whatever the weights (6455, 32254), so that a
    pool's members would all run the first one's engine: each `model` gets a folder of its own (see `sealed`; with
    explicit profiles, a session reads and writes there while it is made and never again).

    Raises MissingError where the provider does not start here, MemoryError where the GPU has no room, IntegrityError
    for an engine in the cache that is not the one that was built, InputError where the cache must be written and
    cannot; for a bad file, ONNX Runtime's own.
    """
    _check_available(ort, backend)
    with ExitStack() as stack:
        engines = None
        if backend == "onnxruntime-tensorrt" and cache is not None:
            engines = stack.enter_context(sealed(cache / f"onnxruntime-{ort.__version__}-{sha256_bytes(model)}"))
        chosen = providers(ort, backend, image=image, build=build, engines=engines, timing=cache)
        try:
            session = ort.InferenceSession(model, settings, providers=chosen, enable_fallback=0)
        except RuntimeError as error:  # of providers and their options: what is wrong with a file has its own classes
            if backend == "onnxruntime":
                raise
            reason = " ".join(str(error).split()).rsplit("] ", 1)[-1].rsplit("&) ", 1)[-1].split(" ;")[0]
            if "out of memory" in reason:
                raise MemoryError(f"the GPU has no room for the model ({reason})") from None
            raise _missing(backend, _load_error(NAMES[backend]) or reason) from None
        check_providers(session, backend)
    return session


def providers(
    ort: Any,
    backend: Execution,
    *,
    image: Sequence[int] | None = None,
    build: BuildOptions | None = None,
    engines: Path | None = None,
    timing: Path | None = None,
) -> list[Named]:
    """Names and options for InferenceSession's `providers`; it also needs `enable_fallback=0`, see `open_session`.

    TensorRT's engines are for images of shape `image` (C, H, W) in the batches of `build` (a larger one is an error),
    one model's are kept in the folder `engines` (None: built anew every time) and the times of kernels, which members
    share, in the folder `timing`. Raises MissingError where this ONNX Runtime has not the provider.
    """
    if backend == "onnxruntime":
        return [NAMES[backend]]
    _check_available(ort, backend)
    if backend == "onnxruntime-cuda":
        _preload(ort)
        return [(CUDA, dict(CUDA_OPTIONS))]
    if image is None:
        raise ValueError("onnxruntime-tensorrt needs the shape of one image")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    _preload(ort)
    build = build or BuildOptions()
    options: dict[str, Any] = {}  # True, not "1": TensorRT's options are read in Python's words
    for word, batch in (("min", build.batch_min), ("opt", build.batch_opt), ("max", build.batch_max)):
        options[f"trt_profile_{word}_shapes"] = f"{INPUT}:{'x'.join(map(str, (batch, *image)))}"
    if build.workspace is not None:
        options["trt_max_workspace_size"] = build.workspace
    if build.level is not None:
        options["trt_builder_optimization_level"] = build.level
    if engines is not None:
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines)}
    if timing is not None:
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(timing)}
    return [(TENSORRT, options), (CUDA, dict(CUDA_OPTIONS))]


def _check_available(ort: Any, backend: Execution) -> None:
    """Raise MissingError where this ONNX Runtime has not the provider, or the machine no driver for it."""
    if backend == "onnxruntime":
        return
    if NAMES[backend] not in ort.get_available_providers():
        raise _missing(backend, f"onnxruntime {ort.__version__} is built without {NAMES[backend]}")
    try:
        ctypes.CDLL("libcuda.so.1")  # said here, since ONNX Runtime would say it in red and run on the CPU
    except OSError as error:
        raise _missing(backend, f"no NVIDIA driver: {error}") from None


def check_providers(session: Any, backend: Execution) -> None:
    """Raise MissingError where a session does not run on `backend`, with the loader's words where there are any."""
    came = session.get_providers()
    if backend != "onnxruntime" and came[:1] != [NAMES[backend]]:
        raise _missing(backend, _load_error(NAMES[backend]) or f"ONNX Runtime took {', '.join(came)} instead")


def _missing(backend: Execution, reason: str) -> MissingError:
    return MissingError(
        f"{backend} does not start here ({reason}); with an NVIDIA GPU and its driver, run: {INSTALLS[backend]}"
    )


def _load_error(provider: str) -> str:
    """Why a provider's library does not load, which ONNX Runtime tells stderr alone; "" where it does or there is none.

    Only after ONNX Runtime has tried: the library wants its host's pointers while it is loaded.
    """
    library = Path(require("onnxruntime", "run ONNX models").__file__ or "").parent / "capi" / LIBRARIES[provider]
    try:
        if library.is_file():
            ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


@once
def _preload(ort: Any) -> None:
    """Load the libraries that pip installed, where no loader looks; what is missing, the provider tells."""
    with redirect_stdout(io.StringIO()):  # where preload_dlls (1.21 on) prints what it misses
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
    with suppress(ImportError, OSError):
        importlib.import_module("tensorrt_libs")
