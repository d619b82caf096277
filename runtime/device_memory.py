"""Memory of a GPU, as little of it as an engine needs; `memory_pycuda` and `memory_cuda` provide it.

Addresses are integers. Everything but `active` and `close` is called inside `with memory.active():`, which makes the
device's primary context current in this thread and takes it off again: a context left behind aborts the process at its
end, and one made beside the primary one ends in "invalid resource handle" (deployment facts).
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import MissingError

__all__ = ["DeviceMemory", "IoBuffer", "open_memory"]


@dataclass(frozen=True)
class IoBuffer:
    """A block that the program and the GPU both use: `host` (uint8, page-locked) and its address on the device.

    On a GPU that shares the host's memory both are the same bytes and nothing is copied; elsewhere `to_device` and
    `to_host` copy between them.
    """

    host: NDArray[np.uint8]
    device: int
    owner: Any = field(repr=False)  # what the provider frees


class DeviceMemory(Protocol):
    """One GPU: its name, its stream, its memory in bytes. Raises MemoryError where there is not enough of it."""

    @property
    def gpu(self) -> str:
        """The GPU's name as the driver says it."""
        ...

    @property
    def compute_capability(self) -> str:
        """For instance "8.7"."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the one stream on which everything runs."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """Make the GPU current in this thread, inside the with block alone; nested blocks are fine."""
        ...

    def alloc(self, size: int) -> int:
        """Address of a new block of `size` bytes."""
        ...

    def free(self, address: int) -> None:
        """Give a block of `alloc` back."""
        ...

    def io(self, size: int) -> IoBuffer:
        """A new block of `size` bytes for input or output."""
        ...

    def free_io(self, buffer: IoBuffer) -> None:
        """Give a block of `io` back."""
        ...

    def to_device(self, buffer: IoBuffer, size: int) -> None:
        """Queue the copy of the first `size` bytes to the GPU."""
        ...

    def to_host(self, buffer: IoBuffer, size: int) -> None:
        """Queue the copy of the first `size` bytes to the host."""
        ...

    def synchronise(self) -> None:
        """Wait until all that is queued has run."""
        ...

    def available(self) -> tuple[int, int]:
        """Free and total bytes, as the driver counts them."""
        ...

    def close(self) -> None:
        """Let the GPU go; closing twice does nothing. Blocks are freed before."""
        ...


def open_memory(index: int = 0) -> DeviceMemory:
    """The GPU `index` by pycuda, or by cuda-bindings where pycuda is not installed.

    Raises MissingError where neither is installed or there is no GPU.
    """
    from pdtool.runtime.memory_cuda import CudaMemory
    from pdtool.runtime.memory_pycuda import PycudaMemory

    if find_spec("pycuda") is not None:
        return PycudaMemory(index)
    if find_spec("cuda") is not None:
        return CudaMemory(index)
    raise MissingError(
        "pycuda is needed to run TensorRT engines but is not installed; "
        "run: pip install 'pdtool[tensorrt]', or 'pdtool[cuda]' where there is no compiler"
    )
