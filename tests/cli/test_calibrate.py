"""`pdtool calibrate --report`: the page beside the table, and mistakes before anything is measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pdtool.cli.main import app
from pdtool.errors import InputError, MissingError, UsageError


@pytest.fixture
def plain(workshop: Path, tmp_path: Path) -> Path:
    """A bundle that was never calibrated."""
    return Path(shutil.copytree(workshop / "plain", tmp_path / "plain"))


def run(bundle: Path, *arguments: str | Path) -> None:
    command = ["calibrate", bundle, "--data", "digits", "--target-fpr", "0.15", *arguments]
    app([str(part) for part in command], standalone_mode=False)


@pytest.mark.parametrize(("rule", "said"), [("optimal", "margin"), ("wald", "label")])
def test_a_report_is_written_beside_what_is_printed(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, said: str
) -> None:
    run(plain, "--rule", rule, "--report", tmp_path / "r.html", "--fps", "10")
    out, err = capsys.readouterr()
    assert f"({rule}, {said} evidence" in out and f"report: {tmp_path / 'r.html'}\n" in err
    page = (tmp_path / "r.html").read_text()
    stored = json.loads((plain / "calibration.json").read_text())
    assert page.startswith("<!doctype html>") and page.count("<svg") == 8
    assert f"<title>Calibration: {rule}, {said} evidence</title>" in page
    assert f"{36_000 * stored['realised_fpr']:,.0f}" in page and "at 10 frames a second" in page
    assert str(tmp_path) not in page


def test_json_is_one_document_beside_the_report(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(plain, "--json", "--report", tmp_path / "r.html")
    assert json.loads(capsys.readouterr().out)["format"] == "pdtool.calibration/1"
    assert (tmp_path / "r.html").is_file()


def test_mistakes_are_found_before_anything_is_measured(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (plain / "bundle.json").read_bytes()
    for error, code, out in ((InputError, 3, "no/such/r.html"), (UsageError, 2, "r.txt")):
        with pytest.raises(error) as raised:
            run(plain, "--report", tmp_path / out)
        assert raised.value.exit_code == code
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingError, match="jinja2 is needed to write an HTML report"):
        run(plain, "--report", tmp_path / "r.html")
    assert (plain / "bundle.json").read_bytes() == before
    assert not (plain / "calibration.json").exists() and not (tmp_path / "r.html").exists()


def test_without_matplotlib_one_line_says_what_to_install(plain: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['matplotlib'] = None; from pdtool.__main__ import main; main()"
    arguments = ["calibrate", str(plain), "--data", "digits", "--report", str(tmp_path / "r.html")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.strip() == (
        "pdtool: matplotlib is needed to draw the plots of a report but is not installed; run: pip install "
        "'pdtool[evaluate]'"
    )
    assert not (plain / "calibration.json").exists()
