"""Files: old or new, never in between."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pdtool.errors import InputError, IntegrityError
from pdtool.files import npz_bytes, read_checked, read_limited, sha256_bytes, sha256_file, write_atomic
from pdtool.outputs import new_folder


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]
    assert sha256_file(path) == sha256_bytes(b"new")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        write_atomic(path, b"new")
    with pytest.raises(InputError, match="the disk is full"), new_folder(tmp_path / "b") as folder:
        (folder / "x").write_bytes(b"1")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_new_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"1")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "x").read_bytes() == b"1"
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "out"):
        pass
    with new_folder(tmp_path / "out", force=True, marker="x") as folder:
        (folder / "y").write_bytes(b"2")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["y"]


def test_kill_9_leaves_the_old_folder(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"old")
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pdtool.outputs import new_folder\n"
        "with new_folder(Path(sys.argv[1]), force=True, marker='x') as folder:\n"
        "    (folder / 'x').write_bytes(b'new')\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "out" / "x").read_bytes() == b"old"
    with new_folder(tmp_path / "out", force=True, marker="x") as folder:  # what the dead process left is cleared away
        (folder / "x").write_bytes(b"newer")
    assert os.listdir(tmp_path) == ["out"]


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "x", b"")
    with pytest.raises(InputError, match="cannot be written"), new_folder(tmp_path / "file" / "x" / "y"):
        pass


def test_the_root_is_never_replaced():
    with pytest.raises(InputError, match="is the root of the file system"), new_folder(Path("/"), force=True):
        pass


def test_read_checked_notices_every_change(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    digest = sha256_bytes(b"abc")
    assert read_checked(path, 3, digest) == b"abc"
    with pytest.raises(IntegrityError, match="expected 4 bytes, found 3"):
        read_checked(path, 4, digest)
    path.write_bytes(b"abd")
    with pytest.raises(IntegrityError, match="SHA-256"):
        read_checked(path, 3, digest)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(IntegrityError, match="link"):
        read_checked(tmp_path / "link", 3, digest)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_checked(tmp_path / "none", 3, digest)


def test_read_limited(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"
    with pytest.raises(InputError, match="at most 4"):
        read_limited(tmp_path / "a", 4)
    with pytest.raises(InputError, match="cannot be read"):
        read_limited(tmp_path / "b")


def test_stale_temporary_folders_of_live_processes_are_left_alone(tmp_path):
    with new_folder(tmp_path / "out") as first:
        with new_folder(tmp_path / "out") as second:
            (second / "x").write_bytes(b"2")
        assert first.exists() and (tmp_path / "out" / "x").read_bytes() == b"2"
        (tmp_path / "out" / "x").unlink()
        (tmp_path / "out").rmdir()
        (first / "x").write_bytes(b"1")
    assert (tmp_path / "out" / "x").read_bytes() == b"1"


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "x").write_bytes(b"other")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "x").read_bytes() == b"other"


def test_what_a_dead_process_with_our_number_left_is_cleared_away(tmp_path):
    (tmp_path / f".out.{os.getpid()}.tmp").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"")
    assert os.listdir(tmp_path) == ["out"]


def old_out(tmp_path):
    out = tmp_path / "out"
    with new_folder(out) as folder:
        (folder / "x.json").write_bytes(b"old")
    return out


DYING = """
import os, signal, sys
from pathlib import Path
from pdtool import outputs
how, last, exchange = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
renames = 0
def dying(real):
    def rename(*arguments):
        global renames
        done = real(*arguments)
        renames += 1
        if renames == last:
            os.kill(os.getpid(), getattr(signal, how))
        return done
    return rename
if exchange:
    outputs._exchange = dying(outputs._exchange)
else:
    outputs._exchange = lambda one, other: False
    Path.rename = dying(Path.rename)
with outputs.new_folder(Path(sys.argv[1]), force=True, marker="x.json") as folder:
    (folder / "x.json").write_bytes(b"new")
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize(("last", "exchange"), [(1, True), (1, False), (2, False)])
def test_a_stop_after_any_rename_loses_nothing(tmp_path, how, last, exchange):
    out = old_out(tmp_path)
    arguments = [sys.executable, "-c", DYING, str(out), how, str(last), str(exchange)]
    stopped = subprocess.run(arguments, stderr=subprocess.PIPE)
    assert stopped.returncode != 0
    if out.exists():
        assert (out / "x.json").read_bytes() in (b"old", b"new")
    else:  # killed between two renames, where there is no exchange: the next run finds the old one
        assert (how, last, exchange) == ("SIGKILL", 1, False)
    with pytest.raises(InputError, match="exists already"), new_folder(out):
        pass
    assert (out / "x.json").read_bytes() == (b"old" if last == 1 and not exchange else b"new")
    with new_folder(out, force=True, marker="x.json") as folder:
        (folder / "x.json").write_bytes(b"newest")
    assert os.listdir(tmp_path) == ["out"] and (out / "x.json").read_bytes() == b"newest"


def test_the_swap_is_one_step_here(tmp_path, monkeypatch):
    out = old_out(tmp_path)
    monkeypatch.setattr(Path, "rename", lambda path, target: pytest.fail("a rename leaves a moment without a folder"))
    with new_folder(out, force=True, marker="x.json") as folder:
        (folder / "x.json").write_bytes(b"new")
    assert (out / "x.json").read_bytes() == b"new"


def test_the_same_arrays_are_the_same_npz(tmp_path, monkeypatch):
    arrays = {"a": np.arange(6).reshape(2, 3)[:, ::2], "b": np.array("text")}
    data = npz_bytes(arrays)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert npz_bytes(arrays) == data
    with np.load(io.BytesIO(data), allow_pickle=False) as came:
        assert came.files == ["a", "b"] and came["a"].tolist() == [[0, 2], [3, 5]] and str(came["b"]) == "text"


def test_force_replaces_nothing_but_what_was_written_before(tmp_path):
    def write(path, **options):
        with new_folder(path, force=True, marker="m.json", own=("*.npz",), **options) as folder:
            (folder / "m.json").write_bytes(b"new")

    photos = tmp_path / "photos"
    photos.mkdir()
    write(photos)  # empty: nothing to lose
    (photos / "a.npz").write_bytes(b"ours")
    (photos / ".m.json.123.tmp").write_bytes(b"left by a killed process")
    write(photos)
    assert os.listdir(photos) == ["m.json"]
    (photos / "cat.jpg").write_bytes(b"dear")
    with pytest.raises(InputError, match=r"holds 'cat\.jpg', which this command did not write"):
        write(photos)
    (photos / "m.json").unlink()
    with pytest.raises(InputError, match=r"has no m\.json in it; --force replaces only"):
        write(photos)
    with pytest.raises(InputError, match="is a file, which --force does not replace"):
        write(photos / "cat.jpg")
    assert (photos / "cat.jpg").read_bytes() == b"dear"


def test_no_folder_is_replaced_by_what_is_made_of_it(tmp_path):
    pool = old_out(tmp_path)
    for out in (pool, tmp_path, tmp_path / "x" / ".." / "out"):
        with (
            pytest.raises(InputError, match="is or contains .*out, which is needed to make it"),
            new_folder(out, force=True, marker="x.json", inputs=(pool,)),
        ):
            pass
    assert (pool / "x.json").read_bytes() == b"old"


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("target", ["real", "nowhere"])
def test_a_link_is_refused_before_anything_is_made(tmp_path, force, target):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="is a link"), new_folder(tmp_path / "link", force=force):
        pytest.fail("nothing should be built")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
