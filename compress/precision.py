"""Where a net lives and in which floating point it is trained there."""

import os

import torch
from torch import nn

__all__ = ["device_of", "half_of", "made_on"]


def device_of(net: nn.Module) -> torch.device:
    """Where the net's first parameter lives; the CPU where it has none."""
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def half_of(device: torch.device) -> torch.dtype | None:
    """The type that forward passes may use beside float32 (mixed precision); None where there is none to gain by.

    On GPUs bfloat16, or float16 where they lack it. On CPUs bfloat16 where they have instructions for it (and torch
    says so); without them it would be slower. None everywhere where the environment says PDTOOL_FLOAT32=1.
    """
    if os.environ.get("PDTOOL_FLOAT32", "0") not in ("", "0"):
        return None
    if device.type == "cpu":
        able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch has no such function
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def made_on(net: nn.Module) -> str:
    """What, beside the request, decides about the bytes of a net that is trained here, as far as a word can say."""
    place, threads = device_of(net), torch.get_num_threads()
    on = f"threads: {threads}" if place.type == "cpu" else torch.cuda.get_device_name(place)
    half = half_of(place)
    mixed = "" if half is None else f", {str(half).removeprefix('torch.')}"
    return f"{place.type}, {on}, torch {torch.__version__}{mixed}"
