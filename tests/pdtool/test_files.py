"""Files: old or new, never in between."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from pdtool.errors import InputError, IntegrityError
from pdtool.files import new_folder, read_checked, read_limited, sha256_bytes, sha256_file, write_atomic


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
    with new_folder(tmp_path / "out", force=True) as folder:
        (folder / "y").write_bytes(b"2")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["y"]


def test_kill_9_leaves_the_old_folder(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"old")
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pdtool.files import new_folder\n"
        "with new_folder(Path(sys.argv[1]), force=True) as folder:\n"
        "    (folder / 'x').write_bytes(b'new')\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "out" / "x").read_bytes() == b"old"
    with new_folder(tmp_path / "out", force=True) as folder:  # what the dead process left is cleared away
        (folder / "x").write_bytes(b"newer")
    assert os.listdir(tmp_path) == ["out"]


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "x", b"")
    with pytest.raises(InputError, match="cannot be written"), new_folder(tmp_path / "file" / "x" / "y"):
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
    other = tmp_path / f".out.{os.getppid()}.tmp"
    other.mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"")
    assert other.exists()
