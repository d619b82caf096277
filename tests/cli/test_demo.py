"""`pdtool demo` from start to end, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdtool.cli.main import app
from pdtool.evaluation.demo import DemoResult
from pdtool.jsonform import decode

LEFT = {
    "model.safetensors",
    "pool",
    "bundle",
    "evaluation",
    "verdicts.jsonl",
    "report.html",
    "report.json",
    "demo.json",
    "commands.sh",
}


def _demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pdtool", "demo", *arguments]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def test_a_folder_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "pdtool-demo").mkdir()
    (tmp_path / "pdtool-demo" / "mine.txt").write_text("keep")
    done = _demo(cwd=tmp_path)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.strip() == (
        "pdtool: pdtool-demo: is not empty; choose another --out or add --force to replace the demo in it"
    )
    assert [path.name for path in (tmp_path / "pdtool-demo").iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The demo's folder and what it printed, run as a person does who reads notes and keeps the JSON."""
    folder = tmp_path_factory.mktemp("demo")
    done = _demo("--members", "8", "--seed", "1", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "pdtool-demo", done


def test_the_whole_way(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = whole
    assert {path.name for path in out.iterdir()} == LEFT
    shown = [line[2:] for line in done.stderr.splitlines() if line.startswith("$ pdtool ")]
    assert [line.split()[1] for line in shown] == ["train", "compress", "export", "calibrate", "evaluate", "screen"]
    assert (out / "commands.sh").read_text().splitlines()[2:] == shown
    document = json.loads(done.stdout)  # one document, though six commands print results of their own
    assert document == json.loads((out / "demo.json").read_text()) and document["format"] == "pdtool.demo/1"
    parts = {part["name"]: part for part in document["stream"]}
    assert set(parts) == {"clean", "fgsm", "deepfool"}
    assert parts["clean"]["cleared"]["share"] > 0.85  # the calibration promises at most 10 % false alarms
    assert parts["deepfool"]["flagged"]["share"] > 0.8
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == sum(part["frames"] for part in parts.values())
    assert "<svg" in (out / "report.html").read_text()


def test_the_table_says_what_the_document_says(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = whole
    document = json.loads((out / "demo.json").read_text())
    made = decode(DemoResult, document, file="demo.json")
    monkeypatch.setattr("pdtool.evaluation.demo.run_demo", lambda *arguments, **more: made)
    app(["demo", "--out", "there"], standalone_mode=False)
    said = capsys.readouterr()
    rows = {line.split("│")[1].strip(): line for line in said.out.splitlines() if line.startswith("│")}
    assert rows.keys() == {"clean", "fgsm", "deepfool"}
    for part in document["stream"]:
        cells = [cell.strip() for cell in rows[part["name"]].split("│")]
        for name, cell in (("cleared", cells[3]), ("flagged", cells[4]), ("corrected", cells[5])):
            events, count = part[name]["events"], part[name]["count"]
            assert cell.endswith(f"({events} of {count})") if count else cell == ""
        assert cells[2] == str(part["frames"]) and cells[7] == f"{part['cost']:.1f} x"
    assert "report: pdtool-demo/report.html" in said.err


@pytest.mark.slow
def test_what_was_printed_can_be_typed(whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """The same commands by hand, in another folder, give the same verdicts."""
    out, _ = whole
    (tmp_path / "pdtool-demo").mkdir()
    by_hand = subprocess.run(
        ["sh", str(out / "commands.sh")],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert by_hand.returncode == 0, by_hand.stderr
    lines, other = (
        [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
        for folder in (out, tmp_path / "pdtool-demo")
    )
    for line in (*lines, *other):
        del line["time"], line["latency_ms"]
    assert other == lines
    for name in ("model.safetensors", "pool/members/m007.safetensors", "evaluation/mixed.npz"):
        assert (tmp_path / "pdtool-demo" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_quiet_is_quiet(tmp_path: Path) -> None:
    done = _demo("--members", "2", "--json", "--quiet", "--out", "d", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["format"] == "pdtool.demo/1"
