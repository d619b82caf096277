"""One contract for all engines: ONNX Runtime for real, the TensorRT adapter on recording fakes of each line."""

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from pdtool.errors import InputError, IntegrityError, PdtoolError
from pdtool.runtime.build_plan import BuildOptions, build_plan
from pdtool.runtime.engine_onnx import OnnxEngine
from pdtool.runtime.engine_tensorrt import TensorRTEngine
from pdtool.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeMemory
from tests.runtime.fake_tensorrt import LINES, FakeTensorRT

LARGEST = 6  # batch of the plans built here


class Onnx:
    """The real provider."""

    def load(self, onnx, name="m0"):
        return OnnxEngine(onnx, name=name, threads=1)

    def close(self):
        pass


class Tensor:
    """The TensorRT adapter on a fake line and a fake GPU."""

    def __init__(self, line, **memory):
        self.memory = FakeMemory(**memory)
        self.trt = FakeTensorRT(line, self.memory)
        self.session = TensorRTSession(self.trt, self.memory)

    def plan(self, onnx, **options):
        options = {"batch_max": LARGEST} | options
        with self.session.active():
            return build_plan(self.trt, onnx, BuildOptions(**options), name="m0")[0]

    def load(self, onnx, name="m0", **options):
        try:
            plan = self.plan(onnx, **options)
        except InputError:
            plan = self.trt.plan_of(onnx)  # a broken file as a broken plan
        return TensorRTEngine(self.session, plan, name=name)

    def close(self):
        self.session.close()


PROVIDERS: dict[str, Callable[[], Any]] = {"onnxruntime": Onnx}
PROVIDERS |= {f"fake {line}": partial(Tensor, line, odd=24) for line in LINES}
PROVIDERS |= {"fake 10.3, shared memory": partial(Tensor, "10.3", integrated=True)}


@pytest.fixture(params=PROVIDERS)
def provider(request):
    provider = PROVIDERS[request.param]()
    yield provider
    provider.close()


@pytest.fixture(params=LINES)
def line(request):
    tensor = Tensor(request.param)
    yield tensor
    tensor.close()


def images(count, seed=0):
    return np.random.default_rng(seed).random((count, 1, 32, 32), dtype=np.float32)


def expected(onnx, batch):
    """The layers of `make_onnx` in NumPy."""
    import onnx as package

    hidden, head = (package.numpy_helper.to_array(t) for t in package.load_from_string(onnx).graph.initializer)
    return batch.reshape(len(batch), 1024) @ hidden @ head


@pytest.mark.parametrize("count", [1, LARGEST, LARGEST + 1, 3 * LARGEST])
def test_logits_are_those_of_the_file_for_any_batch(provider, make_onnx, count):
    onnx = make_onnx(8)
    engine = provider.load(onnx)
    batch = images(count)
    np.testing.assert_allclose(engine.run(batch), expected(onnx, batch), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(engine.run(batch[::-1]), expected(onnx, batch[::-1]), rtol=1e-4, atol=1e-3)
    engine.close()


def test_an_empty_batch_gives_no_logits(provider, make_onnx):
    engine = provider.load(make_onnx(8))
    assert engine.run(images(0)).shape == (0, 10)
    engine.close()


def test_it_says_what_loading_took_or_leaves_it_to_the_process(provider, make_onnx):
    engine = provider.load(make_onnx(64))
    assert engine.measured_bytes is None or engine.measured_bytes > 64 * 1024 * 4
    engine.close()


def test_engines_share_a_device_and_not_their_answers(provider, make_onnx):
    files = [make_onnx(width, seed=width) for width in (4, 8, 16)]
    engines = [provider.load(onnx, name=f"m{i}") for i, onnx in enumerate(files)]
    batch = images(4)
    answers = [engine.run(batch) for engine in engines for _ in range(2)][::2]  # kept while others run
    for onnx, answer in zip(files, answers, strict=True):
        np.testing.assert_allclose(answer, expected(onnx, batch), rtol=1e-4, atol=1e-3)
    engines[1].close()
    np.testing.assert_allclose(engines[2].run(batch), answers[2])
    for engine in engines:
        engine.close()


def test_threads_take_turns(provider, make_onnx):
    files = [make_onnx(8, seed=seed) for seed in range(2)]
    engines = [provider.load(onnx, name=f"m{i}") for i, onnx in enumerate(files)]
    wrong = []

    def work(i):
        for seed in range(20):
            batch = images(1 + seed % LARGEST, seed)
            if not np.allclose(engines[i].run(batch), expected(files[i], batch), rtol=1e-4, atol=1e-3):
                wrong.append((i, seed))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for engine in engines:
        engine.close()


def test_a_closed_engine_is_closed(provider, make_onnx):
    engine = provider.load(make_onnx(8))
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.run(images(1))


def test_a_file_that_is_none_is_refused_by_name(provider, make_onnx):
    with pytest.raises(PdtoolError, match="m7") as caught:
        provider.load(make_onnx(8)[:100], name="m7")
    assert "\n" not in str(caught.value)


def test_ends_come_in_order(line, make_onnx):
    engines = [line.load(make_onnx(8), name=f"m{i}") for i in range(3)]
    engines[1].close()
    assert line.trt.events[-2:] == ["context destroyed", "engine destroyed"]
    line.session.close()
    assert line.trt.events[-5:] == ["context destroyed", "engine destroyed"] * 2 + ["runtime destroyed"]
    assert line.memory.closed and not line.memory.blocks and line.memory.engine_bytes == 0
    with pytest.raises(RuntimeError, match="closed"):
        engines[0].run(images(1))


def test_one_scratch_buffer_as_large_as_the_largest_and_none_allocated_per_frame(line, make_onnx):
    engines = [line.load(make_onnx(8), batch_max=batch) for batch in (8, 2, 4)]
    assert [engine.scratch_bytes for engine in engines] == [8192, 2048, 4096]
    allocations, blocks = line.memory.allocations, len(line.memory.blocks)
    assert (allocations, blocks) == (3, 3)  # scratch, input, output: the largest came first
    engines.append(line.load(make_onnx(8), batch_max=16))
    assert (line.memory.allocations, len(line.memory.blocks)) == (6, 3)  # grown, not added
    for _ in range(50):
        for engine in engines:
            engine.run(images(2))
    assert line.memory.allocations == 6
    assert line.session.held_bytes == 16 * 1024 + 512 + 16 * (1024 + 10) * 4
    assert sum(block.nbytes for block in line.memory.blocks.values()) == line.session.held_bytes


def test_loading_again_and_again_leaves_nothing(line, make_onnx):
    plan = line.plan(make_onnx(8))
    engines = []
    for _ in range(5):
        engine = TensorRTEngine(line.session, plan, name="m0")
        engine.run(images(1))
        engine.close()
        engines.append(weakref.ref(engine))
        del engine
        assert (line.memory.engine_bytes, len(line.memory.blocks)) == (0, 3)
    assert [engine() for engine in engines] == [None] * 5


def test_what_an_engine_takes_is_known(line, make_onnx):
    plan = line.plan(make_onnx(64))
    engine = TensorRTEngine(line.session, plan, name="m0")
    assert engine.measured_bytes == len(plan)
    assert engine.weights_bytes == (len(plan) if line.trt.line in ("10.16", "11.4", "rtx") else None)


def test_a_batch_below_the_profile_is_filled_up(line, make_onnx):
    onnx = make_onnx(8)
    engine = line.load(onnx, batch_min=4, batch_opt=4, batch_max=4)
    batch = images(6)
    np.testing.assert_allclose(engine.run(batch), expected(onnx, batch), rtol=1e-4, atol=1e-3)
    assert line.trt.events[-2:] == ["run 4", "run 4"]


@pytest.mark.parametrize("batch", [images(2).astype(np.float64), images(2)[:, :, 1:], images(2)[:, 0], images(2)[0]])
def test_other_frames_are_refused(provider, make_onnx, batch):
    engine = provider.load(make_onnx(8))
    with pytest.raises(InputError, match=r"m0: expected float32 images \(N, 1, 32, 32\), got"):
        engine.run(batch)


def test_a_full_gpu_is_one_line_and_harms_no_other_engine(make_onnx):
    tensor, onnx = Tensor("10.3", total=2**18), make_onnx(8)
    engine = tensor.load(onnx)
    with pytest.raises(MemoryError, match=r"m1: the GPU has no room for the buffers that its engine needs"):
        tensor.load(onnx, name="m1", batch_max=512)
    with pytest.raises(MemoryError, match=r"m2: the GPU has no room for the engine \(.*out of memory"):
        tensor.load(make_onnx(64), name="m2")
    batch = images(3)
    np.testing.assert_allclose(engine.run(batch), expected(onnx, batch), rtol=1e-4, atol=1e-3)
    assert (tensor.trt.alive["engine"], tensor.trt.alive["context"]) == (1, 1)
    tensor.close()
    assert tensor.memory.engine_bytes == 0 and not tensor.memory.blocks


def test_another_versions_plan_never_reaches_tensorrt(line, make_onnx):
    other = Tensor("11.4" if line.trt.line != "11.4" else "10.3")
    plan = other.plan(make_onnx(8))
    other.close()
    version = line.trt.__version__
    with pytest.raises(IntegrityError, match=f"was built by tensorrt 1.*, here runs tensorrt(-rtx)? {version}"):
        TensorRTEngine(line.session, plan, name="m0")
    assert "engine destroyed" not in line.trt.events


def test_tensorrts_own_words_are_in_the_error(line, make_onnx):
    plan = line.plan(make_onnx(8))
    with pytest.raises(InputError, match=r"m0: TensorRT refuses the plan \(Serialization assertion failed"):
        TensorRTEngine(line.session, plan[:-3000], name="m0")
    broken = line.trt.plan_of(make_onnx(8), image=[1, 32, 32], answer=[10], batches=[1, 1, 2], scratch=0, breaks=True)
    engine = TensorRTEngine(line.session, broken, name="m0")
    with pytest.raises(InputError, match=r"m0: TensorRT refuses to run \(illegal instruction\)"):
        engine.run(images(1))


def test_a_plan_with_half_inputs_is_refused(line, make_onnx):
    facts = {"image": [1, 32, 32], "answer": [10], "batches": [1, 1, 2], "scratch": 0, "half": ["input"]}
    with pytest.raises(InputError, match=r"one float32 input and output.*of other types \['input'\]"):
        TensorRTEngine(line.session, line.trt.plan_of(make_onnx(8), **facts), name="m0")
    assert line.trt.alive["engine"] == 0


@pytest.mark.parametrize("inputs, outputs", [(0, 1), (2, 1), (1, 2)])
def test_a_graph_with_other_inputs_and_outputs_is_refused_by_name(make_onnx, inputs, outputs):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(make_onnx(8))
    if inputs == 0:
        blank = onnx.numpy_helper.from_array(np.zeros((1, 1, 32, 32), dtype=np.float32), "input")
        model.graph.initializer.append(blank)
        del model.graph.input[0]
    if inputs == 2:
        more = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1])
        model.graph.input.append(more)
    if outputs == 2:
        model.graph.output.append(onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, None))
    with pytest.raises(InputError, match="m7: expected one input and one output of float32"):
        OnnxEngine(model.SerializeToString(), name="m7")


def test_a_file_that_fails_in_a_run_is_refused_by_name(make_onnx):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(make_onnx(8))
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Reshape", ["input", "shape"], ["flat"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, -1]), "shape"))  # thirds of 1,024 pixels
    engine = OnnxEngine(model.SerializeToString(), name="m7")
    with pytest.raises(InputError, match="m7: ONNX Runtime cannot run the file") as caught:
        engine.run(images(1))
    assert "\n" not in str(caught.value)
    engine.close()
