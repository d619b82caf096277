"""GPU memory by pycuda; see `pdtool.runtime.device_memory`. Never `pycuda.autoinit`: it makes a context of its own."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pdtool.errors import MissingError
from pdtool.runtime.device_memory import IoBuffer
from pdtool.runtime.tensorrt_module import load

__all__ = ["PycudaMemory"]


class PycudaMemory:
    """One GPU in its primary context, which PyTorch, TensorRT and ONNX Runtime use, too."""

    def __init__(self, index: int = 0) -> None:
        """Raises MissingError without pycuda or without a GPU."""
        self._cuda: Any = load("pycuda.driver", "run TensorRT engines")
        try:
            self._cuda.init()
            device = self._cuda.Device(index)
            self._context: Any = device.retain_primary_context()  # does not make it current
        except self._cuda.Error as error:
            raise MissingError(f"no usable NVIDIA GPU {index} ({error}); run `pdtool doctor`") from None
        self.gpu: str = device.name()
        self.compute_capability = ".".join(str(part) for part in device.compute_capability())
        self._integrated = bool(device.get_attribute(self._cuda.device_attribute.INTEGRATED))
        self._blocks: dict[int, Any] = {}
        with self.active():
            self._stream: Any = self._cuda.Stream()

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Push the context in this thread, pop it at the end."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def alloc(self, size: int) -> int:
        """See `DeviceMemory.alloc`."""
        try:
            block = self._cuda.mem_alloc(size)
        except self._cuda.MemoryError:
            raise self._full(size) from None
        self._blocks[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """See `DeviceMemory.free`."""
        self._blocks.pop(address).free()

    def io(self, size: int) -> IoBuffer:
        """Page-locked memory that the GPU addresses itself where it shares it, else with a block of its own."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP if self._integrated else 0
        try:
            host = self._cuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
        except self._cuda.MemoryError:
            raise self._full(size) from None
        if self._integrated:
            return IoBuffer(host, int(host.base.get_device_pointer()), host.base)
        try:
            return IoBuffer(host, self.alloc(size), host.base)
        except MemoryError:
            host.base.free()
            raise

    def free_io(self, buffer: IoBuffer) -> None:
        """See `DeviceMemory.free_io`."""
        if not self._integrated:
            self.free(buffer.device)
        buffer.owner.free()

    def to_device(self, buffer: IoBuffer, size: int) -> None:
        """See `DeviceMemory.to_device`."""
        if not self._integrated:
            self._cuda.memcpy_htod_async(buffer.device, buffer.host[:size], self._stream)

    def to_host(self, buffer: IoBuffer, size: int) -> None:
        """See `DeviceMemory.to_host`."""
        if not self._integrated:
            self._cuda.memcpy_dtoh_async(buffer.host[:size], buffer.device, self._stream)

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._stream.synchronize()

    def available(self) -> tuple[int, int]:
        """See `DeviceMemory.available`."""
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """See `DeviceMemory.close`."""
        if self._context is None:
            return
        with self.active():
            self._stream = None
        current = _current()
        self._context.detach()
        self._context = None
        if _current() not in (current, None):
            # pycuda pushes the context to release it and takes releasing for popping ("pop is implicit in detach",
            # cuda.hpp), which is true of contexts that it made itself and not of the primary one.
            ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _full(self, size: int) -> MemoryError:
        free, total = self.available()
        return MemoryError(f"{size} bytes asked of {self.gpu}, {free} of {total} are free")


def _current() -> int | None:
    """The context that is current in this thread, which pycuda does not say of contexts that others made."""
    context = ctypes.c_void_p()
    ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context))
    return context.value
