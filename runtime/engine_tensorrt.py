"""A TensorRT plan on a GPU, for the lines 8.6, 10.3, 10.13, 10.16, 11 and TensorRT-RTX: one adapter.

Which of two ways a line offers is decided by the attribute being there. The engine brings its weights and what its
context keeps between runs; scratch, input and output are the session's, shared with all other engines.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import InputError
from pdtool.runtime.plans import check_header
from pdtool.runtime.tensorrt_module import library_of, logger_of, said
from pdtool.runtime.tensorrt_session import TensorRTSession

__all__ = ["TensorRTEngine"]

ITEM = 4  # bytes of a float32: precision is inside the engine, what goes in and comes out is always float32


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # of one image


class TensorRTEngine:
    """A loaded plan; see `pdtool.runtime.engine.Engine`.

    `scratch_bytes`, `weights_bytes` (None where this TensorRT does not say) and `measured_bytes` (what loading took on
    the GPU, shared buffers apart) are what a memory budget wants to know.
    """

    def __init__(self, session: TensorRTSession, plan: bytes, *, name: str) -> None:
        """Load a plan's bytes, checked by `find_plan`; `name` is what errors call it.

        Raises IntegrityError for another version's plan, InputError with TensorRT's own words where it refuses the
        plan, MemoryError where the GPU's memory does not suffice.
        """
        self.name, self._session = name, session
        self._engine: Any = None
        self._context: Any = None
        trt = session.trt
        check_header(plan, library=library_of(trt), version=trt.__version__, name=name)
        with session.active():
            logger_of(trt).messages.clear()
            before = session.memory.available()[0]
            try:
                self._load(plan)
            except BaseException:
                self._context = None
                self._engine = None
                raise
            self.measured_bytes: int | None = max(before - session.memory.available()[0], 0)
            self._reserve()
        session.add(self)

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, classes) of a batch (N, C, H, W) of pixels in [0, 1]; more than the plan's largest in pieces.

        Raises InputError for another batch and with TensorRT's words where it fails, MemoryError where the GPU has no
        room for the buffers.
        """
        if self._context is None:
            raise RuntimeError("this engine is closed")
        if batch.dtype != np.float32 or batch.shape[1:] != self._input.shape:
            raise InputError(
                f"{self.name}: expected float32 images (N, {', '.join(map(str, self._input.shape))}), "
                f"got {batch.dtype} {batch.shape}"
            )
        logits = np.empty((len(batch), *self._output.shape), dtype=np.float32)
        with self._session.active():
            for start in range(0, len(batch), self.batch_max):
                end = min(start + self.batch_max, len(batch))
                self._run_piece(batch[start:end], logits[start:end])
        return logits

    def close(self) -> None:
        """Drop the context, then the engine; its memory on the GPU is free afterwards."""
        if self._engine is None:
            return
        with self._session.active():
            self._context = None  # TensorRT objects are destroyed with their last reference: context first
            self._engine = None
            self._session.forget(self)

    def _load(self, plan: bytes) -> None:
        trt = self._session.trt
        self._engine = self._session.runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = said(trt)
            if "out of memory" in reason.lower():
                raise MemoryError(f"{self.name}: the GPU has no room for the engine ({reason}); close other programs")
            raise InputError(f"{self.name}: TensorRT refuses the plan ({reason}); delete it, it is built again")
        self._input, self._output = self._tensors()
        self.batch_min, self.batch_max = self._batches()
        self.scratch_bytes = _scratch_bytes(self._engine)
        self.weights_bytes = _weights_bytes(trt, self._engine)
        self._context = _bare_context(trt, self._engine)
        if self._context is None:
            raise MemoryError(
                f"{self.name}: TensorRT makes no context for the plan ({said(trt)}); free memory on the GPU"
            )

    def _tensors(self) -> tuple[_Tensor, _Tensor]:
        """The one input and the one output, both float32."""
        trt, engine = self._session.trt, self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        wrong = [name for name in names if engine.get_tensor_dtype(name) != trt.DataType.FLOAT]
        if len(inputs) != 1 or len(outputs) != 1 or wrong:
            raise InputError(
                f"{self.name}: expected a plan with one float32 input and output, got {inputs} and {outputs}, of other "
                f"types {wrong}; build it from the bundle's ONNX file"
            )
        given, answer = (_Tensor(name, tuple(engine.get_tensor_shape(name))[1:]) for name in (*inputs, *outputs))
        if min(given.shape + answer.shape, default=0) < 1:
            raise InputError(
                f"{self.name}: expected a plan in which the batch alone varies, got {given.shape} and {answer.shape}"
            )
        return given, answer

    def _batches(self) -> tuple[int, int]:
        """The smallest and the largest batch of its optimisation profile."""
        least, _, most = self._engine.get_tensor_profile_shape(self._input.name, 0)
        return int(least[0]), int(most[0])

    def _reserve(self) -> Any:
        return self._session.reserve(
            self.name,
            scratch=self.scratch_bytes,
            given=self.batch_max * math.prod(self._input.shape) * ITEM,
            answer=self.batch_max * math.prod(self._output.shape) * ITEM,
        )

    def _run_piece(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        """At most `batch_max` images; fewer than `batch_min` are filled up with zeros."""
        context, memory, trt = self._context, self._session.memory, self._session.trt
        shared = self._reserve()
        count = max(len(images), self.batch_min)
        given = shared.given.host[: count * math.prod(self._input.shape) * ITEM]
        answer = shared.answer.host[: count * math.prod(self._output.shape) * ITEM]
        pixels = given.view(np.float32).reshape(count, *self._input.shape)
        pixels[: len(images)] = images
        pixels[len(images) :] = 0
        if not context.set_input_shape(self._input.name, pixels.shape):
            raise self._refused(f"the input shape {pixels.shape}", trt)
        unknown = context.infer_shapes()
        if unknown:
            raise self._refused(f"to infer the shapes of {', '.join(unknown)}", trt)
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(shared.scratch, shared.scratch_bytes)
        else:
            context.device_memory = shared.scratch
        for name, address in ((self._input.name, shared.given.device), (self._output.name, shared.answer.device)):
            if not context.set_tensor_address(name, address):
                raise self._refused(f"the address of {name}", trt)
        try:
            memory.to_device(shared.given, given.nbytes)
            if not context.execute_async_v3(memory.stream):
                raise self._refused("to run", trt)
            memory.to_host(shared.answer, answer.nbytes)
        finally:
            memory.synchronise()  # even then: the next engine writes into the buffers that a copy may still read
        logits[:] = answer.view(np.float32).reshape(count, *self._output.shape)[: len(images)]

    def _refused(self, what: str, trt: Any) -> InputError:
        return InputError(f"{self.name}: TensorRT refuses {what} ({said(trt)}); delete the plan, it is built again")


def _bare_context(trt: Any, engine: Any) -> Any:
    """A context without scratch of its own: USER_MANAGED since 10.0, by a method of its own before."""
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategies is not None:
        return engine.create_execution_context(strategies.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def _scratch_bytes(engine: Any) -> int:
    """Most scratch over all of its profile; `device_memory_size` went in 11."""
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)


def _weights_bytes(trt: Any, engine: Any) -> int | None:
    """What the weights hold on the GPU, since 10.16."""
    if not hasattr(engine, "get_engine_stat"):
        return None
    return int(engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))
