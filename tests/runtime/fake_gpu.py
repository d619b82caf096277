"""A GPU made of NumPy: memory apart from the host's, copies that happen when the stream is waited for, and a limit."""

import threading
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from pdtool.runtime.device_memory import IoBuffer


class FakeMemory:
    """`pdtool.runtime.device_memory.DeviceMemory`; every call outside `active` fails, as the driver's would."""

    def __init__(self, *, total=2**26, integrated=False, compute_capability="8.7", odd=0):
        self.gpu, self.compute_capability, self.stream = "Fake GPU", compute_capability, 7
        self.total, self.integrated = total, integrated
        self.odd = odd  # added to every address: a driver need not align to what TensorRT wants
        self.blocks: dict[int, np.ndarray] = {}
        self.queue: list[Callable[[], None]] = []  # what the stream has still to do
        self.allocations = 0
        self.engine_bytes = 0  # what engines hold beside the blocks
        self.closed = False
        self._next = 2**20
        self._depth = threading.local()

    @contextmanager
    def active(self):
        assert not self.closed, "the GPU was let go"
        self._depth.n = getattr(self._depth, "n", 0) + 1
        try:
            yield
        finally:
            self._depth.n -= 1

    def alloc(self, size):
        self._must_be_active()
        if size > self.available()[0]:
            raise MemoryError(f"{size} bytes asked of {self.gpu}, {self.available()[0]} of {self.total} are free")
        self.allocations += 1
        address = self._next + self.odd
        self._next += -(-size // 4096) * 4096 + 4096
        self.blocks[address] = np.full(size, 255, dtype=np.uint8)  # NaN as float32: what was never written is seen
        return address

    def free(self, address):
        self._must_be_active()
        assert not self.queue, "memory is freed while the GPU works"
        del self.blocks[address]

    def io(self, size):
        address = self.alloc(size)
        host = self.blocks[address] if self.integrated else np.full(size, 255, dtype=np.uint8)
        return IoBuffer(host, address, None)

    def free_io(self, buffer):
        self.free(buffer.device)

    def to_device(self, buffer, size):
        self._must_be_active()
        if not self.integrated:
            self.queue.append(lambda: np.copyto(self.blocks[buffer.device][:size], buffer.host[:size]))

    def to_host(self, buffer, size):
        self._must_be_active()
        if not self.integrated:
            self.queue.append(lambda: np.copyto(buffer.host[:size], self.blocks[buffer.device][:size]))

    def synchronise(self):
        self._must_be_active()
        work, self.queue = self.queue, []
        for step in work:
            step()

    def available(self):
        self._must_be_active()
        return self.total - sum(block.nbytes for block in self.blocks.values()) - self.engine_bytes, self.total

    def close(self):
        assert not self.blocks, "blocks were not freed"
        self.closed = True

    def at(self, address, size):
        """The `size` bytes at an address, as a kernel sees them."""
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        raise AssertionError(f"the GPU reads {size} bytes at {address}: no block holds them")

    def _must_be_active(self):
        assert not self.closed and getattr(self._depth, "n", 0) > 0, "called without the GPU being current"
