"""What each TensorRT line is told when a plan is built, on recording fakes; real builds are in tests/export."""

import numpy as np
import pytest

from pdtool.errors import GateError, InputError
from pdtool.runtime.build_plan import BuildOptions, TimingCache, build_plan
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import LARGEST_BATCH, LINES, FakeTensorRT


@pytest.fixture(params=LINES)
def trt(request):
    return FakeTensorRT(request.param, FakeMemory())


def named(config):
    return {flag.name for flag in config._flags}


def test_options_reach_the_builder(trt, make_onnx):
    options = BuildOptions(batch_min=2, batch_opt=4, batch_max=8, workspace=2**26, tactic_dram=2**27, level=1)
    _, image = build_plan(trt, make_onnx(8), options, name="m0")
    assert image == (1, 32, 32)
    assert trt.config._profiles == [((2, 1, 32, 32), (4, 1, 32, 32), (8, 1, 32, 32))]
    assert trt.config._pools == {"WORKSPACE": 2**26, "TACTIC_DRAM": 2**27}
    assert trt.config._level == 1


def test_unsaid_options_are_tensorrts_own(trt, make_onnx):
    build_plan(trt, make_onnx(8), BuildOptions(), name="m0")
    assert (trt.config._pools, trt.config._level) == ({}, 3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_comes_from_the_file_and_flags_only_where_they_must(trt, make_onnx, precision):
    build_plan(trt, make_onnx(8), BuildOptions(precision=precision), name="m0")
    weak = {"fp32": set(), "fp16": {"FP16"}, "int8": {"INT8"}}[precision] if trt.line == "8.6" else set()
    assert named(trt.config) - {"TF32"} == weak
    assert ("TF32" in named(trt.config)) == (precision != "fp32")


def test_half_tensors_build_on_every_line(trt, make_onnx):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(make_onnx(8))
    for tensor in model.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    data = model.SerializeToString()
    build_plan(trt, data, BuildOptions(precision="fp16"), name="m0")
    if trt.line == "8.6":
        with pytest.raises(GateError, match=r"m0: TensorRT builds no plan \(fp16 precision has been set"):
            build_plan(trt, data, BuildOptions(precision="fp32"), name="m0")


def test_the_timing_cache_goes_from_build_to_build_where_it_asks_for_no_gpu(trt, make_onnx):
    timing = TimingCache()
    for _ in range(3):
        build_plan(trt, make_onnx(8), BuildOptions(), name="m0", timing=timing)
    assert timing.blob == (b"" if trt.line == "rtx" else b"...")


def test_a_refused_node_is_named(trt, make_onnx):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(make_onnx(8))
    model.graph.node.append(onnx.helper.make_node("Rotate", ["logits"], ["turned"], name="turn", domain="unknown"))
    where = r"node 3: " if trt.line == "8.6" else r"node turn \(Rotate\): "
    with pytest.raises(InputError, match=rf"m0: TensorRT refuses the file \({where}no importer for the operator\)"):
        build_plan(trt, model.SerializeToString(), BuildOptions(), name="m0")
    with pytest.raises(InputError, match=r"m0: TensorRT refuses the file \(Failed to parse"):
        build_plan(trt, make_onnx(8)[:-50], BuildOptions(), name="m0")


def test_a_failed_build_says_what_tensorrt_said(trt, make_onnx):
    with pytest.raises(GateError, match=r"builds no plan \(Could not find any implementation for node hidden\)"):
        build_plan(trt, make_onnx(8), BuildOptions(batch_max=LARGEST_BATCH + 1), name="m0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_min": 0}, "batch_min, batch_opt and batch_max should grow from 1 on, are 0, 1 and 32"),
        ({"batch_min": 2}, "are 2, 1 and 32"),
        ({"batch_opt": 5, "batch_max": 4}, "are 1, 5 and 4"),
        ({"workspace": 0}, "workspace should be at least 1 byte, is 0"),
        ({"tactic_dram": -1}, "tactic_dram should be at least 1 byte, is -1"),
        ({"level": 6}, r"level should lie in 0\.\.5, is 6"),
        ({"level": -1}, r"level should lie in 0\.\.5, is -1"),
    ],
)
def test_options_that_make_no_plan(options, said):
    with pytest.raises(ValueError, match=said):
        BuildOptions(**options)
