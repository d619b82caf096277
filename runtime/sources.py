"""Sources: one string names where frames come from.

    0   /dev/video0   v4l2:///dev/video0     a camera of this machine (V4L2)
    csi://0?width=1280&height=720&fps=30     a Jetson's CSI camera
    rtsp:// rtsps:// http:// https://        a network camera (also rtmp, srt, tcp, udp); a file where it is one
    gst:PIPELINE                             a GStreamer pipeline that ends in caps with width and height
    picture, video, folder, 'glob*', .tar.gz, file.npz
    -?width=640&height=480                   raw RGB frames on stdin (channels=1 for grey)
    test:pattern?fps=30&frames=100           a moving pattern

Files give every frame. Live sources give the newest one, and raise SourceLostError when they end, for whatever cause.
`${NAME}` is filled from the environment; user names and passwords are shown nowhere.
"""

import glob
import re
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

from pdtool.errors import InputError, MissingError, UsageError
from pdtool.extras import require
from pdtool.runtime.frames import Address, Frame, Shot, numbered
from pdtool.runtime.live import Grab, newest_frames
from pdtool.runtime.pipes import csi_pipeline, find_gst, frame_size, read_gst, read_raw
from pdtool.runtime.recorded import read_path, read_pattern
from pdtool.runtime.video import PURPOSE, read_network

__all__ = ["Frame", "open_frames"]

NETWORK = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "tcp", "udp")


@contextmanager
def open_frames(
    source: str,
    *,
    open_timeout: float = 5.0,
    read_timeout: float = 5.0,
    stride: int = 1,
    limit: int | None = None,
) -> Iterator[Iterator[Frame]]:
    """The frames of `source`, opened when the first is asked for and closed with the block.

    Timeouts in seconds; `stride`: every so many frames; `limit`: at most so many. Raises UsageError or InputError for
    a source that does not make sense or is not there, MissingError for a package, program or camera that is missing,
    and SourceLostError (while frames are read) when a live source is lost.

    >>> with open_frames("test:pattern?frames=3&width=8&height=8") as frames:
    ...     [frame.index for frame in frames]
    [0, 1, 2]
    """
    if stride < 1:
        raise UsageError(f"expected every 1st or a later frame, got a stride of {stride}")
    frames = _frames(Address(source), open_timeout, read_timeout, stride)
    try:
        yield islice(frames, limit)
    finally:
        frames.close()  # ends threads and children


def _frames(address: Address, open_timeout: float, read_timeout: float, stride: int) -> Generator[Frame, None, None]:
    source = address.secret
    if not source:
        raise UsageError("the source is empty; expected a camera, an address, a path or test:pattern")
    head, query = _split(source)
    scheme = match[1].lower() if (match := re.match(r"([A-Za-z][\w+.-]*)://", source)) else ""
    if head == "-":
        values = _numbers(address, query, {"width": 0, "height": 0, "channels": 3})
        if values["channels"] not in (1, 3) or not (values["width"] and values["height"]):
            raise UsageError(f"{address}: raw frames need a size, -?width=640&height=480 (and channels=1 for grey)")
        raw = read_raw(sys.stdin.fileno(), **values, shown="stdin", timeout=read_timeout)
        return numbered(raw, stride=stride, live=True)
    if head.startswith("test:"):
        if head != "test:pattern":
            raise UsageError(f"{address}: the only test source is test:pattern?fps=30&frames=100&width=64&height=64")
        values = _numbers(address, query, {"width": 64, "height": 64, "frames": 100, "fps": 0})
        fps = values.pop("fps") or None
        if not (values["width"] and values["height"]):
            raise UsageError(f"{address}: width and height should be 1 or more")
        return numbered(read_pattern(**values, fps=fps), stride=stride, live=fps is not None)
    if source.startswith("gst:") or scheme == "csi":
        grab = _gst(address, read_timeout)
    elif scheme in NETWORK:
        grab = _network(source, None, address, open_timeout, read_timeout)
    elif (source.isascii() and source.isdecimal()) or source.startswith("/dev/video") or scheme == "v4l2":
        device = f"/dev/video{source}" if source.isdecimal() else source.removeprefix("v4l2://")
        if not Path(device).exists():
            raise MissingError(f"{device}: no such camera; plug it in, or see which there are: ls /dev/video*")
        grab = _network(device, "v4l2", address, open_timeout, read_timeout)
    elif scheme and scheme != "file":
        known = ", ".join(f"{name}://" for name in (*NETWORK, "v4l2", "csi"))
        raise UsageError(
            f"{address}: unknown kind of source {scheme}://; known are {known}, gst:, test:pattern, - and files"
        )
    else:
        return numbered(_paths(source.removeprefix("file://")), stride=stride, live=False)
    return newest_frames(grab, address, open_timeout=open_timeout, read_timeout=read_timeout, stride=stride)


def _network(url: str, format: str | None, address: Address, open_timeout: float, read_timeout: float) -> Grab:
    require("av", PURPOSE)
    return partial(
        lambda opened, **more: read_network(url, str(address), opened, **more),
        open_timeout=open_timeout,
        read_timeout=read_timeout,
        format=format,
    )


def _gst(address: Address, read_timeout: float) -> Grab:
    find_gst()
    if address.secret.startswith("gst:"):
        pipeline, convert = address.secret.removeprefix("gst:").strip().strip("!").strip(), "videoconvert"
    else:
        head, query = _split(address.secret)
        sensor = head.removeprefix("csi://") or "0"
        values = _numbers(address, query, {"width": 1280, "height": 720, "fps": 30})
        if not sensor.isdecimal():
            raise UsageError(f"{address}: expected csi://0, csi://1, ...?width=1280&height=720&fps=30")
        pipeline, convert = csi_pipeline(int(sensor), **values), "nvvidconv"
    frame_size(pipeline)
    return lambda opened: read_gst(pipeline, str(address), opened, convert=convert, read_timeout=read_timeout)


def _paths(text: str) -> Iterable[Shot]:
    if Path(text).exists():
        return read_path(Path(text))
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder; expected a camera, an address or a path")
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise InputError(f"{text}: no file matches; check the pattern (quote it from the shell)")
    return (shot for path in found for shot in read_path(Path(path)))


def _split(source: str) -> tuple[str, str]:
    head, _, query = source.partition("?")
    return head, query


def _numbers(address: Address, query: str, defaults: dict[str, int]) -> dict[str, int]:
    """The whole numbers of `a=1&b=2` over `defaults`; UsageError for others."""
    values = dict(defaults)
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in defaults or not (value.isascii() and value.isdecimal()) or int(value) > 10**9:
            raise UsageError(f"{address}: expected whole numbers for {', '.join(defaults)}, got {key}={value}")
        values[key] = int(value)
    return values
