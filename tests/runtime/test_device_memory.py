"""Both providers of GPU memory, by their real packages, on a driver that is a stub: no GPU is needed or claimed.

What a real driver does is not tested here; what the packages are told, and that every push has its pop, is.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pdtool.errors import MissingError
from pdtool.runtime import device_memory

PROVIDERS = {"pycuda": "PycudaMemory", "cuda": "CudaMemory"}
PRELUDE = """
import ctypes, json, os, sys, threading
stub = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
sys.setdlopenflags(os.RTLD_LAZY)  # pycuda names more functions than the stub has
import numpy as np
from pdtool.errors import MissingError
from pdtool.runtime.memory_{module} import {name} as Memory

def left():
    return {{n: getattr(stub, "stub_" + n)() for n in ("depth", "retained", "blocks", "host_blocks", "streams")}}
"""
USE = """
memory = Memory()
said = {"gpu": memory.gpu, "cc": memory.compute_capability, "depth": left()["depth"]}
sent = np.arange(256, dtype=np.uint8)
came = []

def work():
    with memory.active():
        buffer = memory.io(300)
        with memory.active():
            buffer.host[:256] = sent
            memory.to_device(buffer, 256)
            memory.synchronise()
        if not integrated:
            buffer.host[:] = 0
        memory.to_host(buffer, 256)
        memory.synchronise()
        came.append(buffer.host[:256].tolist() == sent.tolist())
        memory.free_io(buffer)
    came.append(left()["depth"])

integrated = os.environ["STUB_INTEGRATED"] == "1"
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
with memory.active():
    address = memory.alloc(4096)
    said["stream"] = memory.stream != 0
    said["free"], said["total"] = memory.available()
    said["full"] = []
    for ask in (memory.alloc, memory.io):
        try:
            ask(2**21 if integrated else 2**20)  # discrete: the host's half fits, the device's does not
        except MemoryError as error:
            said["full"].append(str(error))
    memory.free(address)
other = ctypes.c_char()
stub.cuCtxPushCurrent_v2(ctypes.byref(other))  # as PyTorch might: it must be there again afterwards
memory.close()
memory.close()
current = ctypes.c_void_p()
stub.cuCtxPopCurrent_v2(ctypes.byref(current))
again = Memory()
again.close()
print(json.dumps(said | left() | {"came": came, "copies": stub.stub_copies(),
                                  "others": current.value == ctypes.addressof(other)}))
"""
NONE = """
try:
    Memory()
except MissingError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stub driver")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("stub_driver.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source, "-ldl"], check=True)
    return folder


@pytest.fixture(params=PROVIDERS)
def run(request, stub):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    prelude = PRELUDE.format(module=request.param, name=PROVIDERS[request.param])

    def run(code, **environment):
        environment = {**os.environ, "STUB_INTEGRATED": "0", "LD_LIBRARY_PATH": str(stub)} | environment
        done = subprocess.run(
            [sys.executable, "-c", prelude + code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("integrated", [False, True])
def test_bytes_go_and_come_and_nothing_is_left(run, integrated):
    said = run(USE, STUB_INTEGRATED=str(int(integrated)))
    assert (said["gpu"], said["cc"], said["stream"]) == ("Stub GPU", "8.7", True)
    assert said["came"] == [True, 0, True, 0]  # in this thread and in another, whose stack is empty again
    assert said["copies"] == (0 if integrated else 4)  # a shared memory is not copied
    assert (said["total"], said["free"]) == (2**20, 2**20 - 4096)
    asked = 2**21 if integrated else 2**20
    assert said["full"] == [f"{asked} bytes asked of Stub GPU, {2**20 - 4096} of {2**20} are free"] * 2
    assert said["others"]
    for name in ("depth", "retained", "blocks", "host_blocks", "streams"):
        assert said[name] == 0, name


def test_a_driver_without_a_gpu_is_one_line(run):
    said = run(NONE, STUB_DEVICES="0")
    assert said.startswith("no usable NVIDIA GPU 0 (") and said.endswith("; run `pdtool doctor`")


def test_without_any_provider_the_command_is_named(monkeypatch):
    monkeypatch.setattr(device_memory, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'pdtool\[tensorrt\]', or 'pdtool\[cuda\]'"):
        device_memory.open_memory()
