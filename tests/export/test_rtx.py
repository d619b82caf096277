"""Real plans, built on the CPU by TensorRT-RTX's own builder and parser. Running one needs a GPU: not tested here.

Each build runs in a process of its own, since a crash in the library must not take the tests along. Install with
pip install -e '.[rtx-test]'.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pdtool.errors import IntegrityError
from pdtool.files import sha256_bytes
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.plans import EngineKey, check_header, find_plan, read_header
from tests.runtime.fake_tensorrt import ABSENT
from tests.runtime.test_tensorrt_surface import used_on

INSTALLED = all(importlib.util.find_spec(f"tensorrt_rtx_{part}") for part in ("libs", "bindings"))
pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(not INSTALLED, reason="TensorRT-RTX is not installed; pip install -e '.[rtx-test]'"),
]

PRELUDE = """
import json, sys
from pathlib import Path
from pdtool.errors import PdtoolError
from pdtool.runtime.build_plan import BuildOptions, build_plan
from pdtool.runtime.tensorrt_module import find_tensorrt, library_of, logger_of, said
trt = find_tensorrt("tensorrt-rtx")

def answer(**facts):
    print(json.dumps({"version": trt.__version__} | facts))

def build(path, **options):
    try:
        return build_plan(trt, Path(path).read_bytes(), BuildOptions(**options), name="m0")
    except PdtoolError as error:
        answer(error=str(error), exit_code=error.exit_code)
        sys.exit(0)
"""
BUILD = """
plan, image = build(sys.argv[1], **json.loads(sys.argv[3]))
Path(sys.argv[2]).write_bytes(plan)
answer(image=image)
"""
EXPORT = """
from pdtool.export.engines import PlanBuild, export_plans
from pdtool.runtime.bundle import open_bundle
opened = open_bundle(sys.argv[1])
options = BuildOptions(batch_min=1, batch_opt=2, batch_max=4, workspace=2**26, tactic_dram=2**27, level=1)
records = export_plans(opened.folder, opened.models, opened.bundle.precision, PlanBuild(trt, None, options))
answer(keys=[[record.model, record.key.folder] for record in records])
"""
DESERIALISE = """
runtime = trt.Runtime(logger_of(trt))
engine = runtime.deserialize_cuda_engine(Path(sys.argv[1]).read_bytes())
answer(engine=engine is not None, said=said(trt))
"""
LOOK = """
answer(has=[hasattr(getattr(trt, owner, None) if owner else trt, name) for owner, name in json.loads(sys.argv[1])])
"""


def run(code, *arguments):
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def build(onnx, folder, **options):
    """The answer of a build of these bytes, and the plan where there is one."""
    given, plan = folder / "m0.onnx", folder / "m0.plan"
    given.write_bytes(onnx)
    plan.unlink(missing_ok=True)
    said = run(BUILD, given, plan, json.dumps(options))
    return said, plan.read_bytes() if plan.is_file() else None


@pytest.fixture(scope="module")
def exported(workshop, tmp_path_factory):
    """A real bundle with real plans."""
    folder = Path(shutil.copytree(workshop / "plain", tmp_path_factory.mktemp("rtx") / "bundle"))
    return folder, run(EXPORT, folder)


def test_every_model_of_a_bundle_becomes_a_plan_with_its_record(exported):
    folder, said = exported
    opened = open_bundle(folder)
    assert [model for model, _ in said["keys"]] == [model.id for model in opened.models]
    for model, key in zip(opened.models, said["keys"], strict=True):
        path = folder / "engines" / key[1] / f"{model.id}.plan"
        plan = path.read_bytes()
        header = read_header(plan, name=model.id)
        assert (header.library, ".".join(map(str, header.version))) == ("tensorrt-rtx", said["version"])
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["plan"]["sha256"] == sha256_bytes(plan) and record["plan"]["bytes"] == len(plan)
        assert record["key"]["onnx_sha256"] == model.file.sha256
        assert record["key"]["compute_capability"] == "any"
        assert (record["batch_min"], record["batch_opt"], record["batch_max"]) == (1, 2, 4)
        # nothing that only a GPU can tell is claimed
        unmeasured = ("gpu", "device_memory_bytes", "weights_bytes", "measured_bytes", "parity")
        assert [record[field] for field in unmeasured] == [None] * 5
        assert len(plan) > 0.9 * 4 * model.parameters  # the weights are inside


def test_the_command_exports_plans_without_a_gpu_and_says_so(workshop, tmp_path):
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "pdtool", "export", workshop / "pool", "--out", out, "--format", "tensorrt-rtx"]
    command += ["--precision", "fp16", "--batch-max", "4", "--workspace", "64MiB", "--show-trtexec"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no GPU here: the plans are built, not run" in done.stderr
    opened = open_bundle(out)
    assert done.stdout.count("tensorrt_rtx --onnx=") == len(opened.models)
    for model in opened.models:
        (path,) = out.glob(f"engines/*/{model.id}.plan")
        assert read_header(path.read_bytes(), name=model.id).library == "tensorrt-rtx"
        record = json.loads(path.with_suffix(".json").read_text())
        assert (record["key"]["precision"], record["batch_max"], record["parity"]) == ("fp16", 4, None)


def test_the_record_is_what_lets_a_plan_in(exported, tmp_path):
    folder = Path(shutil.copytree(exported[0], tmp_path / "bundle"))
    (path,) = folder.glob("engines/*/original.plan")
    record = json.loads(path.with_suffix(".json").read_text())
    key = EngineKey(**record["key"])
    found = find_plan(folder, "original", key)
    assert found is not None and found[1] == path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(IntegrityError, match=r"original\.plan: expected \d+ bytes, found \d+"):
        find_plan(folder, "original", key)


def test_a_plan_of_another_version_is_refused_by_its_header(exported):
    (path,) = exported[0].glob("engines/*/original.plan")
    with pytest.raises(IntegrityError, match=r"was built by tensorrt-rtx [\d.]+, here runs tensorrt 10\.3\.0"):
        check_header(path.read_bytes(), library="tensorrt", version="10.3.0", name="original")


def test_a_file_that_is_no_network_is_refused_in_tensorrts_words(exported, tmp_path):
    onnx = (exported[0] / "models/original.onnx").read_bytes()
    for damaged in (onnx[: len(onnx) // 2], b"nonsense" * 100):
        said, plan = build(damaged, tmp_path)
        assert plan is None
        assert said["exit_code"] == 3
        assert said["error"].startswith("m0: TensorRT refuses the file (") and "parse" in said["error"]


def test_a_bad_node_is_refused_by_name_and_operator(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported[0] / "models/original.onnx")
    (node,) = [node for node in model.graph.node if node.output[0] == "logits"]
    node.op_type, node.domain, node.name = "Rotate", "nobody.knows", "the_last_one"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    said, plan = build(model.SerializeToString(), tmp_path)
    assert plan is None and said["exit_code"] == 3
    assert "node the_last_one (Rotate)" in said["error"]


def test_int32_bias_of_the_quantisers_defaults_is_refused_by_node(make_qdq, tmp_path):
    said, plan = build(make_qdq(bias_as_int32=True), tmp_path, precision="int8")
    assert plan is None
    assert "bias_dequantized" in said["error"] and "Int32" in said["error"]
    said, plan = build(make_qdq(bias_as_int32=False), tmp_path, precision="int8")
    assert plan is not None and said["image"] == [1, 8, 8]


def test_half_tensors_build_and_take_half_the_bytes(make_half, tmp_path):
    sizes = {}
    for half in (False, True):
        _, plan = build(make_half(half), tmp_path, precision="fp16" if half else "fp32")
        assert plan is not None
        sizes[half] = len(plan)
    assert 0.45 < sizes[True] / sizes[False] < 0.6


def test_every_attribute_that_the_adapter_uses_is_there_and_what_the_fake_lacks_is_not(make_half):
    used, absent = used_on("rtx", make_half(False)), sorted(ABSENT["rtx"])
    said = run(LOOK, json.dumps(used + absent))
    assert [name for name, has in zip(used, said["has"][: len(used)], strict=True) if not has] == []
    assert said["has"][len(used) :] == [False] * len(absent)


def test_a_truncated_plan_gives_none_and_a_reason(exported, tmp_path):
    (path,) = exported[0].glob("engines/*/original.plan")
    (tmp_path / "half.plan").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = run(DESERIALISE, tmp_path / "half.plan")
    assert not said["engine"]
    assert "Serialization assertion" in said["said"]


@pytest.fixture(scope="module")
def make_half():
    """One wide layer in float32 or, between casts, in half."""

    def make(half):
        onnx = pytest.importorskip("onnx")
        helper, floats = onnx.helper, onnx.TensorProto.FLOAT
        weights = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float16 if half else np.float32)
        nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
        if half:
            nodes.insert(1, helper.make_node("Cast", ["flat"], ["x"], to=onnx.TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", ["y"], ["logits"], to=floats))
        else:
            nodes[0].output[0], nodes[1].output[0] = "x", "logits"
        return _model(onnx, nodes, {"w": weights}, (1, 32, 32), 512)

    return make


@pytest.fixture(scope="module")
def make_qdq():
    """A quantised convolution, its bias in float32 or, as the quantiser does by default, in int32."""

    def make(*, bias_as_int32):
        onnx = pytest.importorskip("onnx")
        node, rng = onnx.helper.make_node, np.random.default_rng(0)
        constants = {
            "scale": np.float32(0.02), "zero": np.int8(0), "zero32": np.int32(0),
            "w": rng.integers(-100, 100, (10, 1, 8, 8)).astype(np.int8),
            "b": np.arange(10, dtype=np.int32 if bias_as_int32 else np.float32),
        }  # fmt: skip
        nodes = [
            node("QuantizeLinear", ["input", "scale", "zero"], ["x8"], name="quantize"),
            node("DequantizeLinear", ["x8", "scale", "zero"], ["x"], name="dequantize"),
            node("DequantizeLinear", ["w", "scale", "zero"], ["wf"], name="weights_dequantized"),
            node("Conv", ["x", "wf", "bf" if bias_as_int32 else "b"], ["y"], name="conv"),
            node("Flatten", ["y"], ["logits"]),
        ]
        if bias_as_int32:
            nodes.insert(3, node("DequantizeLinear", ["b", "scale", "zero32"], ["bf"], name="bias_dequantized"))
        return _model(onnx, nodes, constants, (1, 8, 8), 10)

    return make


def _model(onnx, nodes, constants, image, classes):
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", floats, ["batch", *image])],
        [helper.make_tensor_value_info("logits", floats, ["batch", classes])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
