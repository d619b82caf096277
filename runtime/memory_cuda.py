"""GPU memory by NVIDIA's cuda-bindings; see `pdtool.runtime.device_memory`. Wheels, where pycuda wants a compiler."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pdtool.errors import MissingError
from pdtool.runtime.device_memory import IoBuffer
from pdtool.runtime.tensorrt_module import load

__all__ = ["CudaMemory"]


class CudaMemory:
    """One GPU in its primary context, which PyTorch, TensorRT and ONNX Runtime use, too."""

    def __init__(self, index: int = 0) -> None:
        """Raises MissingError without cuda-bindings or without a GPU."""
        self._cuda: Any = load("cuda.bindings.driver", "run TensorRT engines without pycuda")
        attribute = self._cuda.CUdevice_attribute
        try:
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", index)
            self._context: Any = self._call("cuDevicePrimaryCtxRetain", self._device)  # does not make it current
        except Exception as error:  # a missing libcuda raises what the loader likes
            raise MissingError(f"no usable NVIDIA GPU {index} ({_line(error)}); run `pdtool doctor`") from None
        self.gpu: str = bytes(self._call("cuDeviceGetName", 256, self._device)).split(b"\0")[0].decode()
        parts = ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "INTEGRATED")
        known = [
            self._call("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{part}"), self._device)
            for part in parts
        ]
        self.compute_capability = f"{known[0]}.{known[1]}"
        self._integrated = bool(known[2])
        with self.active():
            self._stream: Any = self._call("cuStreamCreate", int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Push the context in this thread, pop it at the end."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def alloc(self, size: int) -> int:
        """See `DeviceMemory.alloc`."""
        return int(self._call("cuMemAlloc", size, asked=size))

    def free(self, address: int) -> None:
        """See `DeviceMemory.free`."""
        self._call("cuMemFree", address)

    def io(self, size: int) -> IoBuffer:
        """Page-locked memory that the GPU addresses itself where it shares it, else with a block of its own."""
        flags = self._cuda.CU_MEMHOSTALLOC_DEVICEMAP if self._integrated else 0
        owner = int(self._call("cuMemHostAlloc", size, flags, asked=size))
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(owner))
        if self._integrated:
            return IoBuffer(host, int(self._call("cuMemHostGetDevicePointer", owner, 0)), owner)
        try:
            return IoBuffer(host, self.alloc(size), owner)
        except MemoryError:
            self._call("cuMemFreeHost", owner)
            raise

    def free_io(self, buffer: IoBuffer) -> None:
        """See `DeviceMemory.free_io`."""
        if not self._integrated:
            self.free(buffer.device)
        self._call("cuMemFreeHost", buffer.owner)

    def to_device(self, buffer: IoBuffer, size: int) -> None:
        """See `DeviceMemory.to_device`."""
        if not self._integrated:
            self._call("cuMemcpyHtoDAsync", buffer.device, buffer.owner, size, self._stream)

    def to_host(self, buffer: IoBuffer, size: int) -> None:
        """See `DeviceMemory.to_host`."""
        if not self._integrated:
            self._call("cuMemcpyDtoHAsync", buffer.owner, buffer.device, size, self._stream)

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._call("cuStreamSynchronize", self._stream)

    def available(self) -> tuple[int, int]:
        """See `DeviceMemory.available`."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        """See `DeviceMemory.close`."""
        if self._context is None:
            return
        with self.active():
            self._call("cuStreamDestroy", self._stream)
        self._call("cuDevicePrimaryCtxRelease", self._device)
        self._context = None

    def _call(self, name: str, *arguments: Any, asked: int | None = None) -> Any:
        """A driver call's result (a tuple of several). `asked` bytes: too few of them is a MemoryError."""
        status, *results = getattr(self._cuda, name)(*arguments)
        if asked is not None and status == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            free, total = self.available()
            raise MemoryError(f"{asked} bytes asked of {self.gpu}, {free} of {total} are free")
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{name} failed: {status.name}")
        return results[0] if len(results) == 1 else tuple(results)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
