"""The README's commands and its Python work as printed, in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language):
    found = re.search(rf"^```{language}\n(.*?)^```", README, re.S | re.M)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the README's commands were run, one after another."""
    folder = tmp_path_factory.mktemp("readme")
    for command in block("sh").splitlines():
        arguments = shlex.split(command)
        assert arguments[0] == "pdtool", command
        done = subprocess.run(
            [sys.executable, "-m", "pdtool", *arguments[1:]], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    return folder


def test_every_command_of_the_way_by_hand_works(folder):
    assert (folder / "pool" / "pool.json").is_file()
    assert (folder / "bundle" / "calibration.json").is_file()
    assert "<html" in (folder / "profile.html").read_text()
    assert (folder / "evaluation" / "report.html").is_file()


def test_the_python_example_works(folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block("python")], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_the_command_table_is_complete():
    from pdtool.cli.main import app

    commands = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert set(re.findall(r"^\| `pdtool (\w+)`", README, re.M)) == commands


def test_links_and_named_files_exist():
    root = Path(__file__).parents[1]
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"):
        assert (root / name).is_file()
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / target).exists(), target
