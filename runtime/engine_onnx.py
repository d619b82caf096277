"""ONNX Runtime on the CPU."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.devices.memory import give_back, tune_malloc
from pdtool.errors import InputError
from pdtool.extras import require

__all__ = ["OnnxEngine"]


class OnnxEngine:
    """A model in ONNX Runtime; see `pdtool.runtime.engine.Engine`.

    Without ONNX Runtime's arena and memory pattern, since both keep memory after a run (deployment facts: eight
    sessions of 18 MiB hold 285 MiB with them); without spinning threads, since a camera's frames leave pauses.
    """

    def __init__(self, model: bytes, *, name: str, threads: int | None = None) -> None:
        """Load a model file's bytes. `threads` None: the processors this process may use.

        Raises InputError where ONNX Runtime refuses the file, `name` says which.
        """
        tune_malloc()
        ort = require("onnxruntime", "run ONNX models")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{name}: ONNX Runtime refuses the file ({reason}); export it again") from None
        # Its Python wrapper keeps the file's bytes to build the session anew with other providers, which never happens
        # here: every model would be held twice.
        if hasattr(self._session, "_model_bytes"):
            self._session._model_bytes = None
        self._input: str = self._session.get_inputs()[0].name

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, classes) of a batch (N, C, H, W) of pixels in [0, 1]."""
        if self._session is None:
            raise RuntimeError("this engine is closed")
        logits: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        return logits

    def close(self) -> None:
        """Drop the session and return its pages to the system."""
        if self._session is not None:
            self._session = None
            give_back()
