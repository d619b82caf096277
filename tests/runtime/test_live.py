"""Live sources: the newest frame, and a lost camera is noticed in time. Servers run on the loopback address."""

import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from pdtool.errors import InputError, PdtoolError, SourceLostError
from pdtool.runtime import live
from pdtool.runtime.frames import Address, Frame, Shot
from pdtool.runtime.sources import open_frames

SLACK = 1.5  # seconds beyond a timeout within which the loss must be known


def jpeg(number: int) -> bytes:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:, : 1 + number % 60] = 200
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


class Camera(BaseHTTPRequestHandler):
    """/run sends pictures at 30 a second; other paths fail in their own way. Query: ?user:password is demanded."""

    video = b""  # what /clip.mp4 serves

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.strip("/").partition("?")[0]
        try:
            if path == "silent":
                time.sleep(5)
            elif path == "forbidden":
                self.send_error(401)
            elif path == "garbage":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"no picture " * 10_000)
            elif path.endswith(".mp4"):
                self.clip(self.video[: len(self.video) // 2] if path == "half.mp4" else self.video)
            else:
                self.pictures(path)
        except OSError:
            pass  # the client left

    def clip(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(self.video)))
        self.end_headers()
        self.wfile.write(content)

    def pictures(self, path: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(400):
            content = jpeg(i)
            if path == "damaged" and i % 2:
                content = content[:200] + bytes(len(content) - 200)
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content)
            self.wfile.write(head + content + b"\r\n")
            time.sleep(1 / 30)
            if i == 15 and path == "close":
                return
            if i == 15 and path == "freeze":
                time.sleep(5)
            if i == 15 and path == "drip":
                for _ in range(50):
                    self.wfile.write(b"-")
                    time.sleep(0.1)


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "pdtool-reader"]


def watch(source: str, *, most: int = 1000, pause: float = 0.0, **options: float) -> tuple[list[Frame], str, float]:
    """Frames, the loss in words ("" for a proper end) and how long it took from the last frame on."""
    frames: list[Frame] = []
    last = time.monotonic()
    try:
        with open_frames(source, limit=most, **({"open_timeout": 1.0, "read_timeout": 1.0} | options)) as stream:  # type: ignore[arg-type]
            for frame in stream:
                frames.append(frame)
                time.sleep(pause)
                last = time.monotonic()
    except SourceLostError as error:
        return frames, str(error), time.monotonic() - last
    return frames, "", time.monotonic() - last


def test_a_slow_consumer_does_not_fall_behind(camera):
    frames, lost, _ = watch(f"{camera}/run", most=6, pause=0.3, open_timeout=5.0, read_timeout=5.0)
    assert lost == "" and frames[0].dropped == frames[0].index
    assert all(frame.live and frame.image is not None for frame in frames)
    for before, after in itertools.pairwise(frames):
        assert after.index == before.index + after.dropped + 1
    assert frames[-1].index > 10  # 1.5 s at 30 frames a second; 5 if none had been dropped


def test_no_frame_comes_twice(camera):
    frames, lost, _ = watch(f"{camera}/run", most=30)
    assert lost == "" and len(frames) == 30
    assert len({frame.image.tobytes() for frame in frames if frame.image is not None}) == 30


def test_stride_counts_no_drops(camera):
    frames, _, _ = watch(f"{camera}/run", most=5, stride=4)
    assert all(frame.index % 4 == 0 for frame in frames)


def test_a_camera_that_closes_is_lost(camera):
    frames, lost, seconds = watch(f"{camera}/close")
    assert 0 < len(frames) <= 16 and camera in lost and seconds < SLACK


def test_a_camera_that_freezes_is_lost_in_time(camera):
    frames, lost, seconds = watch(f"{camera}/freeze")
    assert 0 < len(frames) <= 16 and "no frame for 1 s" in lost and seconds < 1 + SLACK


def test_a_camera_that_drips_bytes_is_lost_in_time(camera):
    _, lost, seconds = watch(f"{camera}/drip")
    assert lost and seconds < 2 + SLACK


def test_a_consumer_that_comes_late_hears_of_the_loss_too(camera):
    _, lost, seconds = watch(f"{camera}/freeze", pause=0.4)
    assert lost and seconds < 1 + SLACK


def test_a_server_that_never_answers(camera):
    frames, lost, seconds = watch(f"{camera}/silent")
    assert not frames and "not open after 1 s" in lost and seconds < 1 + SLACK


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp"])
def test_an_address_that_takes_no_connection(scheme):
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)  # the queue of one is then filled: further connections are neither taken nor refused
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        time.sleep(0.05)
        frames, lost, seconds = watch(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x")
    assert not frames and lost and seconds < 1 + SLACK


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp", "tcp"])
def test_a_refused_connection_is_known_at_once(scheme):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    _, lost, seconds = watch(f"{scheme}://127.0.0.1:{port}/x")
    assert "refused" in lost and seconds < SLACK


@pytest.mark.parametrize("path", ["forbidden", "garbage"])
def test_an_answer_that_is_no_stream(camera, path):
    frames, lost, seconds = watch(f"{camera}/{path}")
    assert not frames and lost and seconds < 1 + SLACK


def test_no_password_in_frames_errors_or_output(camera):
    address = camera.replace("http://", "http://admin:hunter2@")
    frames, lost, _ = watch(f"{address}/run?token=hunter2", most=2)
    assert frames[0].source == f"{camera.replace('//', '//***@')}/run?token=***"
    _, lost, _ = watch(f"{address}/forbidden")
    assert "***@127.0.0.1" in lost and "hunter2" not in lost and "401" in lost
    code = "import sys; from pdtool.runtime.sources import open_frames\nwith open_frames(sys.argv[1]) as f: next(f)"
    for path in ("forbidden", "garbage"):
        done = subprocess.run(
            [sys.executable, "-c", code, f"{address}/{path}"], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode != 0 and done.stdout == ""
        assert "SourceLostError" in done.stderr and "hunter2" not in done.stderr


def test_damaged_pictures_do_not_end_a_stream(camera):
    frames, lost, _ = watch(f"{camera}/damaged", most=12)
    assert lost == "" and any(frame.image is not None for frame in frames)


def test_a_slow_still_camera_is_noticed_by_time(monkeypatch):
    monkeypatch.setattr(live, "REPEAT_SECONDS", 0.1)
    still, image = live._Still(), np.zeros((4, 4, 3), dtype=np.uint8)
    assert not still.frozen(image) and not still.frozen(image.copy())
    time.sleep(0.12)
    assert still.frozen(image.copy())
    assert not still.frozen(image + 1)


# -- files over the network


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    import av

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 20_000_000
        noise = np.random.default_rng(0)
        for _ in range(40):
            image = noise.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    Camera.video = path.read_bytes()


@pytest.mark.usefixtures("clip")
def test_a_file_over_http_gives_every_frame_and_ends_well(camera):
    frames, lost, _ = watch(f"{camera}/clip.mp4", pause=0.01)
    assert lost == "" and [frame.index for frame in frames] == list(range(40))
    assert all(not frame.live and frame.dropped == 0 and frame.image is not None for frame in frames)


@pytest.mark.usefixtures("clip")
def test_a_consumer_slower_than_the_timeout_loses_no_file(camera):
    frames, lost, _ = watch(f"{camera}/clip.mp4", pause=0.6, read_timeout=0.2, most=4)
    assert lost == "" and len(frames) == 4 and all(frame.image is not None for frame in frames)


@pytest.mark.usefixtures("clip")
def test_a_file_whose_server_dies_is_lost(camera):
    frames, lost, _ = watch(f"{camera}/half.mp4")
    assert 0 < len(frames) < 40 and lost


# -- a transport stream from another process

SENDER = """
import sys, time, av, numpy as np
with av.open(sys.argv[1] + "?listen=1", "w", format="mpegts") as container:
    options = {"tune": "zerolatency", "preset": "ultrafast", "g": sys.argv[2]}
    stream = container.add_stream("libx264", rate=30, options=options)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for i in range(600):
        image = np.full((48, 64, 3), i * 7 % 256, dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        time.sleep(1 / 60)
"""


@contextmanager
def sender(key_every: int = 10) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    for _ in range(3):  # another process may take the free port first
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"tcp://127.0.0.1:{port}"
        with subprocess.Popen([sys.executable, "-c", SENDER, url, str(key_every)], stderr=subprocess.DEVNULL) as child:
            try:
                if listens(child, port):
                    yield url, child
                    return
            finally:
                child.kill()
    pytest.fail("the sender never listened")


def listens(child: "subprocess.Popen[bytes]", port: int) -> bool:
    end = time.monotonic() + 10
    while child.poll() is None and time.monotonic() < end:
        with open("/proc/net/tcp") as table:
            if f":{port:04X} 00000000:0000 0A" in table.read():
                return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stream_whose_sender_is_killed_or_frozen_is_lost(number):
    with sender() as (url, child), open_frames(url, open_timeout=4, read_timeout=1) as stream:
        first = next(stream)
        assert first.image is not None and first.image.shape == (48, 64, 3) and first.live
        for _ in range(5):
            next(stream)
        os.kill(child.pid, number)
        started = time.monotonic()
        with pytest.raises(SourceLostError, match=url):
            for _ in stream:
                pass
        assert time.monotonic() - started < 1 + SLACK


def test_the_first_picture_does_not_wait_for_a_second_key_frame():
    with sender(key_every=600) as (url, _), open_frames(url, open_timeout=4, read_timeout=3) as stream:
        assert next(stream).image is not None


# -- readers that misbehave


def frames_of(grab: live.Grab, **options: float) -> Generator[Frame, None, None]:
    timeouts = {"open_timeout": 0.3, "read_timeout": 0.3} | options
    return live.newest_frames(grab, Address("rtsp://u:hunter2@h/x"), stride=1, **timeouts)


def picture(i: int) -> Shot:
    return Shot("x", np.full((2, 2, 3), i, dtype=np.uint8))


def test_only_the_newest_frame_waits_and_the_dropped_are_counted():
    first, burst, go = threading.Event(), threading.Event(), threading.Event()

    def shots(opened):
        opened(True)
        yield picture(0)
        first.wait(5)
        for i in range(1, 10):
            yield picture(i)
        burst.set()
        go.wait(5)
        yield picture(10)

    stream = frames_of(shots, read_timeout=5)
    assert next(stream).dropped == 0
    first.set()
    assert burst.wait(5)
    newest = next(stream)
    go.set()
    assert (newest.index, newest.dropped) == (9, 8) and newest.image is not None and newest.image[0, 0, 0] == 9
    assert next(stream).dropped == 0
    stream.close()


def test_a_still_camera_is_no_longer_trusted_until_it_moves():
    step = threading.Semaphore(1)

    def still(opened):
        opened(True)
        for i in range(80):
            step.acquire(timeout=5)  # in step with the consumer: nothing is dropped
            yield picture(max(i - 60, 0))

    frames = []
    for frame in itertools.islice(frames_of(still, read_timeout=5), 80):
        frames.append(frame)
        step.release()
    assert [frame.index for frame in frames if frame.reason == "repeated frame"] == list(range(live.REPEATS + 1, 61))
    assert all((frame.image is None) == (frame.reason is not None) and frame.dropped == 0 for frame in frames)


def test_a_library_that_never_returns_is_given_up(monkeypatch):
    monkeypatch.setattr(live, "GRACE", 0.2)
    hang = threading.Event()

    def never_opens(opened):
        hang.wait(5)
        yield picture(0)

    def never_reads(opened):
        opened(True)
        yield picture(0)
        hang.wait(5)

    started = time.monotonic()
    with pytest.raises(SourceLostError, match=r"rtsp://\*\*\*@h/x: not open after 0.3 s"):
        next(frames_of(never_opens))
    stream = frames_of(never_reads)
    next(stream)
    with pytest.raises(SourceLostError, match="no frame for 0.3 s"):
        next(stream)
    assert time.monotonic() - started < 4
    hang.set()
    for thread in threading.enumerate():
        if thread.name == "pdtool-reader":
            thread.join(2)


def test_the_last_frame_is_given_before_the_loss():
    def ends(opened):
        opened(True)
        yield picture(0)
        raise OSError(5, "Input/output error for hunter2")

    stream = frames_of(ends)
    assert next(stream).index == 0
    with pytest.raises(SourceLostError, match=r"Input/output error for \*\*\*"):
        next(stream)


def test_an_error_of_ours_keeps_its_kind_and_loses_its_secret():
    def wrong(opened):
        raise InputError("rtsp://u:hunter2@h/x: holds no video")
        yield

    with pytest.raises(InputError, match=r"rtsp://\*\*\*@h/x: holds no video"):
        next(frames_of(wrong))


def test_a_frame_that_waited_too_long_is_stale():
    go = threading.Event()

    def one(opened):
        opened(True)
        yield picture(0)
        go.wait(5)
        yield picture(1)

    stream = frames_of(one, read_timeout=0.2)
    first = next(stream)
    assert first.image is not None
    go.set()
    time.sleep(0.5)
    late = next(stream)
    assert late.image is None and late.reason == "stale frame"
    with pytest.raises(PdtoolError):
        next(stream)


def test_leaving_early_ends_thread_and_connection(camera):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        frames, lost, seconds = watch(f"{camera}/run", most=1)
        assert len(frames) == 1 and lost == "" and seconds < SLACK
    time.sleep(0.2)  # the server's side closes when it next writes
    assert len(os.listdir("/proc/self/fd")) <= before + 2
