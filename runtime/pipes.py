"""Raw frames on a pipe: from stdin, or from a GStreamer pipeline in a child process that can be killed.

A child needs no binding between Python and GStreamer, and a camera driver that hangs takes only the child along.
"""

import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from pdtool.errors import MissingError, SourceLostError, UsageError
from pdtool.runtime.frames import Shot

__all__ = ["csi_pipeline", "find_gst", "read_gst", "read_raw"]

PROGRAM = "gst-launch-1.0"


def read_raw(descriptor: int, *, width: int, height: int, channels: int, shown: str, timeout: float) -> Iterator[Shot]:
    """Frames of exactly height x width x channels bytes each until the pipe ends.

    Raises SourceLostError when `timeout` seconds pass without a byte. A frame cut short by the end has no picture.
    """
    size = height * width * channels
    while True:
        buffer = bytearray()
        while len(buffer) < size:
            if not select.select([descriptor], [], [], timeout)[0]:
                raise SourceLostError(f"{shown}: no data for {timeout:g} s")
            chunk = os.read(descriptor, min(size - len(buffer), 2**20))
            if not chunk:
                if buffer:
                    yield Shot(shown, None, f"the data ended inside a frame ({len(buffer)} of {size} bytes)")
                return
            buffer += chunk
        yield Shot(shown, np.frombuffer(buffer, dtype=np.uint8).reshape(height, width, channels))


def find_gst() -> str:
    """The path of gst-launch-1.0. Raises MissingError naming the package that holds it."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise MissingError(
            f"{PROGRAM} is needed for csi:// and gst: but is not installed; run: sudo apt install gstreamer1.0-tools"
        )
    return found


def csi_pipeline(sensor: int, *, width: int, height: int, fps: int) -> str:
    """A Jetson camera through its image signal processor, scaled on the device."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={fps}/1 ! nvvidconv ! video/x-raw,width={width},height={height}"
    )


def frame_size(pipeline: str) -> tuple[int, int]:
    """Width and height that the pipeline's last caps name. Raises UsageError where it names none."""
    sizes = [re.findall(rf"\b{name}=(?:\(int\))?(\d+)", pipeline) for name in ("width", "height")]
    if not all(sizes) or not all(0 < int(found[-1]) <= 16384 for found in sizes):
        raise UsageError(
            "gst: expected the frames' size at the end of the pipeline: ... ! video/x-raw,width=640,height=480"
        )
    return int(sizes[0][-1]), int(sizes[1][-1])


def read_gst(
    pipeline: str, shown: str, opened: Callable[[bool], None], *, convert: str, read_timeout: float
) -> Iterator[Shot]:
    """Frames of a GStreamer pipeline; `convert` is the element that turns its end into RGBA (videoconvert, nvvidconv).

    RGBA because rows of RGB are padded to four bytes. Raises SourceLostError when the pipeline ends or stalls.
    """
    width, height = frame_size(pipeline)
    caps = f"video/x-raw,format=RGBA,width={width},height={height}"
    command = [find_gst(), "-q", *shlex.split(pipeline), "!", convert, "!", caps, "!", "fdsink", "fd=1", "sync=false"]
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, start_new_session=True
        )
        assert child.stdout is not None
        try:
            opened(True)
            shots = read_raw(
                child.stdout.fileno(), width=width, height=height, channels=4, shown=shown, timeout=read_timeout
            )
            for shot in shots:
                yield shot._replace(image=None if shot.image is None else shot.image[..., :3])
            code = _wait(child, 1.0)
            said = [line for line in _tail(messages.fileno()).splitlines() if line.strip()]
            errors = [line for line in said if "ERROR" in line] or said[-1:] or ["no message"]
            raise SourceLostError(f"{shown}: {PROGRAM} ended with code {code} ({errors[0].strip()})")
        finally:
            child.terminate()
            if _wait(child, 1.0) is None:
                child.kill()
                child.wait()
            child.stdout.close()


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while (code := child.poll()) is None and time.monotonic() < end:
        time.sleep(0.01)
    return code


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 4096, max(size - 4096, 0)).decode(errors="replace")
