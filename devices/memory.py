"""Bytes: parse them, read how many this process holds, and make freed ones really go back to the system."""

import ctypes
import os
import re
import sys
from functools import cache
from pathlib import Path

from pdtool.errors import UsageError

__all__ = [
    "give_back",
    "held_bytes",
    "keep_few_kernels",
    "parse_bytes",
    "peak_bytes",
    "reset_peak",
    "resident_bytes",
    "tune_malloc",
]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
LARGEST = 2**62  # bytes; more is the same
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # glibc's malloc.h


def parse_bytes(text: str | int) -> int:
    """A size such as "64MiB", "1.5 GiB", "2000000" or an int, in bytes. Raises UsageError for anything else.

    >>> parse_bytes("64MiB")
    67108864
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"memory budget {text!r}: expected a size such as 64MiB, 1.5GiB or 50000000 (bytes)")
    size = int(min(float(match[1]) * unit, LARGEST))
    if size <= 0:
        raise UsageError(f"memory budget {text!r}: expected more than 0 bytes")
    return size


@cache
def tune_malloc() -> bool:
    """Let large blocks come straight from the system, so that freeing them returns them; True where that worked.

    Must run before the first engine is loaded. With glibc's defaults 90 to 275 MiB stay behind after eight 18 MiB
    ONNX Runtime sessions are dropped; with a fixed mmap threshold and one arena about 10 MiB do. The lower the
    threshold, the less a heap ages that loads and drops sessions.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 32768)) and bool(mallopt(_M_ARENA_MAX, 1))


def keep_few_kernels() -> None:
    """Have oneDNN and torch keep the compiled kernels of 256 shapes, not of 1,024, unless the environment says so.

    Every pruned net has shapes of its own: a process that makes a pool grows with each (benchmarks/memory.py); 256
    are those of two members. Must run before torch is imported.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, "256")


def give_back() -> None:
    """Return freed heap pages to the system (glibc's malloc_trim; nothing elsewhere)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


def resident_bytes() -> int:
    """Memory that this process holds now (VmRSS), in bytes; Linux."""
    return _status("VmRSS")


def held_bytes() -> int | None:
    """What this process alone holds (RssAnon), freed pages given back first; None where the system does not say.

    Unlike VmRSS without the pages of program files, which come in when code runs for the first time.
    """
    give_back()
    try:
        return _status("RssAnon")
    except (OSError, RuntimeError):  # not Linux, or one before 4.5
        return None


def peak_bytes() -> int:
    """Most memory it held since `reset_peak` (VmHWM), in bytes; Linux."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Start the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")
