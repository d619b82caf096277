"""The cache of plans: what is taken from it, what is built, what is refused before TensorRT sees a byte."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pdtool.artifacts import BuildOptions
from pdtool.errors import InputError, IntegrityError
from pdtool.files import sha256_bytes, write_atomic
from pdtool.images import as_input
from pdtool.runtime import plan_cache
from pdtool.runtime.bundle import open_bundle, write_bundle
from pdtool.runtime.engine_loader import build_missing, engine_loader, measured_records
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.need import need
from pdtool.runtime.plan_cache import PlanCache
from pdtool.runtime.plans import EngineKey, check_header, read_header
from pdtool.runtime.residency import Residency
from pdtool.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import FakeTensorRT


def session_of(line="10.3", compute_capability="8.7"):
    memory = FakeMemory(compute_capability=compute_capability)
    return TensorRTSession(FakeTensorRT(line, memory), memory)


@pytest.fixture
def session():
    session = session_of()
    yield session
    session.close()


@pytest.fixture
def opened(bundle):
    return open_bundle(bundle)


@pytest.fixture
def cache(opened):
    with PlanCache(opened.folder) as cache:
        yield cache


def built(opened, session, *models):
    """Build what lacks and load the last of the models."""
    cache = PlanCache(opened.folder)
    build_missing(opened, session, cache, models=models)
    return engine_loader(opened, session, cache)(models[-1])


def records(opened):
    return sorted((opened.folder / "engines").glob("*/*.json"))


def test_a_plan_is_built_once_and_answers_as_the_onnx_file_does(opened, session, cache):
    notes: list[str] = []
    load = engine_loader(opened, session, cache)
    model = opened.bundle.members[0]
    batch = as_input(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), dtype=np.uint8))
    answers = []
    for _ in range(2):
        build_missing(opened, session, cache, models=[model], note=notes.append)
        engine = load(model)
        answers.append(engine.run(batch))
        engine.close()
    assert session.trt.events.count("build") == 1 and len(notes) == 1
    reference = OnnxEngine(opened.read(model.file), name=model.id)
    for answer in answers:
        np.testing.assert_allclose(answer, reference.run(batch), rtol=1e-5, atol=1e-5)
    reference.close()
    open_bundle(opened.folder)  # the cache does no harm to the bundle


def test_the_record_says_what_the_plan_is_and_takes(opened, session):
    model = opened.bundle.members[0]
    built(opened, session, model).close()
    (path,) = records(opened)
    record = json.loads(path.read_text())
    plan = path.with_suffix(".plan").read_bytes()
    assert path.parent.name == f"tensorrt-10.3.0-cc8.7-fp32-{model.file.sha256[:16]}"
    assert record["plan"] == {
        "path": str(path.with_suffix(".plan").relative_to(opened.folder)),
        "bytes": len(plan),
        "sha256": sha256_bytes(plan),
    }
    assert (record["built_with"], record["gpu"]) == ("10.3.0.0", "Fake GPU")
    assert (record["input_shape"], record["batch_max"]) == ([1, 32, 32], opened.bundle.measured_batch)
    assert record["measured_bytes"] == len(plan)
    assert record["device_memory_bytes"] == 1024 * opened.bundle.measured_batch
    assert record["weights_bytes"] is None  # 10.3 does not say


def test_a_device_builds_as_the_export_did(opened, session):
    build = BuildOptions(batch_min=2, batch_opt=3, batch_max=5, workspace=2**20, tactic_dram=2**21, level=1)
    write_bundle(opened.folder, dataclasses.replace(opened.bundle, build=build))
    model = opened.bundle.members[0]
    built(open_bundle(opened.folder), session, model).close()
    assert session.trt.config._profiles == [((2, 1, 32, 32), (3, 1, 32, 32), (5, 1, 32, 32))]
    assert session.trt.config._pools == {"WORKSPACE": 2**20, "TACTIC_DRAM": 2**21}
    assert session.trt.config._level == 1
    (path,) = records(opened)
    record = json.loads(path.read_text())
    assert (record["batch_min"], record["batch_opt"], record["batch_max"]) == (2, 3, 5)


def test_everything_that_lacks_is_built_ahead_with_one_engine_at_a_time(opened, session, cache):
    built(opened, session, opened.bundle.members[2]).close()
    loaded = []
    build = session.trt.plan_of

    def watch(*arguments, **facts):
        loaded.append(session.trt.alive["engine"])
        return build(*arguments, **facts)

    session.trt.plan_of = watch
    assert build_missing(opened, session, cache) == len(opened.models) - 1
    assert build_missing(opened, session, cache) == 0
    assert loaded == [0] * (len(opened.models) - 1)


@pytest.mark.parametrize(
    "other",
    [{"compute_capability": "8.6"}, {"line": "11.4"}, {"line": "rtx"}],
    ids=["GPU", "version", "library"],
)
def test_another_device_builds_its_own_and_refuses_both_keys_shown_where_it_may_not(opened, session, cache, other):
    model = opened.bundle.members[0]
    built(opened, session, model).close()
    elsewhere = session_of(**other)
    with pytest.raises(IntegrityError) as caught:
        engine_loader(opened, elsewhere, cache)(model)
    assert caught.value.exit_code == 7
    said = str(caught.value)
    assert "built for [tensorrt 10.3.0, compute capability 8.7, fp32, ONNX " in said
    gpu = "any GPU" if other == {"line": "rtx"} else f"compute capability {elsewhere.memory.compute_capability}"
    library = "tensorrt-rtx" if other == {"line": "rtx"} else "tensorrt"
    assert f"this device needs [{library} {elsewhere.trt.__version__}, {gpu}, fp32, ONNX " in said
    assert elsewhere.trt.events == []
    built(opened, elsewhere, model).close()
    assert len(records(opened)) == 2
    elsewhere.close()


def test_residency_reloads_engines_within_its_budget(opened, session, cache):
    original, members = opened.bundle.original, opened.bundle.members
    build_missing(opened, session, cache)
    least = need(original, members).least
    residency = Residency(original, members, least, engine_loader(opened, session, cache))
    batch = as_input(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8))
    for _ in range(2):
        for model in (original, *members):
            expected = OnnxEngine(opened.read(model.file), name=model.id)
            np.testing.assert_allclose(residency.engine(model).run(batch), expected.run(batch), rtol=1e-4, atol=1e-4)
            assert session.trt.alive["engine"] == len(residency.resident) <= 3
    assert residency.counters.evictions > 0
    residency.close()
    assert session.trt.alive == {"runtime": 1, "engine": 0, "context": 0}
    assert session.memory.engine_bytes == 0


def test_without_any_plan_nothing_is_loaded_and_nothing_built(opened, session, cache):
    with pytest.raises(InputError, match="holds no plan .*; start again"):
        engine_loader(opened, session, cache)(opened.bundle.original)
    assert session.trt.events == []


def test_a_plan_for_any_gpu_is_measured_on_this_one(opened):
    session, other = session_of("rtx"), session_of("rtx")
    other.memory.gpu = "Another GPU"
    with PlanCache(opened.folder) as cache:
        build_missing(opened, session, cache)
        for path in records(opened):  # what they take there
            path.write_text(json.dumps(json.loads(path.read_text()) | {"device_memory_bytes": 7, "measured_bytes": 8}))
        assert {r.measured_bytes for r in measured_records(opened, session, cache).values()} == {8}
        for record in measured_records(opened, other, cache).values():
            assert (record.gpu, record.measured_bytes) == ("Another GPU", record.plan.bytes)
            assert record.device_memory_bytes == 1024 * opened.bundle.measured_batch
        assert {json.loads(path.read_text())["gpu"] for path in records(opened)} == {"Another GPU"}
    session.close()
    other.close()


@pytest.mark.parametrize("line", ["10.3", "10.16", "rtx"])
def test_plans_that_were_built_without_a_gpu_are_measured_once(opened, line):
    session = session_of(line)
    with PlanCache(opened.folder) as cache:
        build_missing(opened, session, cache)
        measured = measured_records(opened, session, cache)
        assert set(measured) == {model.file.path for model in opened.models}
        nothing = {"device_memory_bytes": None, "measured_bytes": None, "weights_bytes": None}
        before = {}
        for path in records(opened):
            before[path] = path.read_bytes()
            path.write_text(json.dumps(json.loads(path.read_text()) | nothing))
        assert measured_records(opened, session, cache, store=False) == measured
        assert None in [json.loads(path.read_text())["measured_bytes"] for path in records(opened)]
        assert measured_records(opened, session, cache) == measured
        assert {path: path.read_bytes() for path in records(opened)} == before
        ended = session.trt.events.count("engine destroyed")
        assert measured_records(opened, session, cache) == measured
        assert session.trt.events.count("engine destroyed") == ended  # none was loaded
    session.close()


def test_a_record_put_into_another_keys_folder_is_refused(opened, session):
    model = opened.bundle.members[0]
    built(opened, session, model).close()
    (path,) = records(opened)
    elsewhere = session_of(compute_capability="8.6")
    folder = path.parent.with_name(path.parent.name.replace("cc8.7", "cc8.6"))
    path.parent.rename(folder)
    with pytest.raises(IntegrityError, match=r"compute capability 8\.7.*this device needs .*compute capability 8\.6"):
        built(opened, elsewhere, model)
    text = (folder / path.name).read_text().replace('"8.7"', '"8.6"').replace("cc8.7", "cc8.6")
    (folder / path.name).write_text(text.replace('"10.3.0"', '"10.3.1"').replace("-10.3.0-", "-10.3.1-"))
    with pytest.raises(IntegrityError, match=r"10\.3\.1.*this device needs .*10\.3\.0"):
        built(opened, elsewhere, model)
    assert elsewhere.trt.events == []
    elsewhere.close()


@pytest.mark.parametrize("damage", ["truncated", "swapped", "one bit", "missing", "larger", "link"])
def test_a_damaged_plan_never_reaches_tensorrt(opened, session, cache, damage, tmp_path):
    load = engine_loader(opened, session, cache)
    first, second = opened.bundle.members[:2]
    build_missing(opened, session, cache, models=[first, second])
    events = list(session.trt.events)
    path = next((opened.folder / "engines").glob(f"*/{first.id}.plan"))
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "swapped":
        path.write_bytes(next((opened.folder / "engines").glob(f"*/{second.id}.plan")).read_bytes())
    elif damage == "one bit":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "missing":
        path.unlink()
    elif damage == "larger":
        path.write_bytes(data + b"x")
    else:
        path.rename(tmp_path / "plan")
        path.symlink_to(tmp_path / "plan")
    with pytest.raises(IntegrityError, match=f"{first.id}.plan"):
        load(first)
    with pytest.raises(IntegrityError, match=f"{first.id}.plan"):
        build_missing(opened, session, cache, models=[first])
    assert session.trt.events == events
    load(second).close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_max", 0), ("surprise", 1), ("plan", {"path": "../x", "bytes": 1, "sha256": "0" * 64}), ("gpu", 7)],
)
def test_a_bad_record_names_its_field(opened, session, field, value):
    built(opened, session, opened.bundle.original).close()
    (path,) = records(opened)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(InputError, match=r"original\.json.*delete"):
        built(opened, session, opened.bundle.original)


def test_a_changed_onnx_file_is_not_built(opened, session):
    model = opened.bundle.members[0]
    path = opened.folder / model.file.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=model.file.path):
        built(opened, session, model)
    assert session.trt.events == []


def test_a_bundle_that_cannot_be_written_is_built_once_a_process(opened, session, monkeypatch):
    def full(path, data):
        if path.is_relative_to(opened.folder):
            raise InputError(f"{path}: the disk is full")
        write_atomic(path, data)

    monkeypatch.setattr(plan_cache, "write_atomic", full)
    notes: list[str] = []
    cache = PlanCache(opened.folder, notes.append)
    build_missing(opened, session, cache)
    assert sum("is kept for this run alone" in note for note in notes) == len(opened.models)
    load = engine_loader(opened, session, cache)
    for _ in range(2):
        assert build_missing(opened, session, cache) == 0
        for model in opened.models:
            load(model).close()
    assert session.trt.events.count("build") == len(opened.models)
    cache.renew(measured_records(opened, session, cache)["models/original.onnx"])  # which changes nothing
    assert cache._spare is not None
    folder = Path(cache._spare.name)
    assert len(list(folder.glob("engines/*/*.plan"))) == len(opened.models)
    cache.close()
    cache.close()
    assert not folder.exists() and records(opened) == []
    with pytest.raises(InputError, match="holds no plan"):
        load(opened.bundle.original)


def test_where_no_disk_takes_a_plan_it_says_so(opened, session, monkeypatch):
    def full(path, data):
        raise InputError(f"{path}: the disk is full")

    monkeypatch.setattr(plan_cache, "write_atomic", full)
    with PlanCache(opened.folder) as cache, pytest.raises(InputError, match="the disk is full"):
        build_missing(opened, session, cache)


def test_a_header_is_read_without_tensorrt():
    plan = FakeTensorRT("11.4", FakeMemory()).plan_of(b"", image=[1], answer=[1])
    assert read_header(plan, name="m0").version == (11, 4, 0, 106)
    check_header(plan, library="tensorrt", version="11.4.0", name="m0")  # a board's module leaves the build out
    with pytest.raises(IntegrityError, match=r"was built by tensorrt 11\.4\.0\.106, here runs tensorrt 11\.4\.1"):
        check_header(plan, library="tensorrt", version="11.4.1", name="m0")
    with pytest.raises(IntegrityError, match=r"here runs tensorrt 11\.4\.0\.107"):
        check_header(plan, library="tensorrt", version="11.4.0.107", name="m0")
    with pytest.raises(IntegrityError, match="serialisation version 1"):
        read_header(plan[:4] + b"\1" + plan[5:], name="m0")
    for other in (b"", b"ftrt", plan[:28], b"\x08\x08ONNX" + bytes(40)):
        with pytest.raises(IntegrityError, match="expected a TensorRT plan"):
            read_header(other, name="m0")


def test_a_key_is_a_plain_folder():
    key = EngineKey(
        library="tensorrt", version="10.3.0", compute_capability="8.7", precision="fp16", onnx_sha256="ab" * 32
    )
    assert key.folder == "tensorrt-10.3.0-cc8.7-fp16-abababababababab"
    with pytest.raises(ValueError, match="plain words"):
        dataclasses.replace(key, version="../../etc")
