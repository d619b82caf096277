"""Folders that another program fills: what was not recorded is not read, what was is unchanged or an error."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdtool.errors import InputError, IntegrityError
from pdtool.runtime.sealed import GIVEN_UP, sealed


def fill(folder: Path, **files: str) -> Path:
    """What the other program does; returns where."""
    with sealed(folder) as path:
        for name, text in files.items():
            (path / name).write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_recorded_files_stay_and_others_are_not_seen(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    fill(folder, one="1", two="2")
    (folder / "three").write_text("of a build that did not end")
    (folder / "two").unlink()
    with sealed(folder) as path:
        assert names(path) == ["one"] and path != folder
        assert (folder / "three").exists()  # whose build may still run
    assert names(folder) == ["one", "sha256.json"] and names(folder.parent) == ["b"]
    assert "two" not in (folder / "sha256.json").read_text()


def test_a_build_that_ends_with_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), sealed(tmp_path / "a") as path:
        (path / "one").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []
    assert fill(tmp_path / "a") != tmp_path / "a" and names(tmp_path) == []  # a program that left nothing


def test_a_process_that_is_killed_harms_no_other(tmp_path: Path) -> None:
    program = (
        "import os\nimport sys\nfrom pathlib import Path\nfrom pdtool.runtime.sealed import sealed\n"
        "with sealed(Path(sys.argv[1])) as path:\n    (path / 'one').write_text('half')\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "a"], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    fill(tmp_path / "a", one="1")
    assert (tmp_path / "a" / "one").read_text() == "1" and left.exists()  # it might have been at work
    long_ago = time.time() - GIVEN_UP - 1
    os.utime(left, (long_ago, long_ago))
    fill(tmp_path / "a")
    assert left.exists()  # what is whole is only read
    (tmp_path / "a" / "more").touch()
    fill(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_of_two_builds_at_once_the_first_stays(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with sealed(folder) as first, sealed(folder) as second:
        assert first != second
        (first / "one").write_text("of the first")
        (second / "one").write_text("of the second")
        with sealed(folder) as third:
            (third / "one").write_text("of the third, which ends first")
    assert (folder / "one").read_text() == "of the third, which ends first"
    assert names(tmp_path) == ["a"]
    assert fill(folder) == folder


def test_what_is_added_is_recorded(tmp_path: Path) -> None:
    fill(tmp_path / "a", one="1")
    assert fill(tmp_path / "a", two="2") == tmp_path / "a"
    assert fill(tmp_path / "a", one="another profile") == tmp_path / "a"
    with sealed(tmp_path / "a") as path:
        assert path == tmp_path / "a" and names(path) == ["one", "sha256.json", "two"]


def test_a_changed_file_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "a", one="1")
    (tmp_path / "a" / "one").write_text("I")
    with pytest.raises(IntegrityError, match=f"one: SHA-256 is not the recorded one; delete {tmp_path / 'a'}"):
        fill(tmp_path / "a")


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "a", one="1")
    (tmp_path / "a" / "sha256.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        fill(tmp_path / "a")


def test_a_read_only_disk_will_do_where_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", one="1")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "unlink", "rename", "replace", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    assert fill(tmp_path / "a") == tmp_path / "a"
    with pytest.raises(InputError, match=r"b: cannot be written \(Read-only file system\)"):
        fill(tmp_path / "b")


def test_what_the_disk_refuses_at_the_end_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"), sealed(tmp_path / "a") as path:
        (path / "folder").mkdir()
    with pytest.raises(OSError, match="of the program"), sealed(tmp_path / "a"):
        raise OSError("of the program")


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        fill(tmp_path / "file" / "folder")
