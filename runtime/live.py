"""Live sources: a thread reads, and only the newest frame waits. No wait is endless."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import numpy as np

from pdtool.errors import PdtoolError, SourceLostError
from pdtool.images import Images
from pdtool.runtime.frames import Address, Frame, Shot

__all__ = ["Grab", "REPEATS", "REPEAT_SECONDS", "newest_frames"]

Grab = Callable[[Callable[[bool], None]], Iterator[Shot]]  # calls its argument with "live?" once open

REPEATS = 30  # a picture that comes again more often than this,
REPEAT_SECONDS = 2.0  # or for longer, is a frozen camera: real sensors have noise
GRACE = 1.0  # seconds beyond the reader's own timeouts before it is given up


def newest_frames(
    grab: Grab, address: Address, *, open_timeout: float, read_timeout: float, stride: int
) -> Generator[Frame, None, None]:
    """The newest frame whenever one is asked for; older ones not yet asked for are dropped and counted.

    Where `grab` turns out to read a file over the network, every frame is given and its end is no loss. Timeouts in
    seconds. Raises SourceLostError for whatever ends a live source, and after a silence at the latest
    timeout + GRACE.
    """
    slot = _Slot(address, open_timeout, read_timeout)
    thread = threading.Thread(target=slot.fill, args=(grab, stride), name="pdtool-reader", daemon=True)
    thread.start()
    try:
        while (frame := slot.take()) is not None:
            yield frame
    finally:
        slot.stop()
        thread.join(max(open_timeout, read_timeout) + GRACE)


class _Slot:
    """One frame between the reader's thread and the consumer; `_changed` guards every field."""

    def __init__(self, address: Address, open_timeout: float, read_timeout: float) -> None:
        self._address = address
        self._read_timeout = read_timeout
        self._changed = threading.Condition()
        self._deadline = time.monotonic() + open_timeout + GRACE
        self._silence = f"not open after {open_timeout:g} s"
        self._live = True
        self._frame: Frame | None = None
        self._arrived = 0.0
        self._ended = False
        self._error: Exception | None = None
        self._stopped = False

    def fill(self, grab: Grab, stride: int) -> None:
        """The thread: reads until the source ends or `stop` is called."""
        error: Exception | None = None
        still = _Still()
        try:
            shots = grab(self._opened)
            try:
                for index, shot in enumerate(shots):
                    frozen = shot.image is not None and still.frozen(shot.image)
                    shot = shot._replace(image=None, reason="repeated frame") if frozen and self._live else shot
                    if not self._put(index, shot, wanted=index % stride == 0):
                        break
            finally:
                if hasattr(shots, "close"):
                    shots.close()  # closes container or child in the thread that used it
        except Exception as caught:  # a thread's error is raised by the one that reads frames
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _opened(self, live: bool) -> None:
        with self._changed:
            self._live = live
            self._heard()

    def _heard(self) -> None:
        self._deadline = time.monotonic() + self._read_timeout + GRACE
        self._silence = f"no frame for {self._read_timeout:g} s"

    def _put(self, index: int, shot: Shot, *, wanted: bool) -> bool:
        with self._changed:
            while not self._live and self._frame is not None and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._heard()
            if wanted:
                dropped = 0 if self._frame is None else self._frame.dropped + 1
                self._frame = Frame(
                    index=index,
                    source=shot.source,
                    time=time.time(),
                    image=shot.image,
                    reason=shot.reason,
                    live=self._live,
                    dropped=dropped,
                )
                self._arrived = time.monotonic()
                self._changed.notify_all()
            return True

    def take(self) -> Frame | None:
        """The waiting frame, or the next; None at the end of a network file."""
        with self._changed:
            while self._frame is None and not self._ended:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise SourceLostError(f"{self._address}: {self._silence}; check the camera and its network")
                self._changed.wait(left)
            if self._frame is None:
                self._raise_loss()
                return None
            frame, self._frame = self._frame, None
            self._heard_late(frame)
            self._changed.notify_all()
            stale = self._live and time.monotonic() - self._arrived > self._read_timeout
            return replace(frame, image=None, reason="stale frame") if stale else frame

    def _heard_late(self, frame: Frame) -> None:
        if not frame.live:  # the thread was held back by the consumer, not by the network
            self._heard()

    def _raise_loss(self) -> None:
        if isinstance(self._error, PdtoolError):
            raise type(self._error)(self._address.redact(self._error)) from None
        if self._error is not None:
            raise SourceLostError(
                f"{self._address}: {self._plain(self._error)}; check the camera and its network"
            ) from None
        if self._live:
            raise SourceLostError(f"{self._address}: the stream ended; check the camera and its network")

    def _plain(self, error: Exception) -> str:
        if (
            type(error).__name__ == "ExitError"
        ):  # the reader's timeout, in the library's words "Immediate exit requested"
            return self._silence
        return self._address.redact(getattr(error, "strerror", None) or error)

    def stop(self) -> None:
        """Let the thread end at its next frame or timeout."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _Still:
    """Notices a camera that sends the same picture over and over."""

    def __init__(self) -> None:
        self._last: Images | None = None
        self._repeats = 0
        self._since = 0.0

    def frozen(self, image: Images) -> bool:
        now = time.monotonic()
        if self._last is None or not np.array_equal(self._last, image):
            self._last, self._repeats, self._since = image, 0, now
            return False
        self._repeats += 1
        return self._repeats > REPEATS or now - self._since > REPEAT_SECONDS
