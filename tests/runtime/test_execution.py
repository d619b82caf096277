"""ONNX Runtime's execution providers: no GPU here, so that what onnxruntime-gpu does without one is played to them."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from pdtool.errors import IntegrityError, MissingError
from pdtool.runtime import execution
from pdtool.runtime.build_plan import BuildOptions
from pdtool.runtime.execution import CUDA, TENSORRT, Execution, check_providers, open_session, providers

CPU = "CPUExecutionProvider"
GPUS: list[Execution] = ["onnxruntime-cuda", "onnxruntime-tensorrt"]
IMAGE = (3, 32, 32)
# Word for word, but for the middle of the first: 1.31.1 with a driver that reports no GPU, and without TensorRT.
NO_DEVICE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 std::conditional_t<THRW, void, common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, int) [with ERRTYPE = cudaError; bool THRW = true] CUDA failure 100: no "
    "CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; file=cuda_execution_provider.cc ; line=355; \n\n"
)
NO_TENSORRT = (
    "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
    "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please install "
    "TensorRT libraries as mentioned in the GPU requirements page"
)


class FakeSession:
    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def get_providers(self) -> list[str]:
        return self.names


class FakeOrt(ModuleType):
    """onnxruntime-gpu 1.31.1: CUDA and TensorRT are available whatever the machine has.

    `raises`: a provider that loads and does not start, for which InferenceSession falls back, with lines on stdout,
    unless `enable_fallback=0`. `silent`: one whose library does not load: stderr alone tells, never an exception.
    """

    __version__ = "1.31.1"

    def __init__(self, *, raises: Exception | None = None, silent: bool = False) -> None:
        super().__init__("onnxruntime")
        self.raises, self.silent, self.built = raises, silent, 0

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, CPU]

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file")

    def InferenceSession(self, model: bytes, settings: Any, providers: Any, enable_fallback: int = 1) -> FakeSession:
        for name, options in (named for named in providers if not isinstance(named, str)):
            folder = Path(options.get("trt_engine_cache_path", "/nowhere"))
            if name == TENSORRT and folder.is_dir() and not (folder / "graph_1_0_sm87.engine").exists():
                (folder / "graph_1_0_sm87.engine").write_bytes(b"engine of " + model)
                self.built += 1
        if self.raises is not None:
            if enable_fallback == 0 or not isinstance(self.raises, RuntimeError):
                raise self.raises
            print("EP Error. Falling back")
            return FakeSession([CPU])
        return FakeSession([CPU] if self.silent else [*(name for name, _ in providers), CPU])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the driver's library loads."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")


def open_fake(ort: FakeOrt, backend: Execution, model: bytes = b"onnx", cache: Path | None = None) -> Any:
    return open_session(ort, model, None, backend, image=IMAGE, cache=cache)


def identity() -> bytes:
    shape = ["batch", 2]
    given, answer = (onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("input", "logits"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["input"], ["logits"])], "g", [given], [answer])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def test_the_cpu_runs() -> None:
    session = open_session(onnxruntime, identity(), onnxruntime.SessionOptions(), "onnxruntime")
    images = np.array([[1, 2]], dtype=np.float32)
    assert session.get_providers() == [CPU]
    assert (session.run(None, {"input": images})[0] == images).all()


@pytest.mark.parametrize("backend", GPUS)
def test_onnxruntime_of_the_cpu_names_the_package(backend: Execution) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(MissingError, match="built without") as caught:
        open_session(onnxruntime, identity(), onnxruntime.SessionOptions(), backend, image=IMAGE)
    assert backend in str(caught.value) and "\n" not in str(caught.value)
    assert "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(caught.value)
    assert ("tensorrt<11" in str(caught.value)) == (backend == "onnxruntime-tensorrt")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("backend", GPUS)
def test_without_a_driver_no_session_is_tried(backend: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(MissingError, match=r"no NVIDIA driver: libcuda\.so\.1: cannot open"):
        open_fake(FakeOrt(raises=AssertionError("a session was tried")), backend)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("backend", GPUS)
def test_a_silent_fall_back_is_found(backend: Execution, capsys: pytest.CaptureFixture[str]) -> None:
    """What onnxruntime-gpu 1.31.1 does where libcublasLt.so.13 or libcuda.so.1 is missing: it runs on the CPU."""
    with pytest.raises(MissingError, match="ONNX Runtime took CPUExecutionProvider instead"):
        open_fake(FakeOrt(silent=True), backend)
    assert capsys.readouterr().out == ""


def test_the_loader_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own path is tried, with the real loader: an empty file is no library."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    installed = ModuleType("onnxruntime")
    installed.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setattr(execution, "require", lambda module, purpose: installed)
    with pytest.raises(MissingError, match=r"libonnxruntime_providers_cuda\.so: file too short"):
        check_providers(FakeSession([CPU]), "onnxruntime-cuda")


def test_cuda_in_place_of_tensorrt_is_no_success() -> None:
    with pytest.raises(MissingError, match="took CUDAExecutionProvider, CPUExecutionProvider instead"):
        check_providers(FakeSession([CUDA, CPU]), "onnxruntime-tensorrt")
    check_providers(FakeSession([TENSORRT, CUDA, CPU]), "onnxruntime-tensorrt")
    check_providers(FakeSession([CUDA, CPU]), "onnxruntime-cuda")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("backend", "said", "expected"),
    [
        ("onnxruntime-cuda", NO_DEVICE, "CUDA failure 100: no CUDA-capable device is detected"),
        (
            "onnxruntime-tensorrt",
            NO_TENSORRT,
            "Please install TensorRT libraries as mentioned in the GPU requirements page",
        ),
    ],
)
def test_a_provider_that_does_not_start(
    backend: Execution, said: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingError) as caught:
        open_fake(FakeOrt(raises=RuntimeError(said)), backend)
    assert f"{backend} does not start here ({expected}); " in str(caught.value)
    assert capsys.readouterr().out == ""  # InferenceSession's own fall-back prints


@pytest.mark.usefixtures("driver")
def test_a_full_gpu_is_a_want_of_memory() -> None:
    with pytest.raises(MemoryError, match="CUDA failure 2: out of memory"):
        open_fake(FakeOrt(raises=RuntimeError("CUDA failure 2: out of memory ; GPU=0")), "onnxruntime-cuda")


@pytest.mark.usefixtures("driver")
def test_what_is_wrong_with_a_file_stays_as_it_is() -> None:
    class InvalidProtobuf(Exception):
        pass

    with pytest.raises(InvalidProtobuf):
        open_fake(FakeOrt(raises=InvalidProtobuf("protobuf parsing failed")), "onnxruntime-cuda")


@pytest.mark.usefixtures("driver")
def test_fp32_stays_fp32_and_kernels_are_not_chosen_by_the_clock() -> None:
    (cuda,) = providers(FakeOrt(), "onnxruntime-cuda")
    assert cuda[1] == {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
    tensorrt, after = providers(FakeOrt(), "onnxruntime-tensorrt", image=IMAGE)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert (tensorrt[0], after) == (TENSORRT, cuda)


@pytest.mark.usefixtures("driver")
def test_one_engine_for_all_batches() -> None:
    build = BuildOptions(batch_opt=4, batch_max=8, workspace=2**26, level=2)
    named, _ = providers(FakeOrt(), "onnxruntime-tensorrt", image=IMAGE, build=build)
    assert named[1] == {
        "trt_profile_min_shapes": "input:1x3x32x32",
        "trt_profile_opt_shapes": "input:4x3x32x32",
        "trt_profile_max_shapes": "input:8x3x32x32",
        "trt_max_workspace_size": 2**26,
        "trt_builder_optimization_level": 2,
    }
    with pytest.raises(ValueError, match="shape of one image"):
        providers(FakeOrt(), "onnxruntime-tensorrt")


@pytest.mark.usefixtures("driver")
def test_every_model_has_its_own_engine_and_keeps_it(tmp_path: Path) -> None:
    """ONNX Runtime gives equally named graphs one file name: in one folder, all members would run one engine."""
    ort = FakeOrt()
    for model in (b"member 1", b"member 2", b"member 1"):
        open_fake(ort, "onnxruntime-tensorrt", model, tmp_path / "engines" / "onnxruntime")
    assert ort.built == 2
    engines = sorted(path.read_bytes() for path in tmp_path.rglob("*.engine"))
    assert engines == [b"engine of member 1", b"engine of member 2"]


@pytest.mark.usefixtures("driver")
def test_the_cache_is_named_in_the_words_that_onnxruntime_reads(tmp_path: Path) -> None:
    """1.31.1 reads "True" as text from Python's True and refuses "1" ("should be 'True' or 'False'")."""
    named, _ = providers(FakeOrt(), "onnxruntime-tensorrt", image=IMAGE, engines=tmp_path / "a", timing=tmp_path)
    options = dict(named[1])  # type: ignore[arg-type]  # not a name alone
    assert options["trt_engine_cache_enable"] is True and options["trt_timing_cache_enable"] is True
    assert options["trt_engine_cache_path"] == str(tmp_path / "a")
    assert options["trt_timing_cache_path"] == str(tmp_path)


@pytest.mark.usefixtures("driver")
def test_a_damaged_or_unfinished_engine_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(MissingError):  # the build ends with the process, or with an error
        open_fake(FakeOrt(raises=RuntimeError(NO_DEVICE)), "onnxruntime-tensorrt", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    ort = FakeOrt()
    open_fake(ort, "onnxruntime-tensorrt", cache=tmp_path)
    (engine,) = tmp_path.rglob("*.engine")
    assert (ort.built, engine.read_bytes()) == (1, b"engine of onnx")
    engine.write_bytes(b"engine of someone")
    with pytest.raises(IntegrityError, match=r"\.engine: SHA-256 is not the recorded one; delete"):
        open_fake(ort, "onnxruntime-tensorrt", cache=tmp_path)


def test_the_driver_is_looked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    providers(FakeOrt(), "onnxruntime-cuda")
    assert asked == ["libcuda.so.1"]
