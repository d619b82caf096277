"""A torch model as an ONNX file, fp32 or fp16, trusted only after it agreed with a reference on real images."""

import copy
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdtool.artifacts import Parity
from pdtool.compress.models import Normalised
from pdtool.errors import GateError, InputError
from pdtool.images import Images, Size, as_input
from pdtool.runtime.engine_onnx import OnnxEngine

__all__ = ["OPSET", "check_parity", "compare", "logits_of", "to_onnx", "to_onnx_fp16"]

OPSET = 17  # what TensorRT 8.6 to 11 and ONNX Runtime's quantiser all read

Logits = NDArray[np.float32]


class _Half(nn.Module):
    """float32 pixels to float32 logits with the net in float16 between them.

    Normalisation stays float32: pixels and means rounded to float16 first would lose their last bits before the
    difference is taken, and dividing by a small std makes that larger. It costs nothing: one cast either way.
    """

    def __init__(self, net: Normalised) -> None:
        super().__init__()
        self.net = copy.deepcopy(net.net).half()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", net.mean)
        self.register_buffer("std", net.std)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(((x - self.mean) / self.std).half())
        return logits.float()


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


def to_onnx_fp16(net: Normalised, size: Size, *, name: str) -> bytes:
    """`net` as ONNX bytes with float16 weights and arithmetic; input, normalisation and output are float32.

    Raises InputError where torch cannot run the net in float16, as one that makes float32 tensors of its own.
    """
    try:
        return to_onnx(_Half(net), size)
    except Exception as error:  # the net's own code may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: torch cannot export it at fp16 ({reason}); use --precision fp32 or int8") from error


def check_parity(model: bytes, net: torch.nn.Module, images: Images, *, name: str, batch: int = 64) -> Parity:
    """How the exported bytes, run as the device runs them, compare with `net` on images (N, H, W, C)."""
    with torch.no_grad():
        expected = _in_batches(lambda x: net(torch.from_numpy(x)).numpy(), images, batch)
    return compare(logits_of(model, images, name=name, batch=batch), expected, name=name)


def logits_of(model: bytes, images: Images, *, name: str, batch: int = 64) -> Logits:
    """Logits (N, classes) of an ONNX file, run as the device runs it, for images (N, H, W, C)."""
    engine = OnnxEngine(model, name=name)
    try:
        return _in_batches(engine.run, images, batch)
    finally:
        engine.close()


def compare(came: Logits, expected: Logits, *, name: str) -> Parity:
    """Agreement of two models' logits (N, classes) on the same images. Raises GateError where one is not finite."""
    for logits, whose in ((expected, "the model itself"), (came, "the exported file")):
        if not np.isfinite(logits).all():
            wrong = int((~np.isfinite(logits)).any(axis=1).sum())
            raise GateError(
                f"{name}: {whose} gives logits that are not finite for {wrong} of {len(logits)} images (fp16 ends at "
                f"65504); use --precision fp32, or train again if that fails, too"
            )
    return Parity(
        images=len(came),
        label_agreement=float((expected.argmax(1) == came.argmax(1)).mean()),
        max_difference=float(np.abs(expected - came).max()),
    )


def _in_batches(run: Callable[[Logits], Logits], images: Images, batch: int) -> Logits:
    return np.concatenate([run(as_input(images[i : i + batch])) for i in range(0, len(images), batch)])
