"""Module objects that behave like TensorRT 8.6, 10.3, 10.16, 11.4 and TensorRT-RTX, on `FakeMemory`.

Each line has the attributes that its real binding has among those that decide anything (`test_tensorrt_surface.py`
holds them against the real bindings), fails by returning None or False as TensorRT does, and refuses what TensorRT
leaves undefined: a wrong order of calls, scratch that is too small, two contexts at work at once, an engine that
outlives its runtime. A plan is a real header and an ONNX file; an engine runs it with ONNX Runtime on the GPU's memory.
"""

import enum
import json
import struct
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from pdtool.errors import InputError
from pdtool.runtime.engine_onnx import OnnxEngine

LINES = ("8.6", "10.3", "10.16", "11.4", "rtx")
VERSIONS = {"8.6": "8.6.1", "10.3": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106", "rtx": "1.7.1.116"}
NEW_MEMORY = {("ICudaEngine", "device_memory_size_v2"), ("IExecutionContext", "set_device_memory")}
STAT = {("ICudaEngine", "get_engine_stat"), ("", "EngineStat")}
OLD = {
    ("ICudaEngine", "device_memory_size"),
    ("ICudaEngine", "create_execution_context_without_device_memory"),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    ("BuilderFlag", "FP16"),
    ("BuilderFlag", "INT8"),
}
NODE = {("ParserError", "node_name"), ("ParserError", "node_operator")}
TYPED = {("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"), ("", "ExecutionContextAllocationStrategy")}
RTX = {("", "ComputeCapability")}
ABSENT = {  # (class, attribute); "" is the module
    "8.6": NEW_MEMORY | STAT | NODE | TYPED | RTX,
    "10.3": STAT | RTX,
    "10.16": RTX,
    "11.4": OLD | RTX,
    "rtx": OLD,
}
LARGEST_BATCH = 4096  # above it the fake builder finds no kernel


def flags(name, *words):
    return enum.IntEnum(name, list(words), start=0)


class FakeTensorRT:
    """The module object of one line; `events` records what happened, `used` the attributes that were asked for."""

    Runtime: Any
    wrong = False  # engines answer with the logits of other classes

    def __init__(self, line, memory):
        self.line, self.memory = line, memory
        self.events, self.used = [], set()
        self.alive = {"runtime": 0, "engine": 0, "context": 0}
        self.working = None  # the context whose work the stream has not finished
        self.absent = ABSENT[line]
        self.__version__ = VERSIONS[line]
        for kind in (Runtime, Builder, OnnxParser):
            setattr(self, kind.__name__, self._maker(kind))
        self.ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3})
        self.TensorIOMode = flags("TensorIOMode", "NONE", "INPUT", "OUTPUT")
        self.DataType = flags("DataType", "FLOAT", "HALF")
        self.MemoryPoolType = flags("MemoryPoolType", "WORKSPACE", "TACTIC_DRAM")
        self.EngineStat = flags("EngineStat", "TOTAL_WEIGHTS_SIZE")
        self.ComputeCapability = flags("ComputeCapability", "CURRENT")
        self.ExecutionContextAllocationStrategy = flags("ExecutionContextAllocationStrategy", "STATIC", "USER_MANAGED")
        self.BuilderFlag = flags("BuilderFlag", *self._there("BuilderFlag", "TF32", "FP16", "INT8"))
        both = self._there("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", "STRONGLY_TYPED")
        self.NetworkDefinitionCreationFlag = flags("NetworkDefinitionCreationFlag", *both)
        for owner, name in self.absent:
            if owner == "":
                delattr(self, name)

    def __getattribute__(self, name):
        value = object.__getattribute__(self, name)
        if name[0].isupper():
            self.used.add(("", name))
        return value

    def _there(self, owner, *names):
        return [name for name in names if (owner, name) not in self.absent]

    def _maker(self, kind):
        return lambda *arguments: kind(self, *arguments)

    def complain(self, logger, text, severity=1):
        logger.log(severity, text)

    def plan_of(self, onnx, **facts):
        """A plan's bytes: the real header's fields, then what the fake needs."""
        tag = b"vtrt" if self.line == "rtx" else b"ftrt"
        numbers = ([int(part) for part in self.__version__.split(".")] + [0])[:4]
        said = json.dumps(facts).encode()
        return tag + struct.pack("<I", 0) + bytes(16) + bytes(numbers) + struct.pack("<I", len(said)) + said + onnx


class Part:
    """An object of the fake module: attributes that its line lacks are not there, the others are recorded."""

    def __init__(self, trt):
        self._trt = trt

    def __getattribute__(self, name):
        if not name.startswith("_"):
            trt, owner = object.__getattribute__(self, "_trt"), type(self).__name__
            if (owner, name) in trt.absent:
                raise AttributeError(f"{owner} of {trt.line} has no {name}")
            if name in dir(type(self)):
                trt.used.add((owner, name))
        return object.__getattribute__(self, name)


def watched(part, kind, trt):
    """Record the object's end, and refuse one that others still need."""
    trt.alive[kind] += 1
    alive, events = trt.alive, trt.events

    def end():
        alive[kind] -= 1
        inner = {"runtime": "engine", "engine": "context"}.get(kind)
        events.append(f"{kind} destroyed" + (f" before its {inner}" if inner and alive[inner] > alive[kind] else ""))

    weakref.finalize(part, end)
    return part


class Runtime(Part):
    def __init__(self, trt, logger):
        super().__init__(trt)
        self._logger = logger
        watched(self, "runtime", trt)

    def deserialize_cuda_engine(self, plan):
        trt = self._trt
        (length,) = struct.unpack_from("<I", plan, 28)
        try:
            facts = json.loads(plan[32 : 32 + length])
            engine = ICudaEngine(
                trt, facts, OnnxEngine(bytes(plan[32 + length :]), name="plan"), len(plan), self._logger
            )
        except (ValueError, InputError) as error:
            trt.complain(self._logger, f"Serialization assertion failed: {error}")
            return None
        if engine._size > trt.memory.available()[0]:
            trt.complain(self._logger, "Cuda failure: out of memory")
            return None
        trt.memory.engine_bytes += engine._size
        weakref.finalize(engine, lambda memory, size: setattr(memory, "engine_bytes", memory.engine_bytes - size),
                         trt.memory, engine._size)  # fmt: skip
        return watched(engine, "engine", trt)


class ICudaEngine(Part):
    def __init__(self, trt, facts, session, size, logger):
        super().__init__(trt)
        self._facts, self._session, self._size, self._logger = facts, session, size, logger
        self._tensors = {"input": (-1, *facts["image"]), "logits": (-1, *facts["answer"])}

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, i):
        return list(self._tensors)[i]

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode.INPUT if name == "input" else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._trt.DataType.HALF if name in self._facts.get("half", ()) else self._trt.DataType.FLOAT

    def get_tensor_shape(self, name):
        return self._tensors[name]

    def get_tensor_profile_shape(self, name, index):
        assert (name, index) == ("input", 0)
        return [(batch, *self._facts["image"]) for batch in self._facts["batches"]]

    @property
    def device_memory_size(self):
        return self._facts["scratch"]

    @property
    def device_memory_size_v2(self):
        return self._facts["scratch"]

    def get_engine_stat(self, stat):
        assert stat is self._trt.EngineStat.TOTAL_WEIGHTS_SIZE
        return self._size

    def create_execution_context(self, strategy=None):
        assert strategy is self._trt.ExecutionContextAllocationStrategy.USER_MANAGED, "it would hold its own scratch"
        return watched(IExecutionContext(self._trt, self), "context", self._trt)

    def create_execution_context_without_device_memory(self):
        return watched(IExecutionContext(self._trt, self), "context", self._trt)


class IExecutionContext(Part):
    def __init__(self, trt, engine):
        super().__init__(trt)
        # Not the engine itself, which would then live as long as its context and hide a wrong order of ends.
        self._facts, self._session, self._logger = engine._facts, engine._session, engine._logger
        self._names, self._at = set(engine._tensors), {}
        self._shape: Any = None
        self._scratch: Any = None

    def set_input_shape(self, name, shape):
        least, _, most = self._facts["batches"]
        if not least <= shape[0] <= most or tuple(shape[1:]) != tuple(self._facts["image"]):
            return False
        self._shape = tuple(shape)
        return True

    def infer_shapes(self):
        return [] if self._shape else ["input"]

    def set_device_memory(self, address, size):
        assert size >= self._facts["scratch"]
        self._scratch = (address, size)

    @property
    def device_memory(self):
        return self._scratch and self._scratch[0]

    @device_memory.setter
    def device_memory(self, address):
        self._trt.used.add(("IExecutionContext", "device_memory"))
        self._scratch = (address, self._facts["scratch"])

    def set_tensor_address(self, name, address):
        self._at[name] = address
        return name in self._names

    def execute_async_v3(self, stream):
        trt, memory = self._trt, self._trt.memory
        assert stream == memory.stream
        assert self._shape and self._scratch and set(self._at) == {"input", "logits"}, "something was not set"
        assert self._scratch[0] % 512 == 0, "the scratch buffer is not aligned"
        assert trt.working in (None, self), "two contexts at work share one scratch buffer"
        if self._facts.get("breaks"):
            trt.complain(self._logger, "illegal instruction")
            return False
        trt.working, shape = self, self._shape
        trt.events.append(f"run {shape[0]}")
        count = int(np.prod(self._facts["answer"])) * shape[0] * 4

        def kernel():
            memory.at(*self._scratch)[:] = 77  # whoever else relies on it would notice
            pixels = memory.at(self._at["input"], int(np.prod(shape)) * 4).view(np.float32).reshape(shape)
            logits = self._session.run(np.array(pixels))[:, :: -1 if trt.wrong else 1]
            memory.at(self._at["logits"], count).view(np.float32)[:] = logits.ravel()
            trt.working = None

        memory.queue.append(kernel)
        return True


class Builder(Part):
    def __init__(self, trt, logger):
        super().__init__(trt)
        self._logger = logger

    def create_network(self, flags):
        known = self._trt.NetworkDefinitionCreationFlag
        typed = getattr(known, "STRONGLY_TYPED", None)
        assert flags == 1 << int(known.EXPLICIT_BATCH if typed is None else typed), f"network flags {flags}"
        return INetworkDefinition(self._trt)

    def create_builder_config(self):
        return IBuilderConfig(self._trt)

    def create_optimization_profile(self):
        return IOptimizationProfile(self._trt)

    def build_serialized_network(self, network, config):
        trt = self._trt
        trt.events.append("build")
        trt.config = config
        if not config._profiles:
            trt.complain(self._logger, "Network has dynamic or shape inputs, but no optimization profile")
            return None
        half = any(tensor.data_type == 10 for tensor in network._model.graph.initializer)
        if trt.line == "8.6" and half and trt.BuilderFlag.FP16 not in config._flags:
            trt.complain(self._logger, "fp16 precision has been set for a layer, but fp16 is not configured")
            return None
        (shapes,) = config._profiles
        if shapes[2][0] > LARGEST_BATCH:
            trt.complain(self._logger, "Could not find any implementation for node hidden")
            return None
        if config._cache is not None:
            config._cache._blob += b"."
        return trt.plan_of(
            network._onnx,
            image=shapes[2][1:],
            answer=[d.dim_value for d in network._model.graph.output[0].type.tensor_type.shape.dim][1:],
            batches=[shape[0] for shape in shapes],
            scratch=1024 * shapes[2][0],
        )


class INetworkDefinition(Part):
    _model: Any = None
    _onnx = b""

    @property
    def num_inputs(self):
        return len(self._model.graph.input) if self._model else 0

    @property
    def num_outputs(self):
        return len(self._model.graph.output) if self._model else 0

    def get_input(self, i):
        value = self._model.graph.input[i]
        shape = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        return SimpleNamespace(name=value.name, shape=shape)


class IOptimizationProfile(Part):
    _shapes: tuple[tuple[int, ...], ...] = ()

    def set_shape(self, name, *shapes):
        assert name == "input" and len(shapes) == 3
        self._shapes = shapes


class IBuilderConfig(Part):
    def __init__(self, trt):
        super().__init__(trt)
        self._profiles, self._flags, self._pools, self._cache = [], {trt.BuilderFlag.TF32}, {}, None
        self._level = 3

    @property
    def builder_optimization_level(self):
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, level):
        self._trt.used.add(("IBuilderConfig", "builder_optimization_level"))
        self._level = level

    def set_memory_pool_limit(self, pool, size):
        self._pools[pool.name] = size

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, blob):
        assert self._trt.line != "rtx", "this would ask for a GPU"
        return ITimingCache(self._trt, blob)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class ITimingCache(Part):
    def __init__(self, trt, blob):
        super().__init__(trt)
        self._blob = bytes(blob)

    def serialize(self):
        return self._blob


class OnnxParser(Part):
    def __init__(self, trt, network, logger):
        super().__init__(trt)
        self._network, self._errors = network, []

    def parse(self, data):
        import onnx

        try:
            model = onnx.load_from_string(data)
        except Exception as error:
            self._errors.append(ParserError(self._trt, -1, "", "", f"Failed to parse the model: {error}"))
            return False
        for i, node in enumerate(model.graph.node):
            if node.domain == "unknown":
                self._errors.append(ParserError(self._trt, i, node.name, node.op_type, "no importer for the operator"))
                return False
        self._network._model, self._network._onnx = model, bytes(data)
        return True

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, i):
        return self._errors[i]


class ParserError(Part):
    def __init__(self, trt, index, name, operator, text):
        super().__init__(trt)
        self._said = (index, name, operator, text)

    def node(self):
        return self._said[0]

    def node_name(self):
        return self._said[1]

    def node_operator(self):
        return self._said[2]

    def desc(self):
        return self._said[3]
