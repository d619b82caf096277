"""What this machine is: CPU, memory, NVIDIA GPU, Jetson. Reads files, asks `nvidia-smi`, imports no GPU library."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdtool.devices.catalogue import DeviceProfile, all_devices, find

__all__ = ["Gpu", "Jetson", "Machine", "probe", "profile_of"]

SMI = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader,nounits")

# Release of Linux for Tegra -> JetPack that brings it (NVIDIA's release notes).
JETPACK_OF = {
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "35": "5",
    "34": "5.0",
    "32": "4",
}
# Module number in /proc/device-tree/compatible -> board (NVIDIA's module part numbers).
BOARD_OF = {
    "3767-0000": "jetson-orin-nx-16gb",
    "3767-0001": "jetson-orin-nx-8gb",
    "3767-0003": "jetson-orin-nano-8gb",
    "3767-0004": "jetson-orin-nano-4gb",
    "3767-0005": "jetson-orin-nano-8gb",
    "3701-0004": "jetson-agx-orin-32gb",
    "3701-0005": "jetson-agx-orin-64gb",
    "3834-0008": "jetson-t5000",
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU; None where the driver does not say."""

    name: str
    memory_bytes: int | None
    compute_capability: str | None
    driver: str | None


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """A Jetson board: what its device tree and /etc/nv_tegra_release say."""

    model: str
    l4t: str | None  # e.g. "36.4.3"
    jetpack: str | None
    module: str | None  # e.g. "3767-0005"
    super_mode: bool  # started with the device tree of the "Super" clocks


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine. Memory in bytes; `memory_limit_bytes` is a container's limit, None without one."""

    cpu: str
    cores: int  # that this process may use
    memory_bytes: int
    memory_available_bytes: int
    memory_limit_bytes: int | None
    gpus: tuple[Gpu, ...]
    jetson: Jetson | None


def probe(root: Path = Path("/"), run: Callable[[Sequence[str]], str | None] | None = None) -> Machine:
    """Look at the machine. `root` is where /proc, /sys and /etc are read, `run` runs a command (tests give both).

    `run` returns a command's stdout, None where it does not exist or fails.
    """
    memory = _pairs(_read(root / "proc/meminfo"), scale=1024)
    return Machine(
        cpu=_cpu(root),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory.get("MemTotal", 0),
        memory_available_bytes=memory.get("MemAvailable", 0),
        memory_limit_bytes=_memory_limit(root),
        gpus=_gpus(root, run or _run),
        jetson=_jetson(root),
    )


def profile_of(machine: Machine) -> DeviceProfile | None:
    """The catalogue's board that this machine is, None where that is not certain."""
    if machine.jetson is not None:
        return _jetson_profile(machine.jetson)
    return _gpu_profile(machine.gpus[0].name) if machine.gpus else None


def _read(path: Path) -> str:
    """A file of /proc, /sys or /etc, "" where there is none or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", "\n").strip()
    except OSError:
        return ""


def _run(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _pairs(text: str, scale: int) -> dict[str, int]:
    return {name: int(value) * scale for name, value in re.findall(r"^(\w+):\s+(\d+)", text, flags=re.MULTILINE)}


def _cpu(root: Path) -> str:
    text = _read(root / "proc/cpuinfo")
    for field in ("model name", "Model", "Hardware", "CPU part"):  # x86, then the several ways of Arm kernels
        match = re.search(rf"^{field}\s*:\s*(.+)$", text, flags=re.MULTILINE)
        if match:
            return match[1].strip() if field != "CPU part" else f"Arm CPU part {match[1].strip()}"
    return "unknown"


def _memory_limit(root: Path) -> int | None:
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(root / path)
        if text.isdigit() and int(text) < 2**60:  # "max", or version 1's huge number, means no limit
            return int(text)
    return None


def _gpus(root: Path, run: Callable[[Sequence[str]], str | None]) -> tuple[Gpu, ...]:
    lines = [[part.strip() for part in line.split(",")] for line in (run(SMI) or "").splitlines()]
    found = [
        Gpu(
            name=name,
            memory_bytes=int(memory) * 2**20 if memory.isdigit() else None,
            compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else None,
            driver=driver,
        )
        for name, memory, capability, driver in (line for line in lines if len(line) == 4)
    ]
    if found:
        return tuple(found)
    version = re.search(
        r"(?:Kernel Module|for \w+)\s+(?:for \w+\s+)?(\d+\.[\d.]+)", _read(root / "proc/driver/nvidia/version")
    )
    for information in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        name = re.search(r"^Model:\s*(.+)$", _read(information), flags=re.MULTILINE)
        driver = version[1] if version else None
        found.append(
            Gpu(name=name[1] if name else "NVIDIA GPU", memory_bytes=None, compute_capability=None, driver=driver)
        )
    return tuple(found)


def _jetson(root: Path) -> Jetson | None:
    model = _read(root / "proc/device-tree/model")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    if release is None and not re.search(r"jetson|tegra", model, flags=re.IGNORECASE):
        return None
    compatible = _read(root / "proc/device-tree/compatible")
    modules = [name for name in BOARD_OF if f"p{name}" in compatible]
    l4t = f"{release[1]}.{release[2]}" if release else None
    return Jetson(
        model=model or "Jetson",
        l4t=l4t,
        jetpack=_jetpack(l4t) if l4t else None,
        module=modules[0] if modules else None,
        super_mode="-super" in compatible,
    )


def _jetpack(l4t: str) -> str | None:
    """The JetPack of an L4T release: that of the longest known beginning of its version."""
    parts = l4t.split(".")
    for length in range(len(parts), 0, -1):
        jetpack = JETPACK_OF.get(".".join(parts[:length]))
        if jetpack:
            return jetpack
    return None


def _jetson_profile(jetson: Jetson) -> DeviceProfile | None:
    ids = {device.id for device in all_devices()}
    if jetson.module:
        board = BOARD_OF[jetson.module]
        fast = f"{board}-super"
        return find(fast if jetson.super_mode and fast in ids else board)
    for word, board in (("AGX Xavier", "jetson-agx-xavier"), ("Xavier NX", "jetson-xavier-nx"), ("TX2", "jetson-tx2")):
        if word in jetson.model:
            return find(board)
    return find("jetson-nano") if "Jetson Nano" in jetson.model else None


def _gpu_profile(name: str) -> DeviceProfile | None:
    """A desktop or server GPU by the words of its name; another form of it ("Ti", "PCIe", ...) is another board."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if {"ti", "super", "laptop", "max", "pcie", "nvl", "mig", "d"} & set(words):
        return None
    for device in all_devices():
        if device.kind != "jetson" and set(device.id.split("-")) <= set(words):
            return device
    return None
