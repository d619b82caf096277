"""Every attribute that the adapter uses exists in NVIDIA's real bindings, and the fakes are like them.

The bindings import without TensorRT itself: the three libraries that they link to are replaced by stubs. Their wheels
are not in any extra; PDTOOL_TENSORRT_WHEELS names the folder that holds them (CONTRIBUTING.md has the command).
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pdtool.runtime.build_plan import BuildOptions, TimingCache, build_plan
from pdtool.runtime.engine_tensorrt import TensorRTEngine
from pdtool.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import ABSENT, FakeTensorRT

FOLDER = os.environ.get("PDTOOL_TENSORRT_WHEELS")
WHEELS = {"8.6": "tensorrt_*bindings-8.6.*", "10.3": "tensorrt_*bindings-10.3.*", "10.16": "tensorrt_*bindings-10.16.*",
          "11.4": "tensorrt_*bindings-11.4.*"}  # fmt: skip
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "getBuilderPluginRegistry", "getPluginRegistry", "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion", "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
# What the adapter and its errors use of the enumerations; a constant of the module needs no class.
ENUMS = ("TensorIOMode", "DataType", "MemoryPoolType", "BuilderFlag", "NetworkDefinitionCreationFlag")
LOOK = """
import json, sys
import tensorrt_bindings as trt
owner = lambda name: getattr(trt, name, None) if name else trt
asked = json.loads(sys.stdin.read())
answer = {"version": trt.__version__, "has": [hasattr(owner(o), n) for o, n in asked]}

class Log(trt.ILogger):
    def __init__(self):
        super().__init__()
    def log(self, severity, message):
        assert severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING, trt.ILogger.INFO)

log = Log()
for kind in (trt.Runtime, trt.Builder):
    try:
        kind(log)
        answer[kind.__name__] = "made"
    except TypeError as error:
        answer[kind.__name__] = str(error)
setter = trt.IExecutionContext.device_memory.fset
answer["device_memory can be set"] = setter is not None
answer["flags"] = {n: int(v) for n, v in trt.NetworkDefinitionCreationFlag.__members__.items()}
answer["context"] = trt.ICudaEngine.create_execution_context.__doc__
print(json.dumps(answer))
"""

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(FOLDER is None, reason="PDTOOL_TENSORRT_WHEELS names no folder with TensorRT's binding wheels"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the stub libraries"),
]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}() {{ return 0; }}\n" for name in FUNCTIONS))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "stub.so", source], check=True)
    for library in LIBRARIES:
        for major in (8, 10, 11):
            (folder / f"lib{library}.so.{major}").symlink_to("stub.so")
    return folder


@pytest.fixture(params=WHEELS)
def line(request):
    return request.param


@pytest.fixture
def look(line, stubs, tmp_path):
    wheels = sorted(Path(str(FOLDER)).glob(WHEELS[line]))
    if not wheels:
        pytest.skip(f"no {WHEELS[line]} in {FOLDER}")
    with zipfile.ZipFile(wheels[-1]) as archive:
        archive.extractall(tmp_path)

    def ask(names):
        done = subprocess.run(
            [sys.executable, "-c", LOOK],
            input=json.dumps(names),
            env={"LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def used_on(line, onnx):
    """What the adapter asks of a line's module: recorded while it builds, loads, runs and fails."""
    memory = FakeMemory()
    trt = FakeTensorRT(line, memory)
    options = BuildOptions(precision="int8", workspace=2**20, tactic_dram=2**20, level=2)
    session = TensorRTSession(trt, memory)
    plan, _ = build_plan(trt, onnx, options, name="m0", timing=TimingCache())
    build_plan(trt, onnx, BuildOptions(), name="m0")
    engine = TensorRTEngine(session, plan, name="m0")
    engine.run(np.zeros((2, 1, 32, 32), dtype=np.float32))
    with pytest.raises(Exception, match="m0"):
        build_plan(trt, bad_node(onnx), options, name="m0")
    session.close()
    used = set(trt.used) | {(name, flag) for name in ENUMS for flag in getattr(trt, name).__members__}
    assert len(used) > 40
    return sorted(used)


def bad_node(data):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(data)
    model.graph.node.append(onnx.helper.make_node("Rotate", ["logits"], ["turned"], name="turn", domain="unknown"))
    return model.SerializeToString()


def test_every_attribute_that_the_adapter_uses_is_there(line, look, make_onnx):
    used = used_on(line, make_onnx(8))
    answer = look(used)
    assert answer["version"].startswith(line + ".")
    missing = [name for name, has in zip(used, answer["has"], strict=True) if not has]
    assert missing == []


def test_what_a_fake_lacks_the_real_binding_lacks(line, look):
    absent = sorted(ABSENT[line])
    assert look(absent)["has"] == [False] * len(absent)
    there = sorted(set().union(*(ABSENT[other] for other in WHEELS)) - ABSENT[line])
    assert look(there)["has"] == [True] * len(there)


def test_the_real_binding_behaves_as_the_adapter_expects(line, look):
    answer = look([])
    assert answer["device_memory can be set"]
    assert "nullptr" in answer["Runtime"] and "nullptr" in answer["Builder"]  # a TypeError: what MissingError is for
    assert ("strategy" in answer["context"]) == (line != "8.6")
    number = answer["flags"].get("STRONGLY_TYPED", answer["flags"].get("EXPLICIT_BATCH"))
    assert number == {"8.6": 0, "10.3": 1, "10.16": 1, "11.4": 0}[line]
