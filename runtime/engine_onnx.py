"""ONNX Runtime on the CPU, or on a GPU through its CUDA and TensorRT execution providers."""

import logging
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.devices.memory import give_back, tune_malloc
from pdtool.errors import InputError, PdtoolError
from pdtool.extras import require
from pdtool.images import Size
from pdtool.runtime.build_plan import BuildOptions
from pdtool.runtime.execution import Execution, open_session

__all__ = ["OnnxEngine"]

LOG = logging.getLogger(__name__)
FLOAT = "tensor(float)"
SHRINK = "memory.enable_memory_arena_shrinkage"
_open = 0  # engines of this process: the last one to close gives the shared scratch back
_lock = threading.Lock()


class OnnxEngine:
    """A model in ONNX Runtime; see `pdtool.runtime.engine.Engine`.

    All sessions of the process share one arena for what lives during a run, as TensorRT's contexts share a scratch
    buffer: with an arena each, eight sessions of 18 MiB hold 285 MiB (deployment facts), and with none every large
    tensor's pages are taken from the system and cleared again in every run. Weights stay outside of it, so that a
    dropped session gives its memory back.
    Without spinning threads, since a camera's frames leave pauses.
    """

    def __init__(
        self,
        model: bytes,
        *,
        name: str,
        threads: int = 1,
        execution: Execution = "onnxruntime",
        image: Size | None = None,
        build: BuildOptions | None = None,
        cache: Path | None = None,
    ) -> None:
        """Load a model file's bytes. `threads` work on one operator at once; small models are faster with one.

        `execution` is where it runs; `image`, `build` and `cache` are for ONNX Runtime's TensorRT provider
        (`pdtool.runtime.execution.open_session`).
        Raises InputError where ONNX Runtime refuses the file, `name` says which; MissingError where it has not the
        execution provider; MemoryError where the system has not enough memory.
        """
        tune_malloc()
        ort = require("onnxruntime", "run ONNX models")
        _share_scratch(ort)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 4  # what matters comes as an exception, and becomes one line
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        try:
            self._session: Any = open_session(ort, model, options, execution, image=image, build=build, cache=cache)
        except PdtoolError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _raise_if_memory(error, f"{name}: no memory to load it")
            raise InputError(f"{name}: ONNX Runtime refuses the file ({reason}); export it again") from None
        # Its Python wrapper keeps the file's bytes to build the session anew with other providers, which never happens
        # here: every model would be held twice.
        if hasattr(self._session, "_model_bytes"):
            self._session._model_bytes = None
        self.name = name
        self.measured_bytes: int | None = None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != FLOAT or outputs[0].type != FLOAT:
            raise InputError(
                f"{name}: expected one input and one output of float32, got {[each.type for each in inputs]} and "
                f"{[each.type for each in outputs]}; export it again"
            )
        given = inputs[0]
        self._input: str = given.name
        self._image = tuple(given.shape[1:])
        global _open
        with _lock:
            _open += 1

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, classes) of a batch (N, C, H, W) of pixels in [0, 1]. Raises InputError for another batch."""
        session = self._session
        if session is None:
            raise RuntimeError("this engine is closed")
        if batch.dtype != np.float32 or batch.shape[1:] != self._image:
            raise InputError(
                f"{self.name}: expected float32 images (N, {', '.join(map(str, self._image))}), "
                f"got {batch.dtype} {batch.shape}"
            )
        try:
            logits: NDArray[np.float32] = session.run(None, {self._input: batch})[0]
        except Exception as error:
            _raise_if_memory(error, f"{self.name}: no memory to run {len(batch)} images")
            reason = " ".join(str(error).split())
            raise InputError(f"{self.name}: ONNX Runtime cannot run the file ({reason}); export it again") from None
        return logits

    def shrink(self) -> None:
        """Give the shared scratch back to the system, as far as no other engine runs; the next run takes it anew."""
        ort = require("onnxruntime", "run ONNX models")
        options = ort.RunOptions()
        options.add_run_config_entry(SHRINK, "cpu:0")
        self._session.run(None, {self._input: np.zeros((1, *self._image), dtype=np.float32)}, options)
        give_back()

    def close(self) -> None:
        """Drop the session and return its pages to the system; with the last one also the shared scratch."""
        global _open
        if self._session is None:
            return
        with _lock:
            _open -= 1
            last = _open == 0
        if last:
            with suppress(Exception):  # closing must not fail, whatever a model does on zeros
                self.shrink()
        self._session = None
        give_back()


def _raise_if_memory(error: Exception, what: str) -> None:
    """ONNX Runtime has no exception of its own for want of memory: its words say it."""
    if any(
        words in str(error)
        for words in ("bad_alloc", "Failed to allocate memory", "Available memory of", "out of memory")
    ):
        raise MemoryError(what) from None


@cache
def _share_scratch(ort: Any) -> None:
    """Have the sessions of this process take what lives during a run from one arena.

    It grows in doubling regions (strategy 0), inside which freed blocks join again: a region for every size asked for
    (strategy 1) ends up twice as large as any run needs.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    settings = {
        "max_mem": 0,
        "arena_extend_strategy": 0,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    try:
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(settings))
    except Exception as error:  # the program around us has registered one: then that one serves
        LOG.debug("the shared arena: %s", error)
