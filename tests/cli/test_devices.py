"""`pdtool devices`: results on stdout, one JSON document with --json, an unknown board suggests others."""

import json

import pytest

from pdtool.cli.main import app
from pdtool.devices.catalogue import all_devices
from pdtool.errors import UsageError


def test_list_shows_every_board_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    app(["devices", "list"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert all(f" {device.id} " in out for device in all_devices())
    assert err == ""


def test_list_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    app(["devices", "list", "--json"], standalone_mode=False)
    boards = json.loads(capsys.readouterr().out)
    assert [board["id"] for board in boards] == [device.id for device in all_devices()]
    assert all(isinstance(board["memory_bytes"], int) for board in boards)


def test_show_prints_figures_with_basis_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    app(["devices", "show", "orin-nano-8gb"], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.startswith("Jetson Orin Nano 8GB\n")
    for line in ("8 GB shared with the CPU, 68 GB/s", "fp32 peak        1.28 TFLOP/s", "based on", "source", "JetPack"):
        assert line in out


def test_show_says_unknown_rather_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    app(["devices", "show", "jetson-nano"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "int8 peak        unknown" in out and "None" not in out
    app(["devices", "show", "jetson-nano", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["int8_ops"] is None


def test_an_unknown_board_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="did you mean jetson-xavier-nx") as caught:
        app(["devices", "show", "xaver-nx"], standalone_mode=False)
    assert caught.value.exit_code == 2
    assert capsys.readouterr().out == ""
