"""What all TensorRT engines of a process share: runtime, GPU, one scratch buffer, one input and one output buffer.

Engines run strictly one after another on one stream, under one lock; so one scratch buffer as large as the largest
engine needs serves them all (NVIDIA/TensorRT issue 3276: "Yes you can"), and one pair of input and output buffers.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from pdtool.errors import MissingError
from pdtool.runtime.device_memory import DeviceMemory, IoBuffer, open_memory
from pdtool.runtime.tensorrt_module import Library, find_tensorrt, logger_of, said

__all__ = ["Closeable", "Shared", "TensorRTSession", "open_session"]

ALIGNMENT = 512  # bytes; TensorRT's documentation asks for 256, Paddle met engines that need 512


class Closeable(Protocol):
    """An engine as the session sees it."""

    def close(self) -> None:
        """Drop context, then engine."""
        ...


@dataclass(frozen=True)
class Shared:
    """The buffers that all engines use, one engine at a time."""

    scratch: int  # address, a multiple of 512
    scratch_bytes: int
    given: IoBuffer
    answer: IoBuffer


class TensorRTSession:
    """A runtime on a GPU. Engines are closed before the runtime (issue 4299: the other way round is undefined)."""

    def __init__(self, trt: Any, memory: DeviceMemory) -> None:
        """`trt` is the module object (`tensorrt` or `tensorrt_rtx`). Raises MissingError where it has no runtime."""
        self.trt, self.memory = trt, memory
        self._lock = threading.RLock()
        self._engines: list[Closeable] = []
        self._address, self._scratch_bytes = 0, 0  # of the scratch buffer, as allocated; what engines may use of it
        self._io: list[IoBuffer | None] = [None, None]  # input, output
        with self.active():
            try:
                self.runtime: Any = trt.Runtime(logger_of(trt))
            except TypeError:  # what the binding makes of a null pointer
                raise MissingError(f"TensorRT's runtime does not start ({said(trt)}); run `pdtool doctor`") from None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Alone on the GPU: no other engine runs or loads, and the GPU is current in this thread."""
        with self._lock, self.memory.active():
            yield

    @property
    def held_bytes(self) -> int:
        """What the shared buffers hold on the GPU."""
        io = sum(buffer.host.nbytes for buffer in self._io if buffer is not None)
        return io + (self._scratch_bytes + ALIGNMENT if self._address else 0)

    def reserve(self, name: str, *, scratch: int, given: int, answer: int) -> Shared:
        """The shared buffers, at least so many bytes large; to be called while `active`.

        Engines call it when they are loaded, so that no frame waits for memory, and again before they run. A smaller
        buffer is freed first, since both at once might not fit. Raises MemoryError where the GPU has not that much.
        """
        try:
            if not self._address or self._scratch_bytes < scratch:
                self._free_scratch()
                self._address, self._scratch_bytes = self.memory.alloc(scratch + ALIGNMENT), scratch
            for i, size in enumerate((given, answer)):
                buffer = self._io[i]
                if buffer is None or buffer.host.nbytes < size:
                    self._free_io(i)
                    self._io[i] = self.memory.io(size)
        except MemoryError as error:
            raise MemoryError(
                f"{name}: the GPU has no room for the buffers that its engine needs ({error}); close other programs or "
                f"export with a smaller --batch-max"
            ) from None
        given_buffer, answer_buffer = self._io
        assert given_buffer is not None and answer_buffer is not None
        address = -(-self._address // ALIGNMENT) * ALIGNMENT
        return Shared(address, self._scratch_bytes, given_buffer, answer_buffer)

    def add(self, engine: Closeable) -> None:
        """Remember an engine that must be closed before the runtime."""
        self._engines.append(engine)

    def forget(self, engine: Closeable) -> None:
        """The engine has closed itself."""
        if engine in self._engines:
            self._engines.remove(engine)

    def close(self) -> None:
        """Close contexts and engines, then the runtime, then give all memory back; twice does nothing."""
        if self.runtime is None:
            return
        with self.active():
            for engine in list(self._engines):
                engine.close()
            self.runtime = None
            self._free_scratch()
            for i in range(len(self._io)):
                self._free_io(i)
        self.memory.close()

    def _free_scratch(self) -> None:
        if self._address:
            address, self._address, self._scratch_bytes = self._address, 0, 0
            self.memory.free(address)

    def _free_io(self, i: int) -> None:
        buffer, self._io[i] = self._io[i], None
        if buffer is not None:
            self.memory.free_io(buffer)


def open_session(library: Library = "tensorrt", *, index: int = 0) -> TensorRTSession:
    """A session of an installed TensorRT on the GPU `index`.

    Raises MissingError where the library, a way to its memory or the GPU is missing: the caller may then run the
    bundle's ONNX files with ONNX Runtime instead.
    """
    trt, memory = find_tensorrt(library), open_memory(index)
    try:
        return TensorRTSession(trt, memory)
    except BaseException:
        memory.close()
        raise
