"""`pdtool export`: precisions, what is said beside the table, and mistakes before anything is written."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import typer

from pdtool.cli import output
from pdtool.cli.main import app
from pdtool.data import load_data
from pdtool.errors import GateError, InputError, UsageError


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "quiet", False)


def run(*arguments: str | Path) -> None:
    app(["export", *map(str, arguments)], standalone_mode=False)


def test_int8_says_where_its_ranges_come_from_and_what_the_board_makes_of_it(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(workshop / "pool", "--out", out, "--precision", "int8", "--device", "jetson-tx2")
    said, notes = capsys.readouterr()
    assert "ONNX int8, judged on 32 images" in said and "labels as fp32" in said
    assert "the ranges of int8 come from half of the pool's few samples" in notes
    assert "int8 is for GPUs: on a CPU ONNX Runtime is no faster" in notes
    assert "Jetson TX2 8GB has no known int8 peak: it may be slower there than fp32" in notes
    app(["bundle", "inspect", str(out)], standalone_mode=False)
    assert "10 classes, int8, not calibrated" in capsys.readouterr().out
    document = json.loads((out / "bundle.json").read_text())
    assert document["precision"] == "int8" and document["members"][0]["parity"]["images"] == 32


def test_trying_tells_the_images_apart_and_finds_bad_ones(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = (workshop / "pool", "--out", out, "--dry-run", "--precision", "int8", "--calibration-data")
    run(*common, "digits", "--json", "--device", "orin-nano-8gb")
    said, notes = capsys.readouterr()
    document = json.loads(said)
    train = load_data("digits", (1, 32, 32), role="train").images
    assert (document["precision"], document["images_ranges"]) == ("int8", 256)
    assert document["images_judged"] == len(train) // 2
    assert "no known" not in notes and "with ranges from 256 others" in notes
    np.savez(tmp_path / "one.npz", images=train[:1])
    with pytest.raises(InputError, match="one.npz holds 1 images"):
        run(*common, tmp_path / "one.npz")
    assert os.listdir(tmp_path) == ["one.npz"]


def test_packs_are_shown_measured_and_verified(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(workshop / "pool", "--out", out, "--pack", "3", "--format", "onnx")
    said, notes = capsys.readouterr()
    assert sum("in its pack" in line for line in said.splitlines()) == 5  # of 8 members, 3 come first in their file
    document = json.loads((out / "bundle.json").read_text())
    assert document["pack"] == 3
    pays = document["pack_ratio"] <= 0.9
    assert "a pack of 3 takes " in notes and ("--pack 1 serves as well here" in notes) == (not pays)
    app(["bundle", "verify", str(out), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["files"] == 4 + 2
    app(["bundle", "inspect", str(out)], standalone_mode=False)
    assert sum("in its pack" in line for line in capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("count", "said"), [(1, "no pack pays on this machine: the best takes 95"), (4, "packed by 4: ")]
)
def test_auto_says_what_it_found(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, count: int,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("pdtool.export.pack.ratio_of", lambda m, image, load: 0.5 if len(m) == count else 0.95)
    run(workshop / "pool", "--out", tmp_path / "out", "--pack", "auto")
    assert said in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["pack"] == count


def test_trying_packs(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = (
        workshop / "pool",
        "--out",
        tmp_path / "out",
        "--dry-run",
        "--format",
        "tensorrt",
        "--show-trtexec",
        "--pack",
    )
    run(*call, "3", "--json")
    said, notes = capsys.readouterr()
    assert json.loads(said)["pack"] == 3 and "8 members, 3 a file, at fp32" in notes
    assert [line.split("=")[2].split()[0] for line in notes.splitlines() if line.startswith("trtexec")] == [
        "original.plan", "pack-000.plan", "pack-001.plan", "pack-002.plan",
    ]  # fmt: skip
    run(*call, "auto")
    said, notes = capsys.readouterr()
    assert "packed as measured, at fp32" in notes and "once it has measured: no trtexec lines" in notes and not said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bad", ["0", "-1", "1.5", "many", "", "²"])
def test_what_is_no_number_of_members_is_refused(workshop: Path, tmp_path: Path, bad: str) -> None:
    with pytest.raises(UsageError, match="--pack should be a number of members from 1 on, or auto, is '"):
        run(workshop / "pool", "--out", tmp_path / "out", f"--pack={bad}")
    assert os.listdir(tmp_path) == []


def test_the_bound_is_the_users_and_a_number(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = (workshop / "pool", "--out", tmp_path / "out", "--precision", "fp16", "--min-agreement")
    with pytest.raises((UsageError, typer.BadParameter)):  # whoever looks first: typer's newer versions, or pdtool
        run(*call, "nan")

    def constant(model: bytes, images: np.ndarray, *, name: str) -> np.ndarray:
        answers.append(name)
        logits = np.zeros((len(images), 10), dtype=np.float32)
        logits[:, len(answers) % 2] = 1
        return logits

    answers: list[str] = []
    monkeypatch.setattr("pdtool.export.bundle.logits_of", constant)
    with pytest.raises(GateError, match=r"original: .* agrees with fp32 at fp16 on 0.0% .* asks for 12.5%"):
        run(*call, "0.125")
    assert os.listdir(tmp_path) == []
