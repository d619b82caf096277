"""Import an optional package, or say which command installs it."""

import importlib
from types import ModuleType

from pdtool.errors import MissingError

# import name -> extra of pyproject.toml that brings it
EXTRA_OF = {
    "torch": "compress",
    "torch_pruning": "compress",
    "onnx": "compress",
    "safetensors": "compress",
    "sklearn": "compress",
    "PIL": "camera",
    "av": "camera",
    "scipy": "calibrate",
    "foolbox": "evaluate",
    "jinja2": "evaluate",
    "matplotlib": "evaluate",
    "tensorrt": "tensorrt",
    "pycuda": "tensorrt",
}


def require(module: str, purpose: str) -> ModuleType:
    """Import `module` (dotted names allowed) for `purpose` (words that end the sentence "... is needed to").

    Raises MissingError (exit code 4) with the command that installs it. Nothing is installed here.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise
        extra = EXTRA_OF.get(package, package)
        raise MissingError(
            f"{package} is needed to {purpose} but is not installed; run: pip install 'pdtool[{extra}]'"
        ) from None
