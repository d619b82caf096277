"""Finding TensorRT: what is said where it is not installed, does not load, or there is no GPU."""

import sys
from pathlib import Path

import pytest

from pdtool.errors import MissingError
from pdtool.runtime import tensorrt_session
from pdtool.runtime.tensorrt_module import find_tensorrt, library_of, logger_of, said
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import LINES, FakeTensorRT


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """A folder for packages of one's own, and none of the real ones."""
    names = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_libs", "tensorrt_rtx_bindings")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    elsewhere = [path for path in sys.path if not any(Path(path, name).exists() for name in names)]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    return tmp_path


def test_the_command_that_installs_it_is_named(nothing_installed):
    with pytest.raises(MissingError, match=r"pip install 'pdtool\[tensorrt\]'"):
        find_tensorrt("tensorrt")
    with pytest.raises(MissingError, match="pip install tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings"):
        find_tensorrt("tensorrt-rtx")


@pytest.mark.parametrize("error", ["OSError('libnvinfer.so.10: cannot open\\nshared object file')", "ImportError('x')"])
def test_a_package_whose_libraries_do_not_load_is_one_line(nothing_installed, error):
    (nothing_installed / "tensorrt.py").write_text(f"raise {error}\n")
    with pytest.raises(MissingError, match=r"tensorrt is installed but does not load \(") as caught:
        find_tensorrt("tensorrt")
    assert "\n" not in str(caught.value)


def test_rtx_loads_its_library_before_its_bindings(nothing_installed):
    (nothing_installed / "tensorrt_rtx_libs.py").write_text("loaded = True\n")
    (nothing_installed / "tensorrt_rtx_bindings.py").write_text(
        "import sys\nassert 'tensorrt_rtx_libs' in sys.modules\nclass ComputeCapability: pass\n"
    )
    assert library_of(find_tensorrt("tensorrt-rtx")) == "tensorrt-rtx"
    for name in ("tensorrt_rtx_libs", "tensorrt_rtx_bindings"):
        del sys.modules[name]


@pytest.mark.parametrize("line", LINES)
def test_the_logger_keeps_errors_or_else_warnings_each_once(line):
    trt = FakeTensorRT(line, FakeMemory())
    log = logger_of(trt)
    assert said(trt) == "TensorRT gave no reason"
    for severity, text in ((3, "fine"), (2, "odd"), (2, "odd"), (2, "strange\n  thing")):
        log.log(severity, text)
    assert said(trt) == "odd; strange thing"
    log.log(2, "odd")
    log.log(1, "broken")
    assert said(trt) == "broken"
    for i in range(10_000):
        log.log(1, f"error {i}")
    assert len(log.messages) == 50
    assert logger_of(trt) is log


def test_a_runtime_that_does_not_start_lets_the_gpu_go(monkeypatch):
    memory = FakeMemory()
    trt = FakeTensorRT("10.3", memory)

    def none(logger):
        logger.log(1, "CUDA initialization failure with error 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = none
    monkeypatch.setattr(tensorrt_session, "find_tensorrt", lambda library: trt)
    monkeypatch.setattr(tensorrt_session, "open_memory", lambda index: memory)
    with pytest.raises(MissingError, match=r"runtime does not start \(CUDA initialization failure with error 35\)"):
        tensorrt_session.open_session()
    assert memory.closed
