"""A system without memory, for real: the address space of a process is closed while ONNX Runtime asks for more."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from pdtool.runtime.engine_onnx import OnnxEngine

def space():
    return [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize")][0]

def limit(more):
    resource.setrlimit(resource.RLIMIT_AS, (-1 if more is None else space() + more * 2**20, -1))

small, large = (open(path, "rb").read() for path in sys.argv[1:])
engine = OnnxEngine(small, name="m0")
one = np.ones((1, 1, 32, 32), dtype=np.float32)
before = engine.run(one)
for more in (1, 8, 40):
    limit(more)
    try:
        OnnxEngine(large, name="m1")
    except MemoryError as error:
        print(error)
    limit(None)
many = np.ones((200000, 1, 32, 32), dtype=np.float32)
limit(1)
try:
    engine.run(many)
except MemoryError as error:
    print(error)
limit(None)
print(bool(np.array_equal(engine.run(one), before)))
loaded = OnnxEngine(large, name="m1")
loaded.close()
engine.close()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_no_memory_is_told_as_such_and_harms_no_other_engine(make_onnx, tmp_path):
    for name, width in (("small", 8), ("large", 8192)):
        (tmp_path / name).write_bytes(make_onnx(width))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, ran, unharmed = done.stdout.splitlines()
    assert told == ["m1: no memory to load it"] * 3
    assert ran == "m0: no memory to run 200000 images"
    assert unharmed == "True"
    assert done.stderr == ""  # nothing but the exception
