"""Video through PyAV: files, network streams and V4L2 cameras, frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pdtool.errors import InputError
from pdtool.extras import require
from pdtool.runtime.frames import Shot

__all__ = ["read_network", "read_video"]

PURPOSE = "read video and cameras"
WHOLE = 0.9  # a file that holds a smaller share of the frames it announces was cut off; the announcement is not exact


def read_video(path: str) -> Iterator[Shot]:
    """All frames of a video file. Raises InputError where it cannot be opened, MissingError without PyAV.

    A file that was cut off ends with a Shot without picture that says so. A file may refer to no network address.
    """
    errors = require("av.error", PURPOSE)
    try:
        with _opened(path, options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            count = 0
            for count, shot in enumerate(_decode(container, path), start=1):  # noqa: B007
                yield shot
            if count < WHOLE * stream.frames:
                yield Shot(path, None, f"the video breaks off after {count} of {stream.frames} frames")
    except errors.FFmpegError as error:
        raise InputError(f"{path}: not a readable video ({error.strerror}); copy it again or convert it") from None


def read_network(
    url: str,
    shown: str,
    opened: Callable[[bool], None],
    *,
    open_timeout: float,
    read_timeout: float,
    format: str | None = None,
) -> Iterator[Shot]:
    """Frames of a stream or camera, calling `opened(live)` first: a stream of known length (a file) is not live.

    Timeouts in seconds. Raises whatever the library raises: any error means that the stream is lost.
    """
    options = {"rtsp_transport": "tcp"} if url.startswith("rtsp") else {}
    # Not fflags=nobuffer: it throws away what was read while probing, the key frame with it, and a camera with a key
    # frame every 10 s then shows nothing for 10 s. The reader drops late frames anyway.
    options |= {"fpsprobesize": "0"}
    with _opened(url, format=format, options=options, timeout=(open_timeout, read_timeout)) as container:
        length = container.duration  # microseconds; None for streams
        opened(not (url.startswith("http") and length is not None and length > 0))
        yield from _decode(container, shown)


@contextmanager
def _opened(url: str, **arguments: Any) -> Iterator[Any]:
    av = require("av", PURPOSE)
    with av.open(url, metadata_errors="ignore", **arguments) as container:
        if not container.streams.video:
            raise InputError(f"{url}: holds no video; expected a video stream")
        yield container


def _decode(container: Any, shown: str) -> Iterator[Shot]:
    """Errors of demuxing escape; a packet that does not decode is a frame without a picture."""
    errors = require("av.error", PURPOSE)
    for packet in container.demux(container.streams.video[0]):
        try:
            frames = packet.decode()
        except errors.FFmpegError as error:
            yield Shot(shown, None, f"corrupt video frame ({error.strerror})")
            continue
        for frame in frames:
            if frame.is_corrupt:
                yield Shot(shown, None, "corrupt video frame")
            else:
                yield Shot(shown, np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8))
