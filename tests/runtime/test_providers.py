"""Whatever runs the models, the verdicts are the same; and a calibration holds only for what it was measured with."""

import dataclasses
import json
import shutil
import tempfile

import numpy as np
import pytest

from pdtool.artifacts import BACKENDS, BuildOptions
from pdtool.calibration.rules import Settings
from pdtool.cli import output
from pdtool.cli.main import app
from pdtool.data import load_data
from pdtool.errors import GateError, IntegrityError, MissingError, UsageError
from pdtool.runtime import providers
from pdtool.runtime.bundle import open_bundle, write_bundle, write_calibration
from pdtool.runtime.calibrate import calibrate_bundle
from pdtool.runtime.providers import open_calibrated, open_provider
from pdtool.runtime.screener import Screener
from pdtool.runtime.tensorrt_session import TensorRTSession
from pdtool.runtime.votes import collect_votes
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import LINES, FakeTensorRT

SIZE = (1, 32, 32)


@pytest.fixture
def bundle(workshop, tmp_path):
    return shutil.copytree(workshop / "bundle", tmp_path / "bundle")


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(line)`: from now on `open_session` finds that TensorRT on a fake GPU; `gpu(None)`: it finds none."""
    sessions = []

    def plug(line, **memory):
        def open_session(library):
            if line is None or (library == "tensorrt-rtx") != (line == "rtx"):
                raise MissingError(f"{library} is needed to run engines but is not installed")
            fake = FakeMemory(**memory)
            sessions.append(TensorRTSession(FakeTensorRT(line, fake), fake))
            return sessions[-1]

        monkeypatch.setattr(providers, "open_session", open_session)
        return sessions

    plug(None)
    return plug


def calibrate(bundle, backend=None):
    return calibrate_bundle(
        bundle, lambda size: load_data("digits", size, role="calibrate"), Settings(), target_fpr=0.15, confidence=0.95,
        seed=0, backend=backend,
    ).calibration  # fmt: skip


def verdicts(bundle, **options):
    images = load_data("digits", SIZE, role="test", limit=60).images
    with Screener.open(bundle, seed=3, **options) as screener:
        came = [(v.label, v.verdict, v.models_used, v.changes) for v in screener.screen(images)]
    assert screener.residency.reserved == 0
    return came


@pytest.mark.parametrize("line", LINES)
def test_a_bundle_is_calibrated_and_screened_by_tensorrt(bundle, gpu, line):
    backend = "tensorrt-rtx" if line == "rtx" else "tensorrt"
    on_cpu = verdicts(bundle)
    sessions = gpu(line)
    calibration = calibrate(bundle, backend)
    version = sessions[0].trt.__version__
    assert calibration.engines == (f"tensorrt-rtx {version}" if line == "rtx" else f"tensorrt {version} cc8.7")
    assert verdicts(bundle) == on_cpu
    with Screener.open(bundle, seed=3) as screener:
        plan = screener.plan()
    assert plan.least < plan.everything
    built = sum(session.trt.events.count("build") for session in sessions)
    assert verdicts(bundle, memory_budget=plan.least) == on_cpu
    assert sum(session.trt.events.count("build") for session in sessions) == built  # the plans are in the cache
    for session in sessions:
        assert session.trt.alive == {"runtime": 0, "engine": 0, "context": 0}
        assert session.memory.closed and session.memory.engine_bytes == 0 and not session.memory.blocks


def test_the_gpu_never_holds_more_than_the_budget(bundle, gpu):
    sessions = gpu("10.3")
    calibrate(bundle, "tensorrt")
    with Screener.open(bundle, seed=3) as screener:
        least = screener.plan().least
    most = 0
    with Screener.open(bundle, seed=3, memory_budget=least) as screener:
        memory, load = sessions[-1].memory, screener.residency.load

        def watched(model):
            nonlocal most
            engine = load(model)
            most = max(most, memory.engine_bytes + sum(block.nbytes for block in memory.blocks.values()))
            return engine

        screener.residency.load = watched
        screener.screen(load_data("digits", SIZE, role="test", limit=100).images)
        assert screener.residency.counters.evictions > 0
    assert 0 < most <= least
    with pytest.raises(GateError, match="too small"):
        Screener.open(bundle, memory_budget=least - 1)
    assert sessions[-1].memory.closed


def test_a_full_gpu_leaves_frames_unscreened_and_the_stream_alive(bundle, gpu):
    sessions = gpu("10.3")
    calibrate(bundle, "tensorrt")
    images = load_data("digits", SIZE, role="test", limit=12).images
    with Screener.open(bundle, seed=3) as screener:
        screener.screen(images[:1])
        for member in screener.residency.members:  # a stream in which members are not loaded yet
            if engine := screener.residency._engines.pop(member.file.path, None):
                engine.close()
        memory = sessions[-1].memory
        memory.total = sum(block.nbytes for block in memory.blocks.values()) + memory.engine_bytes + 1000
        came = screener.screen(images)
        assert {verdict.verdict for verdict in came} == {"unscreened"}
        assert all("the GPU has no room for the engine" in (verdict.reason or "") for verdict in came)
        memory.total = 2**26
        assert "unscreened" not in {verdict.verdict for verdict in screener.screen(images)}


def test_a_calibration_holds_for_what_it_was_measured_with(bundle, gpu):
    gpu("10.3")
    calibrate(bundle, "tensorrt")
    gpu(None)
    with pytest.raises(MissingError, match=r"measured with tensorrt 10\.3\.0 cc8\.7: .*--backend onnxruntime"):
        Screener.open(bundle)
    for other in ({"line": "10.16"}, {"line": "10.3", "compute_capability": "8.6"}):
        sessions = gpu(**other)
        there = sorted(bundle.rglob("*"))
        with pytest.raises(IntegrityError, match=r"measured with tensorrt 10\.3\.0 cc8\.7, here runs tensorrt"):
            Screener.open(bundle)
        assert sessions[-1].memory.closed
        assert "build" not in sessions[-1].trt.events and sorted(bundle.rglob("*")) == there
    gpu(None)
    calibrate(bundle, "onnxruntime")
    assert verdicts(bundle)


def builds(sessions):
    return sum(session.trt.events.count("build") for session in sessions)


def without_sizes(bundle):
    """Every plan as if it had been built without a GPU."""
    for path in bundle.glob("engines/*/*.json"):
        nothing = {"device_memory_bytes": None, "measured_bytes": None, "weights_bytes": None}
        path.write_text(json.dumps(json.loads(path.read_text()) | nothing))


def test_plans_that_were_built_without_a_gpu_count_as_what_they_take(bundle, gpu):
    sessions = gpu("rtx")
    calibrate(bundle, "tensorrt-rtx")
    with Screener.open(bundle) as screener:
        plan = screener.plan()
    without_sizes(bundle)
    with Screener.open(bundle, build=False) as screener:  # a dry run writes nothing
        assert screener.plan() == plan
    assert any('"measured_bytes": null' in path.read_text() for path in bundle.glob("engines/*/*.json"))
    with Screener.open(bundle, memory_budget=plan.least) as screener:
        assert screener.plan().least == plan.least
    assert not any('"measured_bytes": null' in path.read_text() for path in bundle.glob("engines/*/*.json"))
    assert builds(sessions) == len(list(bundle.glob("models/*.onnx")))
    with pytest.raises(GateError, match="too small"):
        Screener.open(bundle, memory_budget=plan.least - 1)


@pytest.mark.parametrize("left", ["nothing", "plans of another GPU"])
def test_nothing_is_built_in_the_stream(bundle, gpu, left):
    sessions = gpu("10.3", compute_capability="8.6")
    if left != "nothing":
        with open_provider(open_bundle(bundle), "tensorrt"):
            assert builds(sessions) > 0
    gpu("10.3")
    calibrate(bundle, "tensorrt")
    images = load_data("digits", SIZE, role="test", limit=20).images
    with Screener.open(bundle, seed=3) as screener:
        least = screener.plan().least
    before = builds(sessions)
    with Screener.open(bundle, seed=3, memory_budget=least) as screener:
        screener.screen(images[:1])
        for folder in bundle.glob("engines/*-cc8.7-*"):
            shutil.rmtree(folder)
        came = screener.screen(images)
        assert builds(sessions) == before
        reasons = [verdict.reason or "" for verdict in came if verdict.verdict == "unscreened"]
        assert reasons
        for reason in reasons:
            if left == "nothing":
                assert "holds no plan [tensorrt 10.3.0, compute capability 8.7" in reason
            else:
                assert "built for [tensorrt 10.3.0, compute capability 8.6" in reason
                assert "this device needs [tensorrt 10.3.0, compute capability 8.7" in reason


def test_a_bundle_that_cannot_be_written_is_built_once_and_leaves_nothing(bundle, gpu, monkeypatch, tmp_path):
    expected = verdicts(bundle)
    sessions = gpu("10.3")
    calibrate(bundle, "tensorrt")
    with Screener.open(bundle) as screener:
        least = screener.plan().least
    shutil.rmtree(bundle / "engines")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (bundle / "engines").touch()  # no folder can be made there
    notes: list[str] = []
    before = builds(sessions)
    with Screener.open(bundle, seed=3, memory_budget=least, note=notes.append) as screener:
        models = len(screener.provider.models)
        assert screener.plan().least == least
        images = load_data("digits", SIZE, role="test", limit=60).images
        assert [(v.label, v.verdict, v.models_used, v.changes) for v in screener.screen(images)] == expected
        assert screener.residency.counters.evictions > 0
    assert builds(sessions) - before == models
    assert sum("is kept for this run alone" in note for note in notes) == models
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_dry_run_says_how_many_plans_lack_and_builds_none(bundle, gpu, monkeypatch, capsys):
    monkeypatch.setattr(output, "quiet", False)
    on_cpu = open_bundle(bundle).models
    sessions = gpu("10.3")
    calibrate(bundle, "tensorrt")
    for path in bundle.glob("engines/*/original.*"):
        path.unlink()
    there, before = sorted(bundle.rglob("*")), builds(sessions)
    app(["screen", str(bundle), "--source", "test:pattern", "--dry-run"], standalone_mode=False)
    said = capsys.readouterr().err
    assert f"1 of {len(on_cpu)} plans for tensorrt 10.3.0 cc8.7 lack and are built first" in " ".join(said.split())
    assert builds(sessions) == before and sorted(bundle.rglob("*")) == there
    with Screener.open(bundle, build=False) as screener:
        assert screener.provider.models[0] == on_cpu[0] and screener.provider.models[1] != on_cpu[1]
    with Screener.open(bundle):
        assert builds(sessions) == before + 1


def test_a_bundle_for_tensorrt_falls_back_to_the_cpu_when_it_is_calibrated(bundle, gpu, caplog):
    opened = open_bundle(bundle)
    write_bundle(bundle, type(opened.bundle)(**{**vars(opened.bundle), "backend": "tensorrt", "calibration": None}))
    assert calibrate(bundle).engines == "onnxruntime"
    assert "calibrating with ONNX Runtime on the CPU" in caplog.text
    gpu("10.3")
    assert calibrate(bundle).engines == "tensorrt 10.3.0 cc8.7"
    gpu(None)
    with pytest.raises(MissingError, match="tensorrt is needed"):  # asked for by name
        calibrate(bundle, "tensorrt")


@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_a_calibration_is_held_to_the_version_that_measured_it_on_a_gpu(bundle, backend):
    opened = open_bundle(bundle)
    assert opened.calibration is not None
    with open_provider(opened, backend) as provider:
        engines = provider.engines
    calibrated = dataclasses.replace(opened, calibration=dataclasses.replace(opened.calibration, engines=engines))
    with open_calibrated(calibrated) as provider:
        assert provider.engines == engines
    other = dataclasses.replace(opened.calibration, engines=f"{backend} 1.2.3")
    with pytest.raises(IntegrityError, match=rf"measured with {backend} 1\.2\.3, here runs {backend}"):
        open_calibrated(dataclasses.replace(opened, calibration=other))


@pytest.mark.parametrize("engines", ["onnxruntime-cuda 1.31.1", "onnxruntime-tensorrt 1.31.1"])
def test_a_memory_budget_that_nobody_could_keep_is_refused(bundle, engines):
    opened = open_bundle(bundle)
    assert opened.calibration is not None
    write_calibration(opened, dataclasses.replace(opened.calibration, engines=engines))
    with pytest.raises(UsageError, match=f"{engines.split()[0]} does not say what models take on the GPU"):
        Screener.open(bundle, memory_budget="64MiB")


def test_no_backend_falls_back_in_silence(bundle, gpu):
    for backend in BACKENDS[1:]:
        with pytest.raises(MissingError) as caught, open_provider(open_bundle(bundle), backend) as provider:
            provider.load(provider.models[0])
        assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_onnxruntimes_tensorrt_is_built_within_the_exports_bounds_for_every_batch(bundle, monkeypatch):
    opened = open_bundle(bundle)
    most = opened.bundle.measured_batch
    build = BuildOptions(batch_min=2, batch_opt=3, batch_max=5, workspace=2**20, level=1)
    write_bundle(bundle, dataclasses.replace(opened.bundle, build=build))
    asked = []
    monkeypatch.setattr(providers, "OnnxEngine", lambda model, **options: asked.append(options))
    with open_provider(open_bundle(bundle), "onnxruntime-tensorrt") as provider:
        provider.load(provider.models[0])
    assert asked[0]["build"] == dataclasses.replace(build, batch_min=1, batch_max=most)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_votes_do_not_depend_on_the_cores(bundle, threads):
    images = load_data("digits", SIZE, role="test", limit=70).images
    opened = open_bundle(bundle)
    plain = collect_votes(opened, images, fit_on=np.arange(70))
    with open_provider(opened, "onnxruntime", threads=threads) as provider:
        came = collect_votes(opened, images, fit_on=np.arange(70), provider=provider)
    assert np.array_equal(came.original, plain.original) and np.array_equal(came.members, plain.members)
    assert came.grading is not None and plain.grading is not None
    assert came.grading.temperatures == pytest.approx(plain.grading.temperatures, rel=1e-4)
    assert verdicts(bundle, threads=threads) == verdicts(bundle, threads=1)
