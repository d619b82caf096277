"""The memory budget seen from outside: what the system says that a screening process holds, with real ONNX files."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdtool.artifacts import FileEntry
from pdtool.files import sha256_bytes
from pdtool.runtime.bundle import models_digest, open_bundle, write_bundle, write_calibration
from pdtool.runtime.measure import measure_models
from pdtool.runtime.need import need

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the test reads Linux's /proc")

MIB = 2**20
SCREEN = """
import sys
import numpy as np
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.screener import Screener
frames = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 1), dtype=np.uint8)
budget = None if sys.argv[2] == "-" else int(sys.argv[2])
tiny = OnnxEngine(open(sys.argv[3], "rb").read(), name="tiny")  # the runtime's own memory is not the models'
tiny.run(np.zeros((1, 1, 32, 32), dtype=np.float32))
tiny.close()
with Screener.open(sys.argv[1], memory_budget=budget, seed=0, threads=1) as screener:
    print("ready", flush=True)
    sys.stdin.readline()
    for frame in frames:
        screener.screen(frame[None])
    did = screener.residency.counters
    print(did.loads, did.evictions, did.larger, did.peak_bytes, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def wide(workshop, make_onnx, tmp_path_factory):
    """The digits' bundle with other models in it: an original of 8 MiB, eight members of 4 MiB that never agree."""
    import shutil

    folder = tmp_path_factory.mktemp("budget") / "bundle"
    shutil.copytree(workshop / "bundle", folder)
    opened = open_bundle(folder)
    for i, model in enumerate(opened.models):
        (folder / model.file.path).write_bytes(make_onnx(2048 if i == 0 else 1024, seed=i))
    paths = {model.id: folder / model.file.path for model in opened.models}
    batch = opened.bundle.measured_batch
    measured = measure_models(paths, (1, 32, 32), batch=batch, threads=1)

    def replaced(model):
        data = paths[model.id].read_bytes()
        return dataclasses.replace(
            model,
            file=FileEntry(path=model.file.path, bytes=len(data), sha256=sha256_bytes(data)),
            resident_bytes=measured[model.id].resident_bytes,
            load_peak_bytes=measured[model.id].load_peak_bytes,
            run_bytes=measured[model.id].run_bytes,
        )

    rewrite(folder, opened, replaced)
    (folder.parent / "tiny.onnx").write_bytes(make_onnx(8))
    return folder


def rewrite(folder, opened, replaced):
    """Put changed models into a bundle, its calibration (every member asked for every frame) bound to them."""
    bundle = dataclasses.replace(
        opened.bundle,
        original=replaced(opened.bundle.original),
        members=tuple(map(replaced, opened.bundle.members)),
        calibration=None,
    )
    write_bundle(folder, bundle)
    count = len(bundle.members)
    calibration = dataclasses.replace(
        opened.calibration,
        models_sha256=models_digest(bundle),
        max_models=count,
        models_clean=(0.0,) * (count - 1) + (1.0,),
        flag_at=(None,) * (count - 1) + (1,),
        clear_at=(None,) * (count - 1) + (0,),
    )
    write_calibration(dataclasses.replace(opened, bundle=bundle), calibration)


def memory(process, name):
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def screen(folder, budget):
    """(most that the screening process grew by, its counters: loads, evictions, larger, reserved)."""
    command = [sys.executable, "-c", SCREEN, str(folder), "-" if budget is None else str(budget)]
    command.append(str(folder.parent / "tiny.onnx"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        before = memory(process, "VmRSS")
        process.stdin.write("go\n")
        counters = tuple(map(int, process.stdout.readline().split()))
        grown = memory(process, "VmHWM") - before
        process.stdin.write("end\n")
    assert process.returncode == 0
    return grown, counters


SLACK = 2 * MIB  # code that runs for the first time, frames and verdicts


def test_a_screening_process_stays_inside_its_budget(wide):
    opened = open_bundle(wide)
    needed = need(opened.bundle.original, opened.bundle.members)
    assert needed.least < needed.everything - 16 * MIB
    grown, (loads, evictions, larger, _) = screen(wide, None)
    assert needed.everything - needed.scratch - SLACK < grown < needed.everything + SLACK
    assert (loads, evictions, larger) == (9, 0, 0)
    for budget in (needed.least, needed.least + 9 * MIB):
        grown, (loads, evictions, larger, reserved) = screen(wide, budget)
        assert grown < budget + SLACK
        assert reserved <= budget
        assert evictions > 6 and larger == 0


def test_models_that_take_more_than_the_bundle_says_do_not_break_the_budget(wide, tmp_path):
    """Recorded on a machine, or by an engine, that needs half."""
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(wide, folder)
    shutil.copy(wide.parent / "tiny.onnx", tmp_path)
    opened = open_bundle(folder)
    rewrite(
        folder,
        opened,
        lambda m: dataclasses.replace(
            m, resident_bytes=m.resident_bytes // 2, load_peak_bytes=m.load_peak_bytes - m.resident_bytes // 2
        ),
    )
    original, members = opened.bundle.original, opened.bundle.members
    budget = need(original, members).least + 5 * MIB  # by the false records, five more members fit than do
    grown, (_, evictions, larger, reserved) = screen(folder, budget)
    assert larger == 9
    assert evictions > 6
    assert reserved <= budget
    assert grown < budget + SLACK
