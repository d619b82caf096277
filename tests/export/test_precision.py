"""fp16 and int8 bundles: what is inside the files, what they agree on, who judges them, and what stops an export."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from onnx import numpy_helper

from pdtool.calibration.rules import Settings
from pdtool.compress.folder import open_pool
from pdtool.compress.models import LeNet5
from pdtool.data import load_data, pixel_hashes
from pdtool.devices.catalogue import find
from pdtool.errors import GateError, InputError, IntegrityError
from pdtool.evaluation.profile import profile
from pdtool.export.bundle import MIN_AGREEMENT, export_pool
from pdtool.export.onnx import compare, to_onnx
from pdtool.export.quantise import to_int8
from pdtool.export.real import pick_images
from pdtool.images import as_input
from pdtool.runtime.bundle import open_bundle, write_calibration
from pdtool.runtime.calibrate import calibrate_bundle
from pdtool.runtime.screener import Screener

PRECISIONS = ("fp32", "fp16", "int8")
SIZE = (1, 32, 32)


@pytest.fixture(scope="module")
def bundles(workshop, tmp_path_factory):
    """Precision -> a bundle of the workshop's pool, judged on the pool's samples alone."""
    folder = tmp_path_factory.mktemp("precisions")
    for precision in ("fp16", "int8"):
        export_pool(workshop / "pool", folder / precision, precision=precision)
    return {"fp32": workshop / "plain", "fp16": folder / "fp16", "int8": folder / "int8"}


def logits(model, images):
    """By ONNX Runtime alone: pixels in [0, 1], channels first."""
    pixels = np.moveaxis(images, 3, 1).astype(np.float32) / np.float32(255)
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input": pixels})[0]


def weights(model):
    return {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(model).graph.initializer}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_contract(bundles, precision):
    """What every reader of a bundle counts on, whatever the precision inside."""
    opened, fp32 = open_bundle(bundles[precision]), open_bundle(bundles["fp32"])
    assert opened.bundle.precision == precision
    assert opened.bundle.classes == fp32.bundle.classes
    assert opened.bundle.preprocessing == fp32.bundle.preprocessing
    assert [m.weights_sha256 for m in opened.models] == [m.weights_sha256 for m in fp32.models]
    for model in opened.models:
        session = ort.InferenceSession(opened.read(model.file), providers=["CPUExecutionProvider"])
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape[1:]) == ("input", "tensor(float)", [1, 32, 32])
        assert (answer.name, answer.type, answer.shape[1:]) == ("logits", "tensor(float)", [10])
        assert isinstance(given.shape[0], str)  # any batch
        for batch in (1, 5):
            assert session.run(None, {"input": np.zeros((batch, *SIZE), np.float32)})[0].shape == (batch, 10)
        assert 0 <= model.resident_bytes <= model.load_peak_bytes < 64 * 2**20


def test_the_recorded_agreement_is_true(workshop, bundles):
    """Recomputed with ONNX Runtime alone. int8: the samples that did not set the ranges, every second."""
    samples, _ = open_pool(workshop / "pool").samples()
    fp32 = open_bundle(bundles["fp32"])
    for precision, judged in (("fp16", samples), ("int8", samples[1::2])):
        opened = open_bundle(bundles[precision])
        for model, reference in zip(opened.models, fp32.models, strict=True):
            came, expected = logits(opened.read(model.file), judged), logits(fp32.read(reference.file), judged)
            assert model.parity.images == len(judged)
            assert model.parity.label_agreement == (came.argmax(1) == expected.argmax(1)).mean() >= 0.9
            assert model.parity.max_difference == pytest.approx(np.abs(came - expected).max(), rel=1e-3)
            assert model.parity.max_difference > 1e-4  # it is not the fp32 file


def test_files_shrink(bundles):
    sizes = [[m.file.bytes for m in open_bundle(bundles[precision]).models] for precision in PRECISIONS]
    for fp32, fp16, int8 in zip(*sizes, strict=True):
        assert fp16 < 0.6 * fp32
        assert int8 < 0.5 * fp32
    assert sizes[2][0] < 0.35 * sizes[0][0]  # the larger the model, the less the scales weigh


def test_fp16_holds_half_weights_and_normalises_in_float32(bundles):
    opened = open_bundle(bundles["fp16"])
    for model in opened.models:
        data = opened.read(model.file)
        graph = onnx.load_from_string(data).graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.index("Sub") < kinds.index("Div") < kinds.index("Cast") < kinds.index("Conv")
        assert kinds[-1] == "Cast"
        large = [array for array in weights(data).values() if array.size > 1]
        assert len(large) >= 10 and all(array.dtype == np.float16 for array in large)


def test_int8_holds_what_tensorrt_reads(bundles):
    """No zero point but 0, no int32 (a quantised bias), weights stored as int8 with a scale for each output channel."""
    opened = open_bundle(bundles["int8"])
    for model in opened.models:
        data = opened.read(model.file)
        loaded = onnx.load_from_string(data)
        onnx.checker.check_model(loaded)
        assert max(o.version for o in loaded.opset_import if o.domain == "") <= 20
        arrays, nodes = weights(data), loaded.graph.node
        pairs = [node for node in nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert len(pairs) >= 15
        for node in pairs:
            scale, zero = arrays[node.input[1]], arrays[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
            assert np.isfinite(scale).all() and (scale > 0).all()
            assert node.op_type == "DequantizeLinear" or node.input[0] not in arrays  # no weight is quantised late
        assert not any(array.dtype == np.int32 for array in arrays.values())
        for node in nodes:
            if node.op_type in ("Conv", "Gemm"):
                (source,) = [other for other in pairs if other.output[0] == node.input[1]]
                weight, scale = arrays[source.input[0]], arrays[source.input[1]]
                assert weight.dtype == np.int8 and scale.shape == (weight.shape[0],)
                assert np.abs(weight.astype(int)).max() == 127


RTX = all(importlib.util.find_spec(f"tensorrt_rtx_{part}") for part in ("libs", "bindings"))


@pytest.mark.tensorrt
@pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed; pip install -e '.[rtx-test]'")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrts_own_parser_and_builder_take_the_files(bundles, precision):
    """In a process of its own: a crash in the library must not take the tests along."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from pdtool.runtime.build_plan import BuildOptions, build_plan\n"
        "from pdtool.runtime.tensorrt_module import find_tensorrt\n"
        "options = BuildOptions(precision=sys.argv[1], level=1)\n"
        "for path in map(Path, sys.argv[2:]):\n"
        "    build_plan(find_tensorrt('tensorrt-rtx'), path.read_bytes(), options, name=path.stem)\n"
    )
    files = [bundles[precision] / "models" / f"{name}.onnx" for name in ("original", "m000")]
    command = [sys.executable, "-c", code, precision, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_channel_of_zeros_gets_a_usable_scale(workshop):
    pool = open_pool(workshop / "pool")
    net = pool.original()
    with torch.no_grad():
        for name, zeros in (("net.conv1.weight", slice(2, 3)), ("net.fc1.weight", slice(0, 5))):
            net.get_parameter(name)[zeros] = 0
    images, _ = pool.samples()
    fp32 = to_onnx(net, SIZE)
    int8 = to_int8(fp32, images, name="x")
    for name, array in weights(int8).items():
        if name.endswith("_scale"):
            assert np.isfinite(array).all() and (array > 0).all()
    assert compare(logits(int8, images), logits(fp32, images), name="x").label_agreement > 0.9


def test_the_same_bytes_in_any_process(workshop, bundles):
    """Names and orders inside must not come from a hash seed: the tests' own process has another."""
    pool = open_pool(workshop / "pool")
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom pdtool.export.quantise import to_int8\n"
        "images = np.load(sys.argv[2])['images'][::2]\n"
        "sys.stdout.buffer.write(to_int8(Path(sys.argv[1]).read_bytes(), images, name='x'))"
    )
    opened = open_bundle(bundles["int8"])
    source = workshop / "plain" / "models" / "m003.onnx"
    command = [sys.executable, "-c", code, str(source), str(pool.folder / pool.pool.samples.path)]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    assert hashlib.sha256(done.stdout).hexdigest() == opened.bundle.members[3].file.sha256


def test_temporary_files_go_away(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    samples, _ = open_pool(workshop / "pool").samples()
    to_int8((workshop / "plain" / "models" / "m000.onnx").read_bytes(), samples, name="m000")
    with pytest.raises(InputError, match="m000: ONNX Runtime cannot quantise it"):
        to_int8(b"not a model", samples, name="m000")
    assert os.listdir(tmp_path) == []


def test_no_image_both_sets_the_ranges_and_judges(workshop, tmp_path):
    pool = open_pool(workshop / "pool")
    train = load_data("digits", SIZE, role="train").images
    samples, _ = pool.samples()
    images = pick_images(pool, "int8", "digits")
    assert images.ranges is not None
    ranges, judged = ({image.tobytes() for image in part} for part in (images.ranges, images.judged))
    assert len(images.ranges) == 256 and not ranges & judged
    assert ranges <= {image.tobytes() for image in train}  # the part to calibrate the test on stays unseen
    assert {image.tobytes() for image in samples} <= {image.tobytes() for image in train}
    again = pick_images(pool, "int8", "digits")
    np.testing.assert_array_equal(images.ranges, again.ranges)
    np.testing.assert_array_equal(images.judged, again.judged)
    for precision in ("fp32", "fp16"):
        other = pick_images(pool, precision, "digits")
        assert other.ranges is None and len(other.judged) == len(train)
    seen = {image.tobytes() for image in load_data("digits#1/2", SIZE, role="train").images}
    half = pick_images(pool, "int8", "digits#1/2")
    beside = {image.tobytes() for image in samples} - seen
    assert 0 < len(beside) < len(samples) and beside <= {image.tobytes() for image in half.judged}
    # one image twice, once on either side
    twice = np.concatenate([train[:40], train[:40]])
    np.savez(tmp_path / "twice.npz", images=twice[np.argsort(np.arange(80) % 40, kind="stable")])
    mixed = pick_images(pool, "int8", str(tmp_path / "twice.npz"))
    assert mixed.ranges is not None
    assert not {i.tobytes() for i in mixed.ranges} & {i.tobytes() for i in mixed.judged}


def test_tracks_are_kept_whole_and_a_single_video_is_cut_in_time(workshop, monkeypatch):
    pool = open_pool(workshop / "pool")
    data = load_data("digits", SIZE, role="train", limit=120)
    for groups in (np.arange(120) // 10, np.zeros(120, dtype=np.int64)):
        given = replace(data, groups=groups)
        monkeypatch.setattr("pdtool.export.real.load_clean", lambda *_, given=given, **__: given)
        images = pick_images(pool, "int8", "video.mp4")
        assert images.ranges is not None
        places = {image.tobytes(): i for i, image in enumerate(data.images)}
        mine = [places[image.tobytes()] for image in images.ranges]
        others = [places[image.tobytes()] for image in images.judged if image.tobytes() in places]
        assert len(mine) == len(others) == 60  # each once, though some are samples of the pool, too
        if groups.any():
            assert not set(groups[mine]) & set(groups[others])
        else:
            assert max(mine) < min(others)


def breaks_in_int8(pool, folder):
    """The workshop's pool with a member m002 that says the same at fp32, but one of whose channels is 1e6 times larger.

    A factor above 0 passes ReLU and max pooling unchanged and is divided out in the next layer; a tensor of one int8
    scale loses all other channels, and float16 ends at 65504.
    """
    shutil.copytree(pool, folder)
    document = json.loads((folder / "pool.json").read_text())
    model = document["members"][2]["model"]
    file = folder / model["file"]["path"]
    state = safetensors.torch.load_file(file)
    state["conv1.weight"][0] *= 1e6
    state["conv1.bias"][0] *= 1e6
    state["conv2.weight"][:, 0] /= 1e6
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    file.write_bytes(safetensors.torch.save(state, metadata))
    model["file"]["bytes"], model["file"]["sha256"] = (
        file.stat().st_size,
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    (folder / "pool.json").write_text(json.dumps(document))
    return folder


def test_a_net_that_breaks_at_a_precision_is_not_exported(workshop, tmp_path):
    pool = breaks_in_int8(workshop / "pool", tmp_path / "pool")
    export_pool(pool, tmp_path / "fp32")  # sound there
    says = r"m002: the exported file agrees with fp32 at int8 on \d+\.\d% of 32 images, --min-agreement asks for 90.0%"
    with pytest.raises(GateError, match=says):
        export_pool(pool, tmp_path / "int8", precision="int8")
    with pytest.raises(GateError, match=r"m002: the exported file gives logits that are not finite for \d+ of 64"):
        export_pool(pool, tmp_path / "fp16", precision="fp16", min_agreement=0)
    assert sorted(os.listdir(tmp_path)) == ["fp32", "pool"]
    low = export_pool(pool, tmp_path / "int8", precision="int8", min_agreement=0)
    assert low.members[2].parity.label_agreement < MIN_AGREEMENT["int8"] <= low.members[1].parity.label_agreement


def test_a_net_that_knows_only_float32_is_refused_at_fp16(workshop, tmp_path, monkeypatch):
    def forward(self, x):
        return plain(self, x.float())

    plain = LeNet5.forward
    monkeypatch.setattr(LeNet5, "forward", forward)
    with pytest.raises(InputError, match=r"original: torch cannot export it at fp16 .* use --precision fp32 or int8"):
        export_pool(workshop / "pool", tmp_path / "out", precision="fp16")
    assert os.listdir(tmp_path) == []


def hostile(folder):
    """Name -> (data spec, what the error says)."""
    digits = load_data("digits", SIZE, role="train", limit=64).images
    floats = (digits / np.float32(255)).astype(np.float32)
    broken = floats.copy()
    broken[3, 4, 5, 0] = np.nan
    arrays = {
        "one": digits[:1],
        "alike": np.repeat(digits[:1], 64, axis=0),
        "none": digits[:0],
        "nan": broken,
        "large": floats.repeat(2, axis=1),
        "flat": digits[:, :, :, 0].reshape(64, -1),
    }
    for name, images in arrays.items():
        np.savez(folder / f"{name}.npz", images=images)
    (folder / "empty").mkdir()
    (folder / "cut.npz").write_bytes((folder / "nan.npz").read_bytes()[:300])
    return {
        "one": (folder / "one.npz", "holds 1 images, of which 0 different ones would set the ranges"),
        "alike": (folder / "alike.npz", "holds 64 images, of which 1 different ones would set the ranges"),
        "none": (folder / "none.npz", "holds no images"),
        "nan": (folder / "nan.npz", "this one has NaN or values outside"),
        "large": (folder / "large.npz", r"must be \(32, 32, 1\) already, got \(64, 32, 1\)"),
        "flat": (folder / "flat.npz", "flat.npz"),
        "empty": (folder / "empty", "holds no images"),
        "cut": (folder / "cut.npz", "cut.npz"),
        "missing": (folder / "missing", "does not exist"),
    }


def test_hostile_calibration_data_leaves_nothing(workshop, tmp_path):
    (tmp_path / "data").mkdir()
    for name, (spec, says) in hostile(tmp_path / "data").items():
        with pytest.raises(InputError, match=says):
            export_pool(workshop / "pool", tmp_path / "out", precision="int8", calibration_data=str(spec))
        assert os.listdir(tmp_path) == ["data"], name


def test_float_images_set_ranges_and_judge_beside_the_samples(workshop, tmp_path):
    floats = np.moveaxis(as_input(load_data("digits", SIZE, role="train", limit=64).images), 1, 3)
    np.savez(tmp_path / "floats.npz", images=floats)
    pool = open_pool(workshop / "pool")
    images = pick_images(pool, "int8", str(tmp_path / "floats.npz"))
    assert images.ranges is not None and images.judged.dtype == np.float32 and len(images.ranges) == 32
    mine = {image.tobytes() for image in floats}
    beside = [i for i in as_input(pool.samples()[0]) if np.moveaxis(i, 0, 2).tobytes() not in mine]
    assert len(images.judged) == 32 + len(beside) > 64
    np.testing.assert_array_equal(as_input(images.judged[32:]), beside)


def test_screening_end_to_end_at_int8(workshop, bundles, tmp_path):
    """Calibrated and screened on its own files; labels are those of the int8 original; other files' calibration is not
    taken."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundles["int8"], folder)
    done = calibrate_bundle(
        folder,
        lambda size: load_data("digits", size, role="calibrate"),
        Settings(),
        target_fpr=0.15,
        confidence=0.95,
        seed=0,
    )
    assert done.calibration.fpr_upper <= 0.15
    opened = open_bundle(folder)
    clean = load_data("digits", SIZE, role="test").images[:200]
    noise = np.random.default_rng(0).integers(0, 256, clean.shape, dtype=np.uint8)
    expected = logits(opened.read(opened.bundle.original.file), clean).argmax(1)
    with Screener.open(folder, memory_budget="8MiB", seed=0) as screener:
        verdicts = screener.screen(clean)
        flagged = [v.verdict == "adversarial" for v in screener.screen(noise)]
    assert [v.label for v in verdicts] == [opened.bundle.classes[i] for i in expected]
    assert np.mean([v.verdict == "adversarial" for v in verdicts]) < 0.15 < 0.4 < np.mean(flagged)
    other = open_bundle(workshop / "bundle").calibration
    assert other is not None
    write_calibration(opened, other)
    with pytest.raises(IntegrityError, match="measured on other model files"):
        open_bundle(folder)


def test_images_that_set_the_ranges_cannot_calibrate_the_test(workshop, tmp_path):
    images = load_data("digits", SIZE, role="calibrate").images
    np.savez(tmp_path / "field.npz", images=images)
    bundle = export_pool(
        workshop / "pool", tmp_path / "out", precision="int8", calibration_data=str(tmp_path / "field.npz")
    )
    seen = np.frombuffer((tmp_path / "out" / bundle.seen.path).read_bytes(), "<u8")
    ranges = pick_images(open_pool(workshop / "pool"), "int8", str(tmp_path / "field.npz")).ranges
    assert ranges is not None
    mine, pools = (np.frombuffer(part, "<u8") for part in (pixel_hashes(ranges), open_pool(workshop / "pool").seen()))
    assert set(seen) == set(mine) | set(pools)
    with pytest.raises(InputError, match="225 of its 450 images are ones that the pool or its int8 files were made on"):
        calibrate_bundle(
            tmp_path / "out",
            lambda size: load_data("digits", size, role="calibrate"),
            Settings(),
            target_fpr=0.15,
            confidence=0.95,
            seed=0,
        )


def test_profile_estimates_at_the_precision_of_the_bundle(bundles):
    board = find("orin-nano-8gb")
    for precision in ("fp16", "int8"):
        own = profile(bundles[precision], device=board, runs=1)
        assert own.precision == precision and own.device is not None and own.device.precision == precision
    other = profile(bundles["int8"], device=board, precision="fp32", runs=1)
    assert other.precision == "int8" and other.device is not None and other.device.precision == "fp32"
