"""`pdtool evaluate` as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from pdtool.cli.main import app
from pdtool.evaluation.attacks import PRESETS
from pdtool.evaluation.controls import CONTROLS
from pdtool.evaluation.detectors import DETECTORS


def _run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pdtool", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize(("option", "table"), [("preset", PRESETS), ("control", CONTROLS), ("baseline", DETECTORS)])
def test_the_help_names_what_there_is(option: str, table: dict[str, object]) -> None:
    """Written out by hand, so that asking for help imports no attack."""
    (of,) = [each for each in get_command(app).commands["evaluate"].params if each.name == option]  # type: ignore[attr-defined]  # a group
    assert f": {', '.join(table)};" in of.help


@pytest.fixture
def given(workshop: Path) -> list[object]:
    return [workshop / "bundle", "--pool", workshop / "pool", "--data", "digits", "--limit", 40]


def test_a_table_for_people_and_a_folder(given: list[object], tmp_path: Path) -> None:
    done = _run(*given, "--attack", "fgsm:epsilon=0.1", "--attack", "pgd:steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attacked: fgsm" in done.stdout and "attacked: pgd" in done.stdout and "of them misclassified" in done.stdout
    assert "fooled the original on" in done.stderr and "report: pdtool-evaluation/report.html" in done.stderr
    assert "tries every attack on each image gets" in done.stderr and "members on average" in done.stderr
    assert (tmp_path / "pdtool-evaluation" / "report.html").stat().st_size > 20_000
    assert {path.name for path in tmp_path.iterdir()} == {"pdtool-evaluation"}


def test_json_is_one_document_and_quiet_is_quiet(given: list[object], tmp_path: Path) -> None:
    done = _run(*given, "--attack", "fgsm:epsilon=0.1", "--json", "--quiet", "--out", "e", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "e" / "report.json").read_text())
    assert document["format"] == "pdtool.evaluation/3" and document["clean"]["every"]["count"] == 40
    assert document["command"].endswith("--attack fgsm:epsilon=0.1 --json --quiet --out e")


@pytest.mark.parametrize(
    ("extra", "code", "says"),
    [
        (["--attack", "none"], 2, "unknown attack 'none'; expected one of fgsm"),
        (["--preset", "none"], 2, "unknown preset 'none'; expected one of"),
        (["--control", "fog"], 2, "unknown control 'fog'; expected one of"),
        (["--limit-attack", "fgsm"], 2, "--limit-attack should be NAME=N"),
        (["--baseline", "all"], 2, "add --baseline-data DATA"),
        (["--foreign", "no/such"], 3, "no/such: does not exist"),
        (["--compare", "."], 3, "no bundle.json in it"),
        (["--attack", "fgsm:epsilon=a lot"], 2, "expected a number or a fraction"),
        (["--data", "no/such"], 3, "no/such: does not exist"),
        (["--pool", "."], 3, "has no pool.json"),
        (["--out", "taken"], 3, "taken: exists already"),
        (["--memory-budget", "1KiB"], 5, "too small"),
        (["--attack-on", "tpu"], 2, "should be auto, cpu or cuda, is 'tpu'"),
    ],
)
def test_mistakes_are_one_line(given: list[object], tmp_path: Path, extra: list[str], code: int, says: str) -> None:
    (tmp_path / "taken").mkdir()
    done = _run(*given, *extra, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pdtool: ")]
    assert len(lines) == 1 and says in lines[0]
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"taken"}


def test_a_preset_controls_and_shared_images(given: list[object], tmp_path: Path) -> None:
    options = [*given, "--preset", "quick", "--control", "jpeg", "--limit-attack", "pgd=10", "--images", "images"]
    done = _run(*options, "--out", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("fgsm epsilon=0.0075", "fgsm epsilon=0.03", "deepfool", "pgd"):
        assert f"attacked: {name} " in done.stdout
    assert "control: jpeg" in done.stdout
    again = _run(*options, "--out", "b", cwd=tmp_path)
    assert again.returncode == 0 and again.stderr.count("attacked images are in images already") == 4
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("a", "b"))
    assert first["attacks"] == second["attacks"] and first["benign"] == second["benign"]
    assert next(a["given"] for a in first["attacks"] if a["name"] == "pgd") == 10
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "images"}
