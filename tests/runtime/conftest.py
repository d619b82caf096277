"""Real ONNX files of any size, made in milliseconds."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def make_onnx() -> Callable[..., bytes]:
    """`make_onnx(width, seed=0)`: pixels (N, 1, 32, 32) to 10 logits through a layer of about 4 `width` KiB."""

    def make(width: int, seed: int = 0) -> bytes:
        onnx = pytest.importorskip("onnx")
        helper, floats = onnx.helper, onnx.TensorProto.FLOAT
        rng = np.random.default_rng(seed)
        weights = {"hidden": (1024, width), "head": (width, 10)}
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["input"], ["flat"]),
                helper.make_node("MatMul", ["flat", "hidden"], ["features"]),
                helper.make_node("MatMul", ["features", "head"], ["logits"]),
            ],
            "wide",
            [helper.make_tensor_value_info("input", floats, ["batch", 1, 32, 32])],
            [helper.make_tensor_value_info("logits", floats, ["batch", 10])],
            [
                onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
                for name, shape in weights.items()
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    return make
