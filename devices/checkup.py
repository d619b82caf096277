"""Is everything here that pdtool needs, and what would make the rest work? Safe to paste into a bug report."""

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pdtool
from pdtool.devices.check import Check
from pdtool.devices.packages import base_packages, installed_version, optional_packages
from pdtool.devices.probe import Machine, probe, profile_of

__all__ = ["Checkup", "check_up"]

LITTLE_DISK = 2**30  # bytes; a pool or bundle of small models takes less, of large ones more


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """Everything that was looked at; `device` is the catalogue's board that this machine is, where that is certain."""

    FORMAT: ClassVar[str] = "pdtool.doctor/1"
    pdtool: str
    machine: Machine
    device: str | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The base checks that are not in order."""
        return tuple(check for check in self.checks if check.base and check.state in ("missing", "broken"))


def check_up(
    root: Path = Path("/"),
    run: Callable[[Sequence[str]], str | None] | None = None,
    find_version: Callable[[str], str | None] | None = None,
) -> Checkup:
    """Look at system, packages and hardware; nothing is imported here, installed or changed.

    `root`, `run` (see `probe`) and `find_version` (import name -> version, None where missing) are given by tests.
    """
    machine = probe(root, run)
    device = profile_of(machine)
    checks = [
        *_system(machine),
        *optional_packages(machine, find_version or installed_version),
        *base_packages(),
        *_hardware(machine, device.id if device else None, root),
    ]
    return Checkup(
        pdtool=pdtool.__version__,
        machine=machine,
        device=device.id if device else None,
        checks=tuple(checks),
    )


def _system(machine: Machine) -> list[Check]:
    found, supported = platform.python_version(), sys.version_info >= (3, 10)
    free = shutil.disk_usage(Path.cwd()).free
    limit = machine.memory_limit_bytes
    memory = f"{_gib(machine.memory_available_bytes)} free of {_gib(machine.memory_bytes)}"
    return [
        Check(group="system", name="pdtool", state="ok", detail=pdtool.__version__),
        Check(
            group="system",
            name="python",
            state="ok" if supported else "broken",
            detail=f"{found}, {platform.python_implementation()}",
            fix=None if supported else "use Python 3.10 or newer",
            base=True,
        ),
        Check(group="system", name="os", state="ok", detail=f"{_distribution()}, Linux {platform.release()}"),
        Check(group="system", name="cpu", state="ok", detail=f"{machine.cpu}, {machine.cores} cores usable"),
        Check(
            group="system", name="memory", state="ok", detail=memory + (f", limited to {_gib(limit)}" if limit else "")
        ),
        Check(
            group="system",
            name="disk",
            state="ok" if free >= LITTLE_DISK else "broken",
            detail=f"{_gib(free)} free in this folder",
            fix=None if free >= LITTLE_DISK else "free some space, or work in a folder of a larger disk",
        ),
        _malloc(),
    ]


def _malloc() -> Check:
    """Whether memory of dropped models really goes back to the system."""
    try:
        _ = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return Check(
            group="system",
            name="malloc_trim",
            state="missing",
            detail="the C library does not hand memory of unloaded models back; a memory budget is not exact here",
            fix="use a system with glibc (Debian, Ubuntu, Fedora, JetPack)",
        )
    return Check(
        group="system", name="malloc_trim", state="ok", detail="memory of unloaded models goes back to the system"
    )


def _hardware(machine: Machine, device: str | None, root: Path) -> list[Check]:
    checks = [_gpu(machine)]
    if machine.jetson is not None:
        jetson = machine.jetson
        text = f"{jetson.model}, L4T {jetson.l4t or 'unknown'}, JetPack {jetson.jetpack or 'unknown'}"
        checks.append(Check(group="hardware", name="jetson", state="ok", detail=text))
    if device is not None:
        text = f"{device} (`pdtool devices show {device}`)"
        checks.append(Check(group="hardware", name="in the catalogue as", state="info", detail=text))
    checks.append(_cameras(root))
    if shutil.which("gst-launch-1.0"):
        checks.append(Check(group="hardware", name="gst-launch-1.0", state="ok", detail="found"))
    else:
        detail = "not found, needed for csi:// and gst: sources"
        fix = "sudo apt install gstreamer1.0-tools"
        checks.append(Check(group="hardware", name="gst-launch-1.0", state="missing", detail=detail, fix=fix))
    return checks


def _gpu(machine: Machine) -> Check:
    if machine.gpus:
        said = [
            ", ".join(
                part
                for part in (
                    gpu.name,
                    gpu.memory_bytes and _gib(gpu.memory_bytes),
                    gpu.compute_capability and f"compute capability {gpu.compute_capability}",
                    gpu.driver and f"driver {gpu.driver}",
                )
                if part
            )
            for gpu in machine.gpus
        ]
        return Check(group="hardware", name="nvidia gpu", state="ok", detail="; ".join(said))
    if machine.jetson is not None:
        return Check(group="hardware", name="nvidia gpu", state="ok", detail="the Jetson's own")
    return Check(group="hardware", name="nvidia gpu", state="info", detail="none seen; models run on the CPU")


def _cameras(root: Path) -> Check:
    nodes = sorted((root / "dev").glob("video*"))
    if not nodes:
        detail = "none; screen a file, a folder or a stream instead"
        return Check(group="hardware", name="camera", state="info", detail=detail)
    closed = [node.name for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        detail = f"{', '.join(closed)}: no permission"
        fix = 'sudo usermod -aG video "$USER", then log in again'
        return Check(group="hardware", name="camera", state="broken", detail=detail, fix=fix)
    return Check(group="hardware", name="camera", state="ok", detail=", ".join(node.name for node in nodes))


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown distribution")
    except OSError:
        return f"{platform.system()} of unknown distribution"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
