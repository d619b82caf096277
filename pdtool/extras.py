"""Import an optional package, or say which command installs it; and modules of the user's own."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pdtool.errors import MissingError

# import name -> extra of pyproject.toml that brings it ("": pdtool itself)
EXTRA_OF = {
    "numpy": "",
    "onnxruntime": "",
    "torch": "compress",
    "torch_pruning": "compress",
    "onnx": "compress",
    "safetensors": "compress",
    "sklearn": "compress",
    "PIL": "camera",
    "av": "camera",
    "dask": "cluster",
    "distributed": "cluster",
    "scipy": "calibrate",
    "foolbox": "evaluate",
    "art": "evaluate",
    "packaging": "evaluate",
    "jinja2": "evaluate",
    "matplotlib": "evaluate",
    "tensorrt": "tensorrt",
    "pycuda": "tensorrt",
    "cuda": "cuda",
}


def require(module: str, purpose: str) -> ModuleType:
    """Import `module` (dotted names allowed) for `purpose` (words that end the sentence "... is needed to").

    Raises MissingError (exit code 4) with the command that installs it. Nothing is installed here.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, purpose) from None


def missing(error: ModuleNotFoundError, purpose: str) -> Exception:
    """The MissingError for a failed import of an optional package; `error` itself where it is none of ours."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRA_OF:
        return error
    wanted = f"pdtool[{EXTRA_OF[package]}]" if EXTRA_OF[package] else "pdtool"
    return MissingError(f"{package} is needed to {purpose} but is not installed; run: pip install '{wanted}'")


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Inside, modules in the current folder can be imported; installed ones of the same name come second."""
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added:
            sys.path.remove(folder)
