"""The boards pdtool knows, as data: `devices.csv` beside this file, each number with what it is based on.

Vendor headlines ("100 TOPS") count sparse arithmetic and accelerators beside the GPU; the peaks here are dense and of
the GPU alone, so that they can bound a time from below.
"""

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from pdtool.errors import UsageError

__all__ = ["PRECISIONS", "DeviceProfile", "Precision", "all_devices", "find"]

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
GB = 10**9  # the catalogue's unit; a board sold as "8 GB" shows its system about 8e9 bytes once firmware has its part


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """One board. None where the vendor publishes no figure and none can be derived.

    `memory_bytes` is the smallest version sold where there are several (`memory_note` names them); with
    `memory_shared` the CPU, the system and everything else live in the same memory.
    """

    id: str
    name: str
    kind: str  # jetson, desktop, workstation or server
    architecture: str
    compute_capability: str  # e.g. "8.7"
    sm_count: int
    gpu_clock_hz: float
    memory_bytes: int
    memory_note: str | None
    memory_shared: bool
    bandwidth: float  # bytes/s
    fp32_flops: float | None  # peak FLOP/s, dense
    fp16_flops: float | None  # with FP16 accumulation
    fp16_fp32acc_flops: float | None  # with FP32 accumulation (half rate on GeForce)
    int8_ops: float | None  # operations/s of the GPU
    int8_dla_ops: float | None  # of the deep learning accelerators together, which pdtool does not use
    vendor_headline: str | None
    dla_count: int
    power: str
    jetpack: str | None
    l4t: str | None
    cuda: str | None
    tensorrt: str
    python: str
    runtime_support: str  # whether TensorRT >= 8.5 with Python >= 3.10 is to be had there, and why not
    basis: str  # how the figures were come by
    source: str

    def peak(self, precision: Precision) -> float | None:
        """Most operations a second at `precision` (a multiply-accumulate is two); None where unknown."""
        return {"fp32": self.fp32_flops, "fp16": self.fp16_flops, "int8": self.int8_ops}[precision]

    @property
    def supported(self) -> bool:
        """Whether TensorRT >= 8.5 with Python >= 3.10 is to be had there (ONNX Runtime on the CPU always is)."""
        return self.runtime_support.startswith("yes")


@cache
def all_devices() -> tuple[DeviceProfile, ...]:
    """Every board, in the catalogue's order (Jetson, desktop, workstation, server; small to large)."""
    text = (files("pdtool.devices") / "devices.csv").read_text(encoding="utf-8")
    return tuple(_profile(row) for row in csv.DictReader(text.splitlines()))


def find(name: str) -> DeviceProfile:
    """The board called `name`: its id, its id without "jetson-", or the start of exactly one id; case and spaces aside.

    Raises UsageError that names the boards it could have meant.

    >>> find("orin-nano-8gb").name
    'Jetson Orin Nano 8GB'
    """
    wanted = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    devices = {key: device for device in all_devices() for key in (device.id, _slug(device.name))}
    devices |= {device.id.removeprefix("jetson-"): device for device in all_devices()}
    if wanted in devices:
        return devices[wanted]
    meant = {device.id: device for key, device in devices.items() if wanted and key.startswith(wanted)}
    if len(meant) == 1:
        return next(iter(meant.values()))
    if meant:
        raise UsageError(f"device {name!r} could be {_either(list(meant))}; name one of them")
    near = difflib.get_close_matches(wanted, list(devices), n=3, cutoff=0.5)
    ids = list(dict.fromkeys(devices[key].id for key in near))
    hint = f"did you mean {_either(ids)}? " if ids else ""
    raise UsageError(f"device {name!r} is not in the catalogue; {hint}`pdtool devices list` shows all of them")


def _either(ids: list[str]) -> str:
    return " or ".join([", ".join(ids[:-1]), ids[-1]] if len(ids) > 1 else ids)


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _profile(row: dict[str, str]) -> DeviceProfile:
    memory = [float(size) for size in row["memory_gb"].split(" or ")]
    sizes = f"sold with {row['memory_gb']} GB; figures here use {memory[0]:g} GB" if len(memory) > 1 else None
    return DeviceProfile(
        id=row["id"],
        name=row["name"],
        kind=row["class"],
        architecture=row["architecture"],
        compute_capability=row["compute_capability"],
        sm_count=int(row["sm_count"]),
        gpu_clock_hz=1e6 * float(row["gpu_clock_mhz"]),
        memory_bytes=int(min(memory) * GB),
        memory_note=sizes,
        memory_shared={"yes": True, "no": False}[row["memory_shared_with_cpu"]],
        bandwidth=float(row["memory_bandwidth_gbs"]) * GB,
        fp32_flops=_tera(row["fp32_tflops"]),
        fp16_flops=_tera(row["fp16_dense_tflops_fp16acc"]),
        fp16_fp32acc_flops=_tera(row["fp16_dense_tflops_fp32acc"]),
        int8_ops=_tera(row["int8_dense_tops_gpu"]),
        int8_dla_ops=_tera(row["int8_dense_tops_dla_total"]),
        vendor_headline=row["vendor_headline"] or None,
        dla_count=int(row["dla_count"]),
        power=row["power"],
        jetpack=row["jetpack"] or None,
        l4t=row["l4t"] or None,
        cuda=row["cuda"] or None,
        tensorrt=row["tensorrt"],
        python=row["python"],
        runtime_support=row["runtime_support"],
        basis=row["basis"],
        source=row["source"],
    )


def _tera(text: str) -> float | None:
    return float(text) * 1e12 if text else None
