"""Weights as safetensors: data only, the same bytes for the same tensors. Pickles are read as data or not at all."""

import io
import json
import struct
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pdtool.errors import InputError
from pdtool.files import read_limited, write_atomic

__all__ = ["fit_state", "load_weights", "parse_weights", "save_weights", "weights_bytes"]

LARGEST_WEIGHTS = 16 * 2**30  # bytes


def weights_bytes(net: nn.Module, metadata: dict[str, str]) -> bytes:
    """The net's parameters and buffers as a safetensors file with `metadata` in its header, keys sorted.

    (safetensors itself writes metadata in a random order: the header is put together here.)
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    data = safetensors.torch.save(state)
    (length,) = struct.unpack("<Q", data[:8])
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def save_weights(path: Path, net: nn.Module, metadata: dict[str, str]) -> None:
    """Write the net's weights to `path` as safetensors, atomically. Raises InputError where it cannot be written."""
    write_atomic(path, weights_bytes(net, metadata))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict and metadata of a `.safetensors`, or of a `.pt`/`.pth` that holds tensors only (no metadata).

    Raises InputError for another suffix, a damaged file, or a file that would run code when it is loaded.
    """
    if path.suffix == ".safetensors":
        return parse_weights(read_limited(path, LARGEST_WEIGHTS), file=str(path))
    if path.suffix in (".pt", ".pth"):
        return _load_torch(path), {}
    raise InputError(f"{path}: expected weights as .safetensors, .pt or .pth, got {path.suffix or 'no suffix'!r}")


def parse_weights(data: bytes, *, file: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file's bytes. Raises InputError where they are damaged."""
    try:
        state = safetensors.torch.load(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, struct.error, KeyError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error}); copy or write it again") from None
    return state, metadata


def fit_state(net: nn.Module, state: dict[str, Tensor], *, file: str, model: str) -> None:
    """Load `state` into the net. Raises InputError that names the first keys or shapes that do not fit."""
    expected = net.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in expected]
    for name, tensor in state.items():
        if name in expected and tensor.shape != expected[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            wrong.append(f"{name} holds NaN or infinity")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{file}: does not fit {model}: {'; '.join(wrong[:3])}{more}; give the --model it was made for"
        )
    net.load_state_dict(state)


def _load_torch(path: Path) -> dict[str, Tensor]:
    data = read_limited(path, LARGEST_WEIGHTS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle's protocol
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise many kinds, AssertionError among them
        first = str(error).strip().splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not loaded, it holds more than tensors or is damaged ({first}); "
            f"save net.state_dict() as .safetensors where you trust the file, and give that"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise InputError(f"{path}: expected a state dict (name -> tensor), got {type(loaded).__name__}")
    if loaded and all(name.startswith("module.") for name in loaded):  # saved from DataParallel
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return loaded
