"""Members packed into one file: the same answers as apart, at every precision; packed only as wanted or measured."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from pdtool.artifacts import write_entry
from pdtool.compress.folder import open_pool
from pdtool.devices.catalogue import Precision
from pdtool.errors import GateError, InputError
from pdtool.export import pack as pack_room
from pdtool.export.bundle import export_pool
from pdtool.export.engines import PlanBuild, export_plans, plan_loader
from pdtool.export.pack import choose, most_measured, pack, pack_files, ratio_of
from pdtool.images import as_input
from pdtool.runtime.build_plan import BuildOptions
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import FakeTensorRT

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
IMAGE = np.zeros((1, 1, 32, 32), dtype=np.float32)


@pytest.fixture(scope="module")
def pairs(workshop, tmp_path_factory):
    """Precision -> a bundle of single files and one of packs of 3, both of the workshop's 8 members."""
    folder = tmp_path_factory.mktemp("packs")
    for precision in PRECISIONS:
        if precision != "fp32":
            export_pool(workshop / "pool", folder / precision, precision=precision)
        export_pool(workshop / "pool", folder / f"{precision}-3", precision=precision, pack=3)
    return {p: (workshop / "plain" if p == "fp32" else folder / p, folder / f"{p}-3") for p in PRECISIONS}


@pytest.fixture(scope="module")
def images(workshop):
    return open_pool(workshop / "pool").samples()[0]


def logits(model, images):
    """By ONNX Runtime alone."""
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input": as_input(images)})[0]


def member_files(folder):
    opened = open_bundle(folder)
    return [opened.read(member.file) for member in opened.bundle.members]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_members_columns_are_its_own_files_logits(pairs, images, precision):
    apart, packed = map(open_bundle, pairs[precision])
    assert [m.id for m in packed.models] == [m.id for m in apart.models]
    for batch in (1, 7, 64):
        for own, member in zip(apart.bundle.members, packed.bundle.members, strict=True):
            expected = logits(apart.read(own.file), images[:batch])
            together = logits(packed.read(member.file), images[:batch])
            came = together[:, member.part * 10 : (member.part + 1) * 10]
            np.testing.assert_array_equal(came.argmax(1), expected.argmax(1))
            np.testing.assert_allclose(came, expected, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_packs_of_three_hold_three_three_and_two(pairs, precision):
    apart, packed = map(open_bundle, pairs[precision])
    assert (apart.bundle.pack, apart.bundle.pack_ratio) == (1, None)
    assert packed.bundle.pack == 3 and packed.bundle.pack_ratio is not None
    assert [m.part for m in packed.bundle.members] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [m.file.path for m in packed.bundle.members] == [f"models/pack-{i // 3:03d}.onnx" for i in range(8)]
    assert packed.bundle.original.file == apart.bundle.original.file
    names = ["original.onnx", "pack-000.onnx", "pack-001.onnx", "pack-002.onnx"]
    assert sorted(os.listdir(packed.folder / "models")) == names
    for i, member in enumerate(packed.bundle.members):
        first = packed.bundle.members[i - member.part]
        assert (member.resident_bytes, member.load_peak_bytes) == (first.resident_bytes, first.load_peak_bytes)
        data = packed.read(member.file)
        loaded = onnx.load_from_string(data)
        onnx.checker.check_model(loaded, full_check=True)
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == ("input", "tensor(float)", ["batch", 1, 32, 32])
        held = 2 if i >= 6 else 3
        assert (answer.name, answer.type, answer.shape) == ("logits", "tensor(float)", ["batch", 10 * held])


def test_the_same_bytes_in_any_process(pairs):
    apart, packed = pairs["int8"]
    code = (
        "import sys\nfrom pathlib import Path\nfrom pdtool.export.pack import pack\n"
        "sys.stdout.buffer.write(pack([Path(path).read_bytes() for path in sys.argv[1:]]))"
    )
    files = [apart / member.file.path for member in open_bundle(apart).bundle.members[3:6]]
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    assert hashlib.sha256(done.stdout).hexdigest() == open_bundle(packed).bundle.members[3].file.sha256


def test_a_file_alone_stays_as_it_is_and_a_pack_is_bounded_by_the_members(workshop, tmp_path, pairs):
    (model, *_) = member_files(pairs["fp32"][0])
    assert pack([model]) == model
    export_pool(workshop / "pool", tmp_path / "out", pack=100)
    opened = open_bundle(tmp_path / "out")
    assert opened.bundle.pack == 8 and len({m.file for m in opened.bundle.members}) == 1


def test_what_differs_in_form_is_not_packed(pairs):
    one, *_ = member_files(pairs["fp32"][0])
    for change in ("version", "input", "outputs"):
        other = onnx.load_from_string(one)
        if change == "version":
            other.opset_import[0].version -= 1
        elif change == "input":
            other.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 28
        else:
            other.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, None))
        with pytest.raises(InputError, match="do not go together; use --pack 1"):
            pack([one, other.SerializeToString()])


def test_a_pack_that_answers_otherwise_is_not_exported(workshop, tmp_path, monkeypatch):
    right = pack_room.pack
    monkeypatch.setattr(pack_room, "pack", lambda models: right(list(reversed(models))))
    for least in (None, 0.0):  # even where no label differs, the logits do
        with pytest.raises(GateError, match=r"m000: in models/pack-000.onnx it agrees with its own file on .*--pack 1"):
            export_pool(workshop / "pool", tmp_path / "out", pack=3, min_agreement=least)
    assert os.listdir(tmp_path) == []


def biased(model, by):
    """A file that likes class 0 more."""
    loaded = onnx.load_from_string(model)
    (bias,) = [array for array in loaded.graph.initializer if list(array.dims) == [10]]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += by
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return loaded.SerializeToString()


def test_the_share_of_equal_labels_is_held_to_the_bound_given(tmp_path, pairs, images, monkeypatch):
    (tmp_path / "models").mkdir()
    models = member_files(pairs["fp32"][0])[:2]
    files = {f"m{i}": write_entry(tmp_path, f"models/m{i}.onnx", model) for i, model in enumerate(models)}
    own = logits(models[1], images)
    other = biased(models[1], np.median(own.max(1) - own[:, 0]))
    monkeypatch.setattr(pack_room, "SAME", np.inf)
    monkeypatch.setattr(pack_room, "pack", lambda given: pack([given[0], other]))
    agree = float((own.argmax(1) == logits(other, images).argmax(1)).mean())
    assert 0 < agree < 1
    with pytest.raises(GateError, match=f"m1: in models/pack-000.onnx .* on {agree:.1%} of 64 images"):
        pack_files(tmp_path, files, 2, images, min_agreement=np.nextafter(agree, 1))
    placed = pack_files(tmp_path, files, 2, images, min_agreement=agree)
    assert [part for _, part in placed.values()] == [0, 1]


@pytest.mark.parametrize(
    ("ratios", "chosen"),
    [
        ({2: 0.95, 4: 0.93, 8: 0.91}, (1, 0.91)),  # no step pays
        ({2: 0.9, 4: 0.89, 8: 0.89}, (2, 0.9)),  # just
        ({2: 0.8, 4: 0.7, 8: 0.65}, (4, 0.7)),  # 8 is faster than 4 by 7 %
        ({2: 0.95, 4: 0.95, 8: 0.5}, (8, 0.5)),
        ({2: 0.99, 4: 0.8}, (4, 0.8)),  # five members
        ({}, (1, None)),  # one
    ],
)
def test_auto_takes_a_larger_pack_only_where_it_pays_again(monkeypatch, ratios, chosen):
    asked = []

    def ratio(members, image, load):
        asked.append(len(members))
        return ratios[len(members)]

    monkeypatch.setattr(pack_room, "ratio_of", ratio)
    count = {0: 1, 2: 5, 3: 8}[len(ratios)]
    assert choose("auto", [b"member"] * count, IMAGE) == chosen
    assert asked == list(ratios) and most_measured("auto") == 8


def test_a_number_is_kept_and_measured_whatever_comes_of_it(monkeypatch):
    monkeypatch.setattr(pack_room, "ratio_of", lambda members, image, load: 2.5 + len(members))
    assert choose(3, [b"member"] * 3, IMAGE) == (3, 5.5)
    assert choose(3, [b"member"] * 2, IMAGE) == (2, 4.5)
    assert choose(1, [b"member"] * 3, IMAGE) == (1, None)
    assert (most_measured(3), most_measured(1)) == (3, 1)


class Timed:
    """An engine that takes 2 ms, or 3 for the pack, on a clock of its own; one run in nine takes ten times as long."""

    now, runs, open = 0.0, 0, 0
    measured_bytes: int | None = None

    def __init__(self, model, single):
        self.ms = 2 if len(model) == single else 3
        Timed.open += 1

    def run(self, batch):
        Timed.runs += 1
        Timed.now += self.ms * (10 if Timed.runs % 9 == 0 else 1) / 1e3
        return batch

    def close(self):
        Timed.open -= 1


def test_the_ratio_is_the_median_of_runs_in_turn(monkeypatch, pairs):
    models = member_files(pairs["fp32"][0])[:2]

    class Clock:
        def perf_counter(self):
            return Timed.now

    monkeypatch.setattr(pack_room, "time", Clock())
    found = ratio_of(models, IMAGE, lambda model: Timed(model, len(models[0])))
    assert found == pytest.approx(3 / 4)
    assert Timed.open == 0 and Timed.runs > 30


def test_auto_measures_real_members_and_says_what_it_found(workshop, tmp_path):
    export_pool(workshop / "pool", tmp_path / "out", pack="auto")
    bundle = open_bundle(tmp_path / "out").bundle
    assert bundle.pack in (1, 2, 4, 8) and bundle.pack_ratio is not None
    assert (0 < bundle.pack_ratio <= 0.9) == (bundle.pack > 1)
    assert len({m.file for m in bundle.members}) == 8 // bundle.pack


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pack": 0}, "pack should be at least 1, is 0"),
        ({"pack": 2}, "part of 'm002' should be 0, is 2"),
        ({"pack_ratio": 0.0}, "pack_ratio should be a number above 0"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(pairs, tmp_path, changed, said):
    folder = shutil.copytree(pairs["fp32"][1], tmp_path / "bundle")
    document = json.loads((folder / "bundle.json").read_text()) | changed
    (folder / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=said):
        open_bundle(folder)


def test_parts_and_files_must_go_together(pairs):
    bundle = open_bundle(pairs["fp32"][1]).bundle
    first, second, *others = bundle.members
    for members, said in (
        ((second, first, *others), "part of 'm001' should be 0, is 1"),
        ((first, replace(second, file=others[2].file), *others), "file of 'm001' should be that of 'm000'"),
        (
            (*bundle.members[:3], *(replace(m, file=first.file) for m in bundle.members[3:6])),
            "files should be distinct",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            replace(bundle, members=members)
    with pytest.raises(ValueError, match="part of 'original' should be 0, is 1"):
        replace(bundle, original=replace(bundle.original, part=1))


@pytest.fixture
def session():
    memory = FakeMemory()
    session = TensorRTSession(FakeTensorRT("10.3", memory), memory)
    yield session
    session.close()


def test_a_pack_becomes_one_plan_that_is_compared_part_by_part(pairs, tmp_path, session, images):
    opened = open_bundle(shutil.copytree(pairs["fp32"][1], tmp_path / "bundle"))
    build, steps = PlanBuild(session.trt, session, BuildOptions()), list[int]()
    records = export_plans(opened.folder, opened.models, "fp32", build, images=images, advance=steps.append)
    assert [record.model for record in records] == ["original", "pack-000", "pack-001", "pack-002"]
    assert steps == [1, 3, 3, 2]
    assert session.trt.events.count("build") == 4
    assert all(record.parity and record.parity.label_agreement == 1.0 for record in records)
    members = opened.bundle.members
    assert [record.key.onnx_sha256 for record in records[1:]] == [members[i].file.sha256 for i in (0, 3, 6)]
    session.trt.wrong = True
    with pytest.raises(GateError, match="pack-000: the plan agrees with its ONNX file on"):
        export_plans(opened.folder, members, "fp32", build, images=images)


def test_with_a_gpu_plans_are_what_is_measured(pairs, images, session):
    models = member_files(pairs["fp32"][0])[:2]
    load = plan_loader(PlanBuild(session.trt, session, BuildOptions()), "fp32")
    count, ratio = choose(2, models, as_input(images[:1]), load)
    assert count == 2 and ratio is not None and ratio > 0
    assert session.trt.events.count("build") == 3 and session.trt.alive["engine"] == 0
    assert plan_loader(PlanBuild(session.trt, None, BuildOptions()), "fp32") is None


RTX = all(importlib.util.find_spec(f"tensorrt_rtx_{part}") for part in ("libs", "bindings"))


@pytest.mark.tensorrt
@pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed; pip install -e '.[rtx-test]'")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrts_own_parser_and_builder_take_packs(pairs, tmp_path, precision):
    """In a process of its own: a crash in the library must not take the tests along."""
    folder = shutil.copytree(pairs[precision][1], tmp_path / "bundle")
    code = (
        "import sys\nfrom pdtool.export.engines import PlanBuild, export_plans\n"
        "from pdtool.runtime.build_plan import BuildOptions\nfrom pdtool.runtime.bundle import open_bundle\n"
        "from pdtool.runtime.tensorrt_module import find_tensorrt\n"
        "opened = open_bundle(sys.argv[1])\n"
        "build = PlanBuild(find_tensorrt('tensorrt-rtx'), None, BuildOptions(level=1))\n"
        "export_plans(opened.folder, opened.bundle.members, opened.bundle.precision, build)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plans = sorted(folder.glob("engines/*/*.plan"))
    assert sorted(plan.stem for plan in plans) == ["pack-000", "pack-001", "pack-002"]
