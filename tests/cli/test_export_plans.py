"""`pdtool export --format tensorrt`: plans beside the files, on a fake TensorRT; real builds are in tests/export."""

import json
import os

import pytest
import typer

from pdtool.artifacts import BuildOptions
from pdtool.cli import output
from pdtool.cli.main import app
from pdtool.errors import MissingError, UsageError
from pdtool.export import engines
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import FakeTensorRT


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setattr(output, "quiet", False)


def run(*arguments):
    app(["export", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def tensorrt(monkeypatch):
    """A TensorRT 10.3 with a GPU."""
    memory = FakeMemory()
    trt = FakeTensorRT("10.3", memory)
    monkeypatch.setattr(engines, "find_tensorrt", lambda library: trt)
    monkeypatch.setattr(engines, "open_session", lambda library: TensorRTSession(trt, memory))
    return trt


def test_plans_are_written_measured_and_compared(workshop, tmp_path, tensorrt, capsys):
    out = tmp_path / "out"
    run(workshop / "pool", "--out", out, "--format", "tensorrt", "--batch-opt", "2", "--batch-max", "8", "--json",
        "--workspace", "64MiB", "--tactic-dram", "1GiB", "--opt-level", "2", "--show-trtexec")  # fmt: skip
    said, notes = capsys.readouterr()
    opened = open_bundle(out)
    assert json.loads(said)["digest"] == opened.bundle.digest  # one document: the lines go where notes go
    assert notes.count("trtexec --onnx=") == len(opened.models)
    for model in opened.models:
        (path,) = out.glob(f"engines/*/{model.id}.json")
        record = json.loads(path.read_text())
        assert (record["batch_min"], record["batch_opt"], record["batch_max"]) == (1, 2, 8)
        assert record["parity"]["label_agreement"] == 1.0 and record["measured_bytes"] > 0
    assert tensorrt.config._pools == {"WORKSPACE": 2**26, "TACTIC_DRAM": 2**30} and tensorrt.config._level == 2
    assert notes.count("--memPoolSize=workspace:67108864B --builderOptimizationLevel=2") == len(opened.models)
    assert opened.bundle.build == BuildOptions(
        batch_opt=2, batch_max=8, workspace=2**26, tactic_dram=2**30, level=2
    )  # so that a device builds what it lacks alike
    assert tensorrt.alive == {"runtime": 0, "engine": 0, "context": 0}
    assert tensorrt.memory.closed
    run(workshop / "pool", "--out", out, "--force")  # a bundle with plans is a bundle
    assert not (out / "engines").exists() and open_bundle(out).bundle.build is None


def test_plans_that_answer_otherwise_leave_nothing(workshop, tmp_path, tensorrt):
    tensorrt.wrong = True
    with pytest.raises(Exception, match="original: the plan agrees with its ONNX file on"):
        run(workshop / "pool", "--out", tmp_path / "out", "--format", "tensorrt")
    assert os.listdir(tmp_path) == []
    assert tensorrt.memory.closed


def test_a_missing_tensorrt_is_said_before_any_work(workshop, tmp_path, monkeypatch):
    def none(library):
        raise MissingError("tensorrt is needed")

    monkeypatch.setattr(engines, "find_tensorrt", none)
    monkeypatch.setattr("pdtool.export.bundle.to_onnx", None)  # nothing is exported before
    with pytest.raises(MissingError, match="tensorrt is needed"):
        run(workshop / "pool", "--out", tmp_path / "out", "--format", "tensorrt")
    assert os.listdir(tmp_path) == []


def test_trtexec_lines_need_no_tensorrt(workshop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, "find_tensorrt", None)
    out = tmp_path / "out"
    run(workshop / "pool", "--out", out, "--format", "tensorrt", "--dry-run", "--show-trtexec", "--batch-min", "2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trtexec ")]
    assert len(lines) == 9
    assert f"--onnx={out}/models/original.onnx --saveEngine=original.plan --minShapes=input:2x1x32x32" in lines[0]
    assert "--optShapes=input:2x1x32x32 --maxShapes=input:32x1x32x32" in lines[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-max", "8"], "are for --format tensorrt, got onnx"),
        (["--show-trtexec"], "are for --format tensorrt, got onnx"),
        (["--tactic-dram", "1GiB"], "are for --format tensorrt, got onnx"),
        (["--opt-level", "0"], "are for --format tensorrt, got onnx"),
        (["--format", "tensorrt", "--tactic-dram", "0"], "--tactic-dram should be a size"),
        (["--format", "tensorrt", "--workspace", "12 potatoes"], "--workspace should be a size"),
        (["--format", "tensorrt", "--batch-min", "9", "--batch-max", "8"], "--batch-min <= --batch-opt <= --batch-max"),
        (["--format", "tensorrt", "--batch-opt", "64"], "--batch-min <= --batch-opt <= --batch-max"),
    ],
)
def test_options_that_do_not_go_together(workshop, tmp_path, tensorrt, options, said):
    with pytest.raises(UsageError, match=said):
        run(workshop / "pool", "--out", tmp_path / "out", *options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("level", ["6", "-1"])
def test_a_level_that_tensorrt_does_not_know(workshop, tmp_path, level):
    with pytest.raises(typer.BadParameter):
        run(workshop / "pool", "--out", tmp_path / "out", "--format", "tensorrt", "--opt-level", level)
