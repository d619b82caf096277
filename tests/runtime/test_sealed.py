"""Folders that another program fills: what no seal records goes, what a seal records is unchanged or an error."""

from pathlib import Path

import pytest

from pdtool.errors import InputError, IntegrityError
from pdtool.runtime.sealed import open_sealed, seal


def test_sealed_files_stay_and_others_go(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    open_sealed(folder)
    (folder / "one").write_bytes(b"1")
    (folder / "two").write_bytes(b"2")
    seal(folder)
    (folder / "three").write_bytes(b"of a build that did not end")
    (folder / "two").unlink()
    open_sealed(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["one", "sha256.json"]
    seal(folder)
    assert "two" not in (folder / "sha256.json").read_text()


def test_a_changed_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    seal(tmp_path)
    (tmp_path / "one").write_bytes(b"I")
    with pytest.raises(IntegrityError, match=f"one: SHA-256 is not the recorded one; delete {tmp_path}"):
        open_sealed(tmp_path)


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sha256.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        open_sealed(tmp_path)


def test_a_seal_that_holds_is_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    seal(tmp_path)
    before = (tmp_path / "sha256.json").stat().st_ino  # a write is a new file
    seal(tmp_path)
    assert (tmp_path / "sha256.json").stat().st_ino == before


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        open_sealed(tmp_path / "file" / "folder")
