"""`pdtool profile`: tables or one JSON document on stdout, the report as a file, mistakes before any measuring."""

import json
from pathlib import Path

import pytest

from pdtool.cli.main import app
from pdtool.errors import InputError, UsageError


def run(*arguments: str | Path) -> None:
    app(["profile", *map(str, arguments)], standalone_mode=False)


def test_tables_and_sentences_go_to_stdout(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(workshop / "bundle", "--runs", "3", "--device", "orin-nano-8gb")
    out, err = capsys.readouterr()
    for words in (
        "Counted: one image",
        "Measured here",
        "Cost of one frame",
        "clean frame, expected",
        "416.5 k",
        "833 k",
    ):
        assert words in out, words
    assert "…" not in out  # nothing is cut off at 120 columns
    assert "estimate from peak figures" in out and "FLOPs = 2 x MACs" in out
    assert err == f"measuring {workshop / 'bundle'}\n"


def test_layers_are_shown_when_asked_for(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(workshop / "plain", "--runs", "1", "--layers", "--quiet")
    out, err = capsys.readouterr()
    assert "original: layers of one image" in out and "conv1" in out and "Conv2d" in out
    assert err == ""


def test_json_is_one_document_beside_the_written_report(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workshop / "plain", "--runs", "1", "--json", "--out", tmp_path / "r.html")
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "pdtool.profile/1" and document["runs"] == 1
    assert document["models"][0]["flops"] == 2 * document["models"][0]["macs"]
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_mistakes_are_found_before_anything_is_measured(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'toaster' is not in the catalogue"):
        run(workshop / "plain", "--device", "toaster")
    with pytest.raises(UsageError, match="expected a name that ends in .html, .md, .json"):
        run(workshop / "plain", "--out", tmp_path / "report.pdf")
    with pytest.raises(InputError, match="neither pool.json nor bundle.json"):
        run(tmp_path)
