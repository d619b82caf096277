"""An fp32 ONNX file as int8: the one form of Q/DQ that ONNX Runtime writes and TensorRT's parser reads."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import InputError
from pdtool.extras import require
from pdtool.images import Images, as_input

__all__ = ["to_int8"]

# TensorRT reads no zero point but 0 (so: symmetric) and no int32 bias behind a DequantizeLinear (so: biases stay
# float32), which are ONNX Runtime's defaults. Weights are stored as int8, not as float32 behind a Q/DQ pair.
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": False,
}
BATCH = 32  # images at once: bounds the memory, and plays no part in the least and largest value


@dataclass
class _Batches:
    """What the quantiser asks for its images one batch at a time; it takes anything with `get_next`."""

    images: Images
    _next: int = field(default=0)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch as the model's input, None after the last."""
        part = self.images[self._next : self._next + BATCH]
        self._next += BATCH
        return {"input": as_input(part)} if len(part) else None


def to_int8(model: bytes, images: Images, *, name: str) -> bytes:
    """The model with int8 weights (a scale for each output channel) and activations (a scale for each tensor).

    An activation's scale is its largest magnitude on `images` (N, H, W, C) over 127. Same model, images and machine:
    same bytes. Input, normalisation, biases and output stay float32. Raises InputError where ONNX Runtime cannot
    quantise the model, MissingError without onnx.
    """
    require("onnx", "quantise models")
    quantization = require("onnxruntime.quantization", "quantise models")
    preparation = require("onnxruntime.quantization.shape_inference", "quantise models")
    with tempfile.TemporaryDirectory(prefix="pdtool-int8-") as folder:
        fp32, prepared, int8 = (Path(folder, f"{step}.onnx") for step in ("fp32", "prepared", "int8"))
        fp32.write_bytes(model)
        try:
            preparation.quant_pre_process(fp32, prepared)
            quantization.quantize_static(
                prepared,
                int8,
                _Batches(images),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                extra_options=OPTIONS,
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{name}: ONNX Runtime cannot quantise it ({reason}); use --precision fp32 or fp16"
            ) from error
        return int8.read_bytes()
