"""A torch model as an ONNX file, trusted only after it agreed with torch on real images."""

import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pdtool.artifacts import Parity
from pdtool.images import Images, Size, as_input
from pdtool.runtime.engine_onnx import OnnxEngine

__all__ = ["OPSET", "check_parity", "to_onnx"]

OPSET = 17  # what TensorRT 8.6 to 11 and ONNX Runtime's quantiser all read


def to_onnx(net: torch.nn.Module, size: Size) -> bytes:
    """`net` (input (N, C, H, W) pixels in [0, 1], eval mode) as ONNX bytes: "input" -> "logits", dynamic batch.

    Uses torch's TorchScript exporter: same bytes every time, 0.1 s a model where the newer one takes seconds and
    needs a further package; batch normalisation is folded into the convolutions.
    """
    buffer = io.BytesIO()
    example = torch.full((2, *size), 0.5)
    training = net.training
    net.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch announces the other exporter
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not exported
        torch.onnx.export(
            net,
            (example,),
            buffer,  # type: ignore[arg-type]  # a file object is what this exporter documents
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
    net.train(training)
    return buffer.getvalue()


def check_parity(model: bytes, net: torch.nn.Module, images: Images, *, name: str, batch: int = 64) -> Parity:
    """How the exported bytes, run as the device runs them, compare with `net` on images (N, H, W, C)."""
    engine = OnnxEngine(model, name=name)
    with torch.no_grad():
        expected = _in_batches(lambda x: net(torch.from_numpy(x)).numpy(), images, batch)
    came = _in_batches(engine.run, images, batch)
    engine.close()
    return Parity(
        images=len(images),
        label_agreement=float((expected.argmax(1) == came.argmax(1)).mean()),
        max_difference=float(np.abs(expected - came).max()),
    )


def _in_batches(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: Images, batch: int
) -> NDArray[np.float32]:
    return np.concatenate([run(as_input(images[i : i + batch])) for i in range(0, len(images), batch)])
