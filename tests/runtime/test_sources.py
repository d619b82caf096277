"""Sources that are not live: every frame, in order, and damage stays with the frame that has it."""

import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdtool.errors import InputError, MissingError, PdtoolError, SourceLostError, UsageError
from pdtool.runtime.frames import Address, Frame
from pdtool.runtime.sources import open_frames


def read(source: object, **options: object) -> list[Frame]:
    with open_frames(str(source), **options) as frames:  # type: ignore[arg-type]
        return list(frames)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_video(path: Path, frames: int = 30, codec: str = "mpeg4", rate: int = 30) -> Path:
    """A clip whose frame i is grey level 8 i."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            image = np.full((48, 64, 3), 8 * i % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


# -- pictures


def test_a_folder_gives_every_picture_in_order(tmp_path):
    for i in (3, 1, 2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    before = time.time()
    frames = read(tmp_path)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.source for frame in frames] == [f"{tmp_path}/{i}.png" for i in (1, 2, 3)]
    assert [int(frame.image[0, 0, 0]) for frame in frames if frame.image is not None] == [1, 2, 3]
    assert all(not frame.live and frame.dropped == 0 and frame.reason is None for frame in frames)
    assert all(before - 1 <= frame.time <= time.time() for frame in frames)


def test_a_damaged_picture_harms_no_other(tmp_path):
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "2.png").write_bytes(png(2)[:50])
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(png(4))
    frames = read(tmp_path)
    assert [frame.image is None for frame in frames] == [False, True, True, False]
    assert frames[1].reason is not None and "2.png: not a readable picture" in frames[1].reason


def test_one_picture_a_glob_and_a_file_address(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    assert len(read(tmp_path / "2.png")) == 1
    assert [Path(frame.source).stem for frame in read(tmp_path / "[12].png")] == ["1", "2"]
    assert len(read(f"file://{tmp_path}/2.png")) == 1
    assert len(read(tmp_path / "2.png", limit=0)) == 0


def test_stride_and_limit(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    assert [frame.index for frame in read(tmp_path, stride=3)] == [0, 3, 6]
    assert [frame.index for frame in read(tmp_path, stride=2, limit=2)] == [0, 2]
    with pytest.raises(UsageError, match="stride of 0"):
        read(tmp_path, stride=0)


def test_an_archive_of_pictures(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for i in range(3):
            info = tarfile.TarInfo(f"camera/{i}.png")
            info.size = len(png(i))
            tar.addfile(info, io.BytesIO(png(i)))
    frames = read(tmp_path / "x.tar.gz")
    assert [frame.source for frame in frames] == [f"{tmp_path}/x.tar.gz/camera/{i}.png" for i in range(3)]


def test_an_npz_of_bytes_or_floats(tmp_path):
    floats = np.random.default_rng(0).random((5, 8, 8, 3), dtype=np.float32)
    np.savez(tmp_path / "x.npz", images=floats)
    frames = read(tmp_path / "x.npz")
    assert len(frames) == 5
    assert all(
        frame.image is not None and np.array_equal(frame.image, want)
        for frame, want in zip(frames, floats, strict=True)
    )


@pytest.mark.parametrize(
    "source, error, message",
    [
        ("nowhere.png", InputError, "no such file or folder"),
        ("nowhere*.png", InputError, "no file matches"),
        ("ftp://host/x", UsageError, "unknown kind of source ftp://"),
        ("/dev/video987", MissingError, "no such camera"),
        ("987", MissingError, "/dev/video987: no such camera"),
        ("v4l2:///dev/video987", MissingError, "no such camera"),
        ("-", UsageError, "raw frames need a size"),
        ("-?width=4", UsageError, "raw frames need a size"),
        ("-?width=4&height=4&channels=2", UsageError, "raw frames need a size"),
        ("-?width=4&height=x", UsageError, "whole numbers for width, height, channels, got height=x"),
        ("test:noise", UsageError, "only test source is test:pattern"),
        ("test:pattern?speed=3", UsageError, "got speed=3"),
        ("test:pattern?width=0", UsageError, "1 or more"),
        (
            "rtsp://${NO_SUCH_CAMERA_VARIABLE}@host/x",
            InputError,
            r"names \$\{NO_SUCH_CAMERA_VARIABLE\}, which is not set",
        ),
    ],
)
def test_sources_that_make_no_sense(source, error, message):
    with pytest.raises(error, match=message):
        read(source)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="expected pictures"):
        read(tmp_path)


# -- video


@pytest.mark.parametrize(
    "name, codec", [("x.mp4", "mpeg4"), ("x.avi", "mpeg4"), ("x.mkv", "libx264"), ("x.ts", "mpeg2video")]
)
def test_every_frame_of_a_video_in_order(tmp_path, name, codec):
    frames = read(write_video(tmp_path / name, codec=codec))
    assert [frame.index for frame in frames] == list(range(30))
    for i, frame in enumerate(frames):
        assert frame.image is not None and frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8
        assert abs(int(frame.image[24, 32, 0]) - 8 * i) <= 8
        assert frame.source == str(tmp_path / name) and not frame.live


def test_a_video_closed_half_way_leaves_nothing_open(tmp_path):
    path = write_video(tmp_path / "x.mp4")
    read(path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with open_frames(str(path)) as frames:
            next(frames)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_is_no_video(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video " * 1000)
    with pytest.raises(InputError, match=r"x.mp4: not a readable video"):
        read(tmp_path / "x.mp4")
    (tmp_path / "y.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"y.mp4: not a readable video"):
        read(tmp_path / "y.mp4")


def test_a_video_that_is_a_playlist_of_network_addresses_is_refused(tmp_path):
    (tmp_path / "x.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError, match="not a readable video"):
        read(tmp_path / "x.m3u8")


def test_without_the_video_package_the_cure_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    for source in (path, "rtsp://127.0.0.1:9/x"):
        with pytest.raises(
            MissingError, match=r"av is needed to read video and cameras .* pip install 'pdtool\[camera\]'"
        ):
            read(source)


@pytest.mark.parametrize("name, count", [("realshort.mp4", 36), ("vehicles-video1.avi", 500)])
def test_real_videos_are_whole(shared_data, name, count):
    frames = read(shared_data / "video" / name)
    assert len(frames) == count and all(frame.image is not None for frame in frames)


def test_a_damaged_real_video_marks_damaged_frames_only(shared_data, tmp_path):
    content = bytearray((shared_data / "video/vehicles-video1.avi").read_bytes())
    rng = np.random.default_rng(0)
    for position in rng.integers(len(content) // 4, 3 * len(content) // 4, 20):
        content[position : position + 40] = rng.bytes(40)
    (tmp_path / "x.avi").write_bytes(bytes(content))
    bad = [frame.reason for frame in read(tmp_path / "x.avi") if frame.image is None]
    assert 0 < len(bad) <= 40 and all(reason is not None and "corrupt video frame" in reason for reason in bad)


def test_a_video_that_was_cut_off_says_so(shared_data, tmp_path):
    content = (shared_data / "video/solidWhiteRight.mp4").read_bytes()
    (tmp_path / "x.mp4").write_bytes(content[: len(content) // 8])
    *_, last = read(tmp_path / "x.mp4")
    assert last.image is None and last.reason is not None and "breaks off after" in last.reason


# -- test pattern


def test_the_pattern_is_the_same_every_time_and_always_moves():
    one, two = read("test:pattern"), read("test:pattern")
    assert len(one) == 100 and not one[0].live
    images = [frame.image for frame in one]
    assert all(
        a is not None and b.image is not None and np.array_equal(a, b.image) for a, b in zip(images, two, strict=True)
    )
    assert all(not np.array_equal(a, b) for a, b in zip(images[1:], images, strict=False))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (640, 480)])
def test_the_pattern_has_any_size(size):
    (frame,) = read(f"test:pattern?width={size[0]}&height={size[1]}&frames=1")
    assert frame.image is not None and frame.image.shape == (size[1], size[0], 3)


def test_the_pattern_keeps_its_pace():
    started = time.monotonic()
    frames = read("test:pattern?fps=50&frames=26")
    assert 0.5 <= time.monotonic() - started < 2 and frames[0].live and len(frames) == 26


# -- stdin

READER = """
import sys
from pdtool.errors import PdtoolError
from pdtool.runtime.sources import open_frames
try:
    with open_frames(sys.argv[1], read_timeout=0.5) as frames:
        for frame in frames:
            image = frame.image
            print(frame.index, None if image is None else (image.shape, int(image.sum())), frame.reason)
except PdtoolError as error:
    print(type(error).__name__, error)
"""


def from_stdin(source: str, data: bytes) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", READER, source], input=data, capture_output=True, timeout=20, check=True
    )
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def test_raw_frames_on_stdin():
    assert from_stdin("-?width=4&height=3", bytes([1] * 36 + [2] * 36)) == [
        "0 ((3, 4, 3), 36) None",
        "1 ((3, 4, 3), 72) None",
    ]
    assert from_stdin("-?width=4&height=3&channels=1", bytes(12)) == ["0 ((3, 4, 1), 0) None"]
    assert from_stdin("-?width=4&height=3", b"") == []


def test_stdin_that_ends_inside_a_frame():
    (_, line) = from_stdin("-?width=4&height=3", bytes(40))
    assert line == "1 None the data ended inside a frame (4 of 36 bytes)"


def test_stdin_that_falls_silent_is_noticed():
    with subprocess.Popen(
        [sys.executable, "-c", READER, "-?width=4&height=3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(bytes(40))
        child.stdin.flush()
        lines = child.stdout.read().decode().splitlines()
        child.stdin.close()
    assert lines[-1] == "SourceLostError stdin: no data for 0.5 s"


# -- redaction


@pytest.mark.parametrize(
    "source, password, shown",
    [
        ("rtsp://admin:hunter2@10.0.0.9:554/ch1", "hunter2", "rtsp://***@10.0.0.9:554/ch1"),
        ("rtsp://admin:hun/ter2@x@10.0.0.9/ch1", "hun/ter2@x", "rtsp://***@10.0.0.9/ch1"),
        ("rtsp://admin:hun 'ter2@10.0.0.9/ch1", "hun 'ter2", "rtsp://***@10.0.0.9/ch1"),
        ("rtsp://:p%40ss@10.0.0.9/ch1", "p@ss", "rtsp://***@10.0.0.9/ch1"),
        ("http://10.0.0.9/m?user=a&password=hunter2&fps=5", "hunter2", "http://10.0.0.9/m?user=a&password=***&fps=5"),
        ("gst:a location=rtsp://b:hunter2@h/x ! c", "hunter2", "gst:a location=rtsp://***@h/x ! c"),
        ("gst:a user-pw=hunter2 ! c", "hunter2", "gst:a user-pw=*** ! c"),
    ],
)
def test_secrets_are_not_shown(source, password, shown):
    address = Address(source)
    assert str(address) == shown and address.secret == source
    for text in (f"cannot open '{source}'", f"Error at\n{source}: {password} refused", f"opened {source.upper()}"):
        assert password not in address.redact(text) and "\n" not in address.redact(text)


def test_a_path_is_shown_as_it_is():
    assert str(Address("/home/me@work/clip.mp4")) == "/home/me@work/clip.mp4"


def test_variables_are_filled_and_hidden(monkeypatch):
    monkeypatch.setenv("CAMERA_USER", "admin")
    monkeypatch.setenv("CAMERA_PASS", "p@ss/word")
    address = Address("rtsp://${CAMERA_USER}:${CAMERA_PASS}@host/x")
    assert address.secret == "rtsp://admin:p@ss/word@host/x"
    assert str(address) == "rtsp://***@host/x"
    assert (
        address.redact("401 for admin with p@ss/word at rtsp://admin:p%40ss@host/x")
        == "401 for *** with *** at rtsp://***@host/x"
    )


# -- GStreamer, through a stand-in for gst-launch-1.0 that records how it was called

LAUNCH = """#!{python}
import json, os, re, sys, time
json.dump(sys.argv[1:], open({record!r}, "w"))
text = " ".join(sys.argv)
width, height = (int(re.findall(name + r"=(\\d+)", text)[-1]) for name in ("width", "height"))
if "bad" in text:
    sys.exit("Setting pipeline to PAUSED\\nERROR: pipeline: no element bad for rtsp://a:hunter2@h/x\\nfreeing")
for i in range(5):
    os.write(1, bytes([i, 10, 20, 255]) * (width * height))
    time.sleep(0.05)
if "freeze" in text:
    time.sleep(60)
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    program = tmp_path / "bin/gst-launch-1.0"
    program.parent.mkdir()
    program.write_text(LAUNCH.format(python=sys.executable, record=str(tmp_path / "called.json")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "called.json"


def live(source: str, **options: float) -> tuple[list[Frame], PdtoolError | None, float]:
    """Frames until the source is lost, the loss, and the seconds that it all took."""
    frames: list[Frame] = []
    started = time.monotonic()
    try:
        with open_frames(source, **options) as stream:  # type: ignore[arg-type]
            frames.extend(stream)
    except PdtoolError as error:
        return frames, error, time.monotonic() - started
    return frames, None, time.monotonic() - started


def test_a_jetson_camera(launch):
    frames, error, _ = live("csi://1?width=64&height=6&fps=15")
    assert isinstance(error, SourceLostError) and "ended with code 0" in str(error)
    assert frames and frames[-1].live and frames[-1].index == 4
    for frame in frames:
        assert frame.image is not None and frame.image.shape == (6, 64, 3)
        assert frame.image[0, 0].tolist() == [frame.index, 10, 20]
    called = launch.read_text()
    for part in ("nvarguscamerasrc", "sensor-id=1", "framerate=15/1", "format=RGBA", "fdsink", "nvvidconv"):
        assert part in called


def test_a_pipeline_of_ones_own(launch):
    frames, _, _ = live("gst:videotestsrc ! video/x-raw,width=(int)8,height=4")
    assert frames[-1].image is not None and frames[-1].image.shape == (4, 8, 3)
    assert '"!", "videoconvert", "!"' in launch.read_text()


def test_a_pipeline_that_fails_says_why_without_secrets(launch):
    _, error, _ = live("gst:bad ! video/x-raw,width=8,height=4")
    assert isinstance(error, SourceLostError)
    assert "code 1 (ERROR: pipeline: no element bad for rtsp://***@h/x)" in str(error)


def test_a_pipeline_that_freezes_is_killed(launch):
    frames, error, seconds = live("gst:freeze ! video/x-raw,width=8,height=4", read_timeout=0.5)
    assert isinstance(error, SourceLostError) and "no data for 0.5 s" in str(error)
    assert frames and seconds < 4


def test_a_pipeline_without_a_size(launch):
    with pytest.raises(UsageError, match="the frames' size at the end of the pipeline"):
        read("gst:videotestsrc")


def test_without_gstreamer_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="sudo apt install gstreamer1.0-tools"):
        read("csi://0")
