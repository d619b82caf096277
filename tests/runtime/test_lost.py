"""What is lost while frames are screened: those that need it are unscreened, others unharmed, nothing stays open."""

import dataclasses
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from pdtool.data import load_data
from pdtool.errors import InputError
from pdtool.files import sha256_bytes
from pdtool.runtime import engine_onnx
from pdtool.runtime.bundle import models_digest, open_bundle, write_bundle, write_calibration
from pdtool.runtime.need import need
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes


@pytest.fixture(scope="module")
def images():
    clean = load_data("digits", (1, 32, 32), role="test", limit=60).images
    noise = np.random.default_rng(0).integers(0, 256, clean.shape, dtype=np.uint8)
    return np.concatenate([clean, (clean // 2 + noise // 2).astype(np.uint8)])  # some clear, some flagged, some hard


@pytest.fixture
def make_wide():
    """A file that gives each picture's first so many pixels."""

    def make(answers):
        onnx = pytest.importorskip("onnx")
        helper, floats = onnx.helper, onnx.TensorProto.FLOAT
        ends = [
            onnx.numpy_helper.from_array(np.array([value]), name)
            for name, value in (("a", 0), ("b", answers), ("c", 1))
        ]
        nodes = [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Slice", ["flat", "a", "b", "c"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "foreign",
            [helper.make_tensor_value_info("input", floats, ["batch", 1, 32, 32])],
            [helper.make_tensor_value_info("logits", floats, None)],
            ends,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    return make


@pytest.mark.parametrize("harm", ["deleted", "changed", "no memory"])
@pytest.mark.parametrize("threads, which", [(1, "last"), (2, "last"), (2, "first")])
def test_frames_that_need_a_lost_member_are_unscreened_and_the_others_unharmed(bundle, images, harm, threads, which):
    with Screener.open(bundle, seed=5) as screener:
        plain = screener.screen(images)
    deepest = max(verdict.models_used for verdict in plain) if which == "last" else 1
    with Screener.open(bundle, seed=5, threads=threads) as screener:
        lost = screener.residency.order[deepest - 1]
        path = bundle / lost.file.path
        data = path.read_bytes()
        if harm == "deleted":
            path.unlink()
        elif harm == "changed":
            path.write_bytes(b"x" * len(data))
        else:
            load = screener.residency.load

            def without_memory(model):
                if model == lost:
                    raise MemoryError("no memory to load it")
                return load(model)

            screener.residency.load = without_memory
        harmed = screener.screen(images)
        path.write_bytes(data)
        if harm == "no memory":
            screener.residency.load = load
        again = screener.screen(images)
    for before, came, after in zip(plain, harmed, again, strict=True):
        if before.models_used < deepest:
            assert (came.verdict, came.models_used, came.label) == (before.verdict, before.models_used, before.label)
        else:
            assert came.verdict == "unscreened" and came.label is None
            assert came.reason is not None and f"member {lost.id} could not be asked (" in came.reason
        assert (after.verdict, after.models_used) == (before.verdict, before.models_used)
    assert screener.residency.reserved == 0


def test_without_the_original_nothing_is_screened(bundle, images):
    with Screener.open(bundle, seed=5) as screener:
        (bundle / screener.residency.original.file.path).unlink()
        verdicts = screener.screen(images[:5])
    assert {verdict.verdict for verdict in verdicts} == {"unscreened"}
    assert all("the original could not be asked" in (verdict.reason or "") for verdict in verdicts)


def test_a_member_that_gives_another_number_of_answers_decides_nothing(bundle, images, make_wide):
    """A foreign file, its size and hash in the manifest: 3,072 answers are no ten classes."""
    opened = open_bundle(bundle)
    members = []
    for member in opened.bundle.members:
        data = make_wide(30)
        (bundle / member.file.path).write_bytes(data)
        entry = dataclasses.replace(member.file, bytes=len(data), sha256=sha256_bytes(data))
        members.append(dataclasses.replace(member, file=entry))
    changed = write_bundle(bundle, dataclasses.replace(opened.bundle, members=tuple(members), calibration=None))
    assert opened.calibration is not None
    bound = dataclasses.replace(opened.calibration, models_sha256=models_digest(changed))
    write_calibration(dataclasses.replace(opened, bundle=changed), bound)
    with Screener.open(bundle, seed=5) as screener:
        verdicts = screener.screen(images[:5])
    assert {verdict.verdict for verdict in verdicts} == {"unscreened"}
    assert all("its file gives (30,) answers, expected (10,)" in (verdict.reason or "") for verdict in verdicts)
    with pytest.raises(InputError, match=r"its file gives \(30,\) answers, expected \(10,\)"):
        collect_votes(open_bundle(bundle), images)


def test_ctrl_c_while_a_load_ahead_is_waited_for_leaves_nothing_open(workshop, images, monkeypatch):
    needed = need(open_bundle(workshop / "bundle").bundle.original, open_bundle(workshop / "bundle").bundle.members)
    before = engine_onnx._open
    real = Future.result
    interrupted: list[int] = []

    def result(self, timeout=None):
        if threading.current_thread() is threading.main_thread() and not interrupted and watching:
            interrupted.append(1)
            raise KeyboardInterrupt
        return real(self, timeout)

    watching = False
    monkeypatch.setattr(Future, "result", result)
    with Screener.open(workshop / "bundle", seed=5, memory_budget=needed.least, threads=1) as screener:
        screener.screen(images)
        assert screener.residency._ahead.model is not None
        watching = True
        with pytest.raises(KeyboardInterrupt):
            for _ in range(20):
                screener.screen(images[::-1])
    assert interrupted and engine_onnx._open == before
    assert screener.residency.reserved == 0
