"""`pdtool evaluate --adaptive` as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def _run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pdtool", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def given(workshop: Path) -> list[object]:
    return [workshop / "bundle", "--pool", workshop / "pool", "--data", "digits", "--limit", 10]


def test_a_table_a_folder_and_a_second_run_that_makes_nothing_again(given: list[object], tmp_path: Path) -> None:
    wanted = [
        "--adaptive",
        "--threat",
        "oblivious",
        "--threat",
        "decision",
        "--epsilon",
        "64/255",
        "--epsilon",
        "0.125",
    ]
    wanted += ["--steps", "3", "--queries", "6", "--targets", "1", "--restarts", "2"]
    done = _run(*given, *wanted, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "T0 oblivious" in done.stdout and "T4 decision" in done.stdout and "31.9/255" in done.stdout
    assert "oblivious at 64/255, 3 steps" in done.stderr and "report: pdtool-adaptive/adaptive.html" in done.stderr
    out = tmp_path / "pdtool-adaptive"
    assert {path.name for path in out.iterdir()} == {"adaptive.json", "adaptive.md", "adaptive.html", "cells"}
    (out / "adaptive.json").unlink()  # as if it had been stopped at the end
    again = _run(*given, *wanted, "--json", cwd=tmp_path)
    assert again.returncode == 0 and again.stderr == ""
    document = json.loads(again.stdout)
    assert document == json.loads((out / "adaptive.json").read_text())
    assert document["format"] == "pdtool.adaptive/1" and document["command"].endswith("--restarts 2 --json")
    assert (document["targets"], document["restarts"]) == (1, 2)
    assert {cell["attempts"] for cell in document["cells"] if cell["threat"] == "oblivious"} == {2}
    assert [curve["threat"] for curve in document["curves"]] == ["oblivious", "decision"]


@pytest.mark.parametrize(
    ("extra", "code", "says"),
    [
        (["--threat", "full"], 2, "--threat goes with --adaptive"),
        (["--targets", "3"], 2, "--targets goes with --adaptive"),
        (["--restarts", "2"], 2, "--restarts goes with --adaptive"),
        (["--adaptive", "--attack", "fgsm"], 2, "--attack does not go with --adaptive"),
        (["--adaptive", "--attack-on", "cuda"], 2, "--attack-on does not go with --adaptive"),
        (["--adaptive", "--threat", "all"], 2, "unknown threat 'all'; expected one of oblivious"),
        (["--adaptive", "--epsilon", "8"], 2, "should lie above 0 and be at most 1"),
        (["--adaptive", "--epsilon", "much"], 2, "a number or a fraction such as 8/255, is 'much'"),
        (["--adaptive", "--threat", "surrogates"], 2, "add --surrogates POOL"),
        (["--adaptive", "--surrogates", "no/such"], 3, "no/such: has no pool.json"),
        (["--adaptive", "--out", "taken"], 3, "taken: holds 'letter.txt'"),
        (["--adaptive", "--memory-budget", "1KiB"], 5, "too small"),
    ],
)
def test_mistakes_are_one_line(given: list[object], tmp_path: Path, extra: list[str], code: int, says: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("keep")
    done = _run(*given, *extra, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pdtool: ")]
    assert len(lines) == 1 and says in lines[0]
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"taken"}
