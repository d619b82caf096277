"""Plans written by an export, on fakes of TensorRT's lines: measured, compared, and the same as trtexec would build."""

import shlex
import shutil

import numpy as np
import pytest

from pdtool.errors import GateError, IntegrityError
from pdtool.export.engines import PlanBuild, export_plans, plan_loader, trtexec_line
from pdtool.runtime.build_plan import BuildOptions, build_plan
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.engine_loader import engine_loader
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.plan_cache import PlanCache
from pdtool.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import LINES, FakeTensorRT


@pytest.fixture
def opened(workshop, tmp_path):
    return open_bundle(shutil.copytree(workshop / "plain", tmp_path / "bundle"))


@pytest.fixture(params=LINES)
def session(request):
    memory = FakeMemory()
    session = TensorRTSession(FakeTensorRT(request.param, memory), memory)
    yield session
    session.close()


@pytest.fixture(scope="module")
def images():
    """Real scans of digits."""
    datasets = pytest.importorskip("sklearn.datasets")
    small = datasets.load_digits().images[:40].repeat(4, axis=1).repeat(4, axis=2)
    return (small * 255 / 16).astype(np.uint8)[..., None]


def export(opened, session, **options):
    build = PlanBuild(session.trt, session, BuildOptions())
    return export_plans(opened.folder, opened.models, opened.bundle.precision, build, **options)


def test_each_plan_is_measured_and_compared_with_its_file(opened, session, images):
    steps: list[int] = []
    records = export(opened, session, images=images, advance=steps.append)
    assert [record.model for record in records] == [model.id for model in opened.models]
    assert steps == [1] * len(records)
    for record in records:
        assert record.parity is not None
        assert (record.parity.images, record.parity.label_agreement) == (40, 1.0)
        assert record.parity.max_difference < 1e-4
        assert record.measured_bytes == record.plan.bytes
    assert session.trt.alive["engine"] == 0  # one at a time


def test_a_device_takes_the_exported_plans_and_builds_none(opened, session):
    export(opened, session)
    before = session.trt.events.count("build")
    load = engine_loader(opened, session, PlanCache(opened.folder))
    for model in opened.models:
        load(model).close()
    assert session.trt.events.count("build") == before == len(opened.models)


def test_plans_that_answer_otherwise_fail_the_export_and_are_not_kept(opened, session, images):
    session.trt.wrong = True
    with pytest.raises(GateError, match=r"original: the plan agrees with its ONNX file on \d+\.\d% of 40 images"):
        export(opened, session, images=images)
    assert not (opened.folder / "engines").exists()
    assert session.trt.alive["engine"] == 0
    assert export(opened, session, images=images, min_agreement=0.0)[0].parity.label_agreement < 0.5


def test_a_gpu_without_room_ends_an_export_and_leaves_no_engine(opened, session, images):
    session.memory.total = 2**14
    with pytest.raises(GateError, match="original: the GPU has no room"):
        export(opened, session, images=images)
    load = plan_loader(PlanBuild(session.trt, session, BuildOptions()), "fp32")
    assert load is not None
    with pytest.raises(GateError, match="a member: the GPU has no room"):
        load(opened.read(opened.bundle.original.file))
    assert session.trt.alive["engine"] == 0


def test_a_plan_without_a_reference_leaves_no_engine(opened, session, images, monkeypatch):
    def no_memory(self, batch):
        raise MemoryError("the reference: no memory to run")

    def watched(self):
        closed.append(self.name)
        close(self)

    closed: list[str] = []
    close = OnnxEngine.close
    monkeypatch.setattr(OnnxEngine, "run", no_memory)
    monkeypatch.setattr(OnnxEngine, "close", watched)
    with pytest.raises(GateError, match="the reference: no memory to run"):
        export(opened, session, images=images)
    assert "original" in closed and session.trt.alive["engine"] == 0


def test_a_changed_file_is_not_built(opened, session):
    path = opened.folder / opened.bundle.members[-1].file.path
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match=path.name):
        export(opened, session)


@pytest.mark.parametrize(
    ("line", "precision", "words"),
    [
        ("8.6", "fp32", ["--noTF32"]),
        ("8.6", "fp16", ["--fp16"]),
        ("8.6", "int8", ["--int8"]),
        ("10.3", "fp32", ["--noTF32", "--stronglyTyped"]),
        ("10.3", "int8", ["--stronglyTyped"]),
        ("11.4", "fp16", []),
        ("rtx", "fp16", []),
    ],
)
def test_the_trtexec_line_says_what_the_build_did(line, precision, words, digits_onnx):
    trt = FakeTensorRT(line, FakeMemory())
    options = BuildOptions(precision=precision, batch_min=2, batch_opt=4, batch_max=8, workspace=3, level=5)
    said = shlex.split(trtexec_line("a b.onnx", "m0.plan", (1, 32, 32), options, trt=trt))
    assert said[:7] == [
        "tensorrt_rtx" if line == "rtx" else "trtexec",
        "--onnx=a b.onnx",
        "--saveEngine=m0.plan",
        "--minShapes=input:2x1x32x32",
        "--optShapes=input:4x1x32x32",
        "--maxShapes=input:8x1x32x32",
        "--memPoolSize=workspace:3B",
    ]
    assert said[7:] == ["--builderOptimizationLevel=5", *words, "--skipInference"]
    build_plan(trt, digits_onnx, options, name="m0")
    flags = {flag.name for flag in trt.config._flags}
    assert ("TF32" in flags) == ("--noTF32" not in words)
    assert ("FP16" in flags, "INT8" in flags) == ("--fp16" in words, "--int8" in words)


@pytest.fixture(scope="module")
def digits_onnx(workshop):
    return (workshop / "plain/models/original.onnx").read_bytes()
