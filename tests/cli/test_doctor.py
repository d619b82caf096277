"""`pdtool doctor`: a line a finding, fixes at their ends, exit code 4 only where the base is broken."""

import json

import pytest

from pdtool.cli.main import app
from pdtool.devices import packages
from pdtool.errors import MissingError


def test_every_missing_line_ends_with_a_fix(capsys: pytest.CaptureFixture[str]) -> None:
    app(["doctor"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "system" and any(line.startswith("  ok       onnxruntime: ") for line in lines)
    for line in lines:
        assert ("; fix: " in line) == line.startswith(("  missing ", "  broken "))


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    app(["doctor", "--json"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "pdtool.doctor/1"
    assert {check["state"] for check in document["checks"]} <= {"ok", "missing", "broken", "info"}
    assert document["machine"]["cores"] >= 1


def test_a_broken_base_is_reported_whole_and_ends_with_code_4(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "BASE", ("numpy", "no_such_package"))
    with pytest.raises(MissingError, match="no_such_package does not work here .*--force-reinstall") as caught:
        app(["doctor"], standalone_mode=False)
    assert caught.value.exit_code == 4
    assert "hardware" in capsys.readouterr().out  # the rest of the report is there
