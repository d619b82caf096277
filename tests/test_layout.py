"""The two views of a room, its folder and its link in pdtool/, agree with what gets installed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "compress", "export", "runtime", "calibration", "devices", "evaluation")


@pytest.mark.parametrize("room", ROOMS)
def test_the_link_of_a_room_leads_to_its_folder(room):
    link = ROOT / "pdtool" / room
    assert link.is_symlink(), f"make it: ln -s ../{room} pdtool/{room}"
    assert link.readlink() == Path("..") / room
    assert (ROOT / room / "__init__.py").is_file()


def test_every_package_is_installed():
    text = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = \[(.*?)\]", text, re.S | re.M)
    assert packages is not None
    listed = set(re.findall(r'"([\w.]+)"', packages[1]))
    assert listed == {"pdtool", *(f"pdtool.{room}" for room in ROOMS)}
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert folders == {Path(room) for room in ROOMS}, "rooms stay flat"


def test_data_files_of_the_rooms_are_installed():
    text = (ROOT / "pyproject.toml").read_text()
    others = {p.suffix for room in ROOMS for p in (ROOT / room).iterdir() if p.is_file() and p.suffix != ".py"}
    for suffix in others:
        assert f'"*{suffix}"' in text, f"package-data lacks *{suffix}"


def test_the_version_is_the_changelogs():
    import pdtool

    assert re.search(rf"^## {re.escape(pdtool.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert f'version = "{pdtool.__version__}"' in (ROOT / "pyproject.toml").read_text()
