"""`pdtool demo` from start to end, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path) -> None:
    done = _demo("--members", "8", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "pdtool-demo"
    assert {path.name for path in out.iterdir()} == LEFT
    shown = [line[2:] for line in done.stderr.splitlines() if line.startswith("$ pdtool ")]
    assert [line.split()[1] for line in shown] == ["train", "compress", "export", "calibrate", "evaluate", "screen"]
    assert (out / "commands.sh").read_text().splitlines()[2:] == shown
    document = json.loads((out / "demo.json").read_text())
    parts = {part["name"]: part for part in document["stream"]}
    assert set(parts) == {"clean", "fgsm", "deepfool"}
    assert parts["clean"]["cleared"]["share"] > 0.85  # the calibration promises at most 10 % false alarms
    assert parts["deepfool"]["flagged"]["share"] > 0.8
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == sum(part["frames"] for part in parts.values())
    assert "<svg" in (out / "report.html").read_text()

    # what was printed can be typed: the same commands by hand, in another folder, give the same verdicts
    again = tmp_path / "again"
    (again / "pdtool-demo").mkdir(parents=True)
    by_hand = subprocess.run(
        ["sh", str(out / "commands.sh")],
        cwd=again,
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert by_hand.returncode == 0, by_hand.stderr
    other = [json.loads(line) for line in (again / "pdtool-demo" / "verdicts.jsonl").read_text().splitlines()]
    for line in (*lines, *other):
        del line["time"], line["latency_ms"]
    assert other == lines
    for name in ("model.safetensors", "pool/members/m007.safetensors", "evaluation/mixed.npz"):
        assert (again / "pdtool-demo" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_json_is_one_document(tmp_path: Path) -> None:
    done = _demo("--members", "8", "--json", "--quiet", "--out", "d", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["format"] == "pdtool.demo/1"
