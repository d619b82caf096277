"""Which packages are installed, in which version, and do the ones that everything needs really import."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable

from pdtool.devices.check import Check, redact
from pdtool.devices.probe import Machine
from pdtool.extras import EXTRA_OF

__all__ = ["BASE", "base_packages", "installed_version", "optional_packages"]

BASE = ("numpy", "typer", "rich", "onnxruntime")
DISTRIBUTION_OF = {
    "torch_pruning": "torch-pruning",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "cuda": "cuda-bindings",
}  # where unlike the import
ENABLES = {
    "compress": "train, compress, export",
    "calibrate": "calibrate",
    "camera": "pictures, video files and cameras",
    "evaluate": "attacks and HTML reports",
    "tensorrt": "engines on an NVIDIA GPU",
    "cuda": "engines on an NVIDIA GPU where pycuda cannot be compiled",
}


def installed_version(module: str) -> str | None:
    """The installed version of a package by its import name, without importing it."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(DISTRIBUTION_OF.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def optional_packages(machine: Machine, find_version: Callable[[str], str | None]) -> list[Check]:
    """One check for each package of an extra: looked up (by `installed_version`, or a test's own), not imported."""
    checks = []
    least = _least_versions()
    for module, extra in EXTRA_OF.items():
        if module in BASE:
            continue
        version, name = find_version(module), DISTRIBUTION_OF.get(module, module)
        install = _install(extra, machine)
        if version is None:
            detail = f"not installed, needed for {ENABLES.get(extra, extra)}"
            checks.append(Check(group="packages", name=name, state="missing", detail=detail, fix=install))
        elif name in least and _numbers(version) < _numbers(least[name]):
            detail = f"{version}, expected {least[name]} or newer"
            checks.append(Check(group="packages", name=name, state="broken", detail=detail, fix=install))
        else:
            checks.append(Check(group="packages", name=name, state="ok", detail=version))
    return checks


def _install(extra: str, machine: Machine) -> str:
    if extra == "tensorrt" and machine.jetson is not None:
        return "sudo apt install nvidia-jetpack; make the virtual environment with --system-site-packages"
    if extra == "tensorrt" and not machine.gpus:
        return "pip install 'pdtool[tensorrt]' on a machine with an NVIDIA GPU"
    return f"pip install 'pdtool[{extra}]'"


def _least_versions() -> dict[str, str]:
    """Distribution -> oldest version that pdtool asks for, from its own metadata."""
    try:
        asked = importlib.metadata.requires("pdtool") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        asked = []
    return {m[1].lower(): m[2] for m in (re.match(r"([\w.-]+?)\s*[>=]=\s*([\d.]+)", line) for line in asked) if m}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


_IMPORTS = """
import importlib, importlib.metadata, json, sys
sys.path = [folder for folder in sys.path if folder]  # not what happens to lie in the current folder
answer = {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        detail = importlib.metadata.version(name)
        if name == "onnxruntime":
            detail += ", " + ", ".join(module.get_available_providers())
        answer[name] = [True, detail]
    except Exception as error:  # a broken package may raise anything while it is imported
        answer[name] = [False, f"{type(error).__name__}: {error}"]
    print(json.dumps(answer), flush=True)
"""


def base_packages() -> list[Check]:
    """Import each base package in a process of its own: a crash in a library must not take the doctor along."""
    try:
        command = [sys.executable, "-c", _IMPORTS, *BASE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        lines, end = done.stdout.splitlines(), f"the import ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        lines, end = [], "the import took more than 120 s"
    answer = json.loads(lines[-1]) if lines else {}
    checks = []
    for name in BASE:
        works, detail = answer.get(name, [False, end])
        checks.append(
            Check(
                group="base packages",
                name=name,
                state="ok" if works else "broken",
                detail=redact(detail),
                fix=None if works else f"pip install --force-reinstall {name}",
                base=True,
            )
        )
    return checks
