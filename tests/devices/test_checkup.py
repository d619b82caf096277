"""The doctor's findings: what is missing comes with its fix, nothing private comes along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdtool.devices import packages
from pdtool.devices.check import Check, redact
from pdtool.devices.checkup import Checkup, check_up
from pdtool.jsonform import encode
from tests.devices.test_probe import ORIN, no_command, tree


def by_name(checkup: Checkup) -> dict[str, Check]:
    return {check.name: check for check in checkup.checks}


def test_here_the_base_works_and_every_line_out_of_order_has_a_fix() -> None:
    checkup = check_up()
    checks = by_name(checkup)
    assert checkup.failed == ()
    assert "CPUExecutionProvider" in checks["onnxruntime"].detail
    assert all(check.fix for check in checkup.checks if check.state in ("missing", "broken"))
    assert all(check.fix is None for check in checkup.checks if check.state in ("ok", "info"))


def test_missing_and_old_packages_name_what_they_enable_and_the_command() -> None:
    versions = {"torch": None, "scipy": "1.0.1", "foolbox": "99.0"}
    checks = by_name(check_up(find_version=lambda module: versions.get(module, "99.0")))
    assert (checks["torch"].state, checks["torch"].fix) == ("missing", "pip install 'pdtool[compress]'")
    assert checks["torch"].detail == "not installed, needed for train, compress, export"
    assert checks["scipy"].state == "broken" and checks["scipy"].detail.startswith("1.0.1, expected 1.12 or newer")
    assert checks["foolbox"].state == "ok"


def test_on_a_jetson_tensorrt_comes_with_jetpack(tmp_path: Path) -> None:
    checkup = check_up(tree(tmp_path, ORIN), no_command, find_version=lambda module: None)
    checks = by_name(checkup)
    assert checkup.device == "jetson-orin-nano-8gb-super"
    assert "L4T 36.4.3, JetPack 6.2" in checks["jetson"].detail
    assert checks["tensorrt"].fix is not None and "nvidia-jetpack" in checks["tensorrt"].fix


def test_a_broken_base_package_fails_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "BASE", ("numpy", "no_such_package"))
    works, broken = packages.base_packages()
    assert works.state == "ok"
    assert (broken.state, broken.base) == ("broken", True)
    assert "No module named 'no_such_package'" in broken.detail
    assert broken.fix == "pip install --force-reinstall no_such_package"


def test_a_library_that_kills_its_process_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(packages, "BASE", ("numpy", "deadly"))
    works, broken = packages.base_packages()
    assert works.state == "ok"
    assert broken.state == "broken" and "exit code -6" in broken.detail


@pytest.mark.parametrize("mode", [0o000, 0o666])
def test_a_camera_that_may_not_be_opened_names_the_group(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tree(tmp_path, {"dev/video0": ""}) / "dev/video0"
    monkeypatch.setattr(os, "access", lambda path, how: bool(mode) if Path(path) == node else True)
    camera = by_name(check_up(tmp_path, no_command))["camera"]
    assert camera.state == ("ok" if mode else "broken")
    assert (camera.fix is None) == bool(mode)


def test_nothing_private_is_in_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "maximilian"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "maximilian")
    (home / "numpy.py").write_text(f"raise ImportError('rtsp://maximilian:hunter2@camera in {home}/pools')\n")
    monkeypatch.setenv("PYTHONPATH", str(home))
    text = json.dumps(encode(check_up()))
    assert "pools" in text  # the failure itself is reported
    for private in ("maximilian", "hunter2", str(tmp_path)):
        assert private not in text, private


def test_redact_leaves_plain_text_alone() -> None:
    plain = "numpy 2.3.1 on AMD EPYC, see https://example.org/a, mail a@b"
    assert redact(plain) == plain


@pytest.mark.parametrize(
    "secret", ["rtsp://a:hun/ter2@camera/1", "http://camera/1?password=hunter2", "api_key=hunter2"]
)
def test_secrets_are_hidden_as_in_sources(secret: str) -> None:
    assert "ter2" not in redact(f"cannot open {secret}, see the log")


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from pdtool.devices.checkup import check_up; check_up(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'onnxruntime', 'numpy', 'tensorrt')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
