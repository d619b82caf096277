"""The TensorRT module: find it, name it, and keep what its logger says, since TensorRT returns None instead of raising.

No version string decides anything here or in `engine_tensorrt` and `build_plan`: an attribute is there or it is not.
"""

from collections import deque
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from pdtool.errors import MissingError
from pdtool.extras import require

__all__ = ["Library", "find_tensorrt", "library_of", "load", "logger_of", "said"]

Library = Literal["tensorrt", "tensorrt-rtx"]
KEPT = 50  # messages; a failing build says the same thing many times


def find_tensorrt(library: Library = "tensorrt") -> ModuleType:
    """The module object of an installed TensorRT.

    Raises MissingError with the command that installs it, or with the loader's words where it does not load.
    """
    if library == "tensorrt":
        return load("tensorrt", "build and run TensorRT engines")
    if find_spec("tensorrt_rtx") is not None:
        return load("tensorrt_rtx", "build and run TensorRT-RTX engines")
    if find_spec("tensorrt_rtx_libs") is None or find_spec("tensorrt_rtx_bindings") is None:
        raise MissingError(
            "tensorrt_rtx is needed to build and run TensorRT-RTX engines but is not installed; "
            "run: pip install tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings"
        )
    load("tensorrt_rtx_libs", "load TensorRT-RTX")  # the bindings find the library that this one has loaded
    return load("tensorrt_rtx_bindings", "build and run TensorRT-RTX engines")


def load(module: str, purpose: str) -> ModuleType:
    """`pdtool.extras.require`, and a MissingError, too, for a package whose libraries do not load."""
    try:
        return require(module, purpose)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise MissingError(f"{module} is installed but does not load ({reason}); run `pdtool doctor`") from None


def library_of(trt: Any) -> Library:
    """Which of the two libraries a module object is: TensorRT-RTX alone lets a build name compute capabilities."""
    return "tensorrt-rtx" if hasattr(trt, "ComputeCapability") else "tensorrt"


@cache
def logger_of(trt: Any) -> Any:
    """The one logger of a module object (TensorRT wants one a process); `said` empties it."""

    class Collected(trt.ILogger):  # type: ignore[misc]  # TensorRT takes nothing but a subclass
        def __init__(self) -> None:
            super().__init__()
            self.messages: deque[tuple[bool, str]] = deque(maxlen=KEPT)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.messages.append((severity != trt.ILogger.WARNING, " ".join(message.split())))

    return Collected()


def said(trt: Any) -> str:
    """What the logger collected since the last call: the errors, or the warnings where there are none."""
    messages = list(logger_of(trt).messages)
    logger_of(trt).messages.clear()
    chosen = [text for is_error, text in messages if is_error] or [text for _, text in messages]
    return "; ".join(dict.fromkeys(chosen)) or "TensorRT gave no reason"
