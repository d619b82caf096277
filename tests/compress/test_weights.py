import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from torch import nn

from pdtool.compress.models import ModelSpec, build
from pdtool.compress.weights import fit_state, load_weights, save_weights, weights_bytes
from pdtool.errors import InputError

METADATA = {"zebra": "1", "model": "lenet5", "classes": '["ä", "b"]'}


@pytest.fixture
def net() -> nn.Module:
    return build(ModelSpec.parse("resnet18:width=2,classes=3"))


def test_weights_and_metadata_come_back(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, net, METADATA)
    state, metadata = load_weights(path)
    assert metadata == METADATA
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    with safetensors.safe_open(path, framework="pt") as file:  # other tools read it too
        assert file.metadata() == METADATA


def test_the_same_weights_are_the_same_bytes_in_every_process(net: nn.Module) -> None:
    code = (
        "import sys, hashlib; from pdtool.compress.models import *; from pdtool.compress.weights import *;"
        "net = build(ModelSpec.parse('resnet18:width=2,classes=3'));"
        f"print(hashlib.sha256(weights_bytes(net, {METADATA!r})).hexdigest())"
    )
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_channels_last_weights_are_written_in_the_usual_order(net: nn.Module) -> None:
    before = weights_bytes(net, {})
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert weights_bytes(net, {}) == before


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_torch_file_of_tensors_is_read(tmp_path: Path, net: nn.Module, key: str | None, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pth")
    loaded, metadata = load_weights(tmp_path / "w.pth")
    assert loaded.keys() == net.state_dict().keys() and metadata == {}


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('bomb-went-off', 'w').close()",)


@pytest.mark.parametrize("kind", ["module", "torch bomb", "plain pickle"])
def test_a_file_with_code_is_refused_and_not_run(
    tmp_path: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save(net if kind == "module" else {"w": Bomb()}, path)
    with pytest.raises(InputError, match=r"more than tensors or is damaged .*\.safetensors"):
        load_weights(path)
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("w.safetensors", b"", "not a readable safetensors file"),
        ("w.safetensors", b"\xff" * 64, "not a readable safetensors file"),
        ("w.pt", b"", "damaged"),
        ("w.pth", b"PK\x03\x04 cut short", "damaged"),
        ("w.onnx", b"x", r"expected weights as .safetensors, .pt or .pth, got '.onnx'"),
    ],
)
def test_damaged_or_foreign_files_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / name)


def test_a_damaged_legacy_file_is_refused_whatever_torch_raises(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, path, _use_new_zipfile_serialization=False)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), set()
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_weights(path)
        except InputError as error:
            refused.add(type(error.__context__))
    assert AssertionError in refused and len(refused) > 3


def test_names_that_are_no_words_are_refused(tmp_path: Path) -> None:
    torch.save({1: torch.ones(3)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="expected a state dict"):
        load_weights(tmp_path / "w.pt")


def test_a_truncated_file_is_refused(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_bytes(net, METADATA)[:-5])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read"):
        load_weights(tmp_path / "none.safetensors")


def test_weights_that_do_not_fit_name_the_keys(net: nn.Module) -> None:
    state = dict(net.state_dict())
    del state["fc.bias"]
    state["extra"] = torch.zeros(1)
    state["fc.weight"] = torch.zeros(4, 16)
    with pytest.raises(
        InputError, match=r"fc.bias is missing; extra is unknown; fc.weight is \(4, 16\), expected \(3, 16\)"
    ):
        fit_state(net, state, file="w", model="net")
    wrong = {name: tensor for name, tensor in state.items() if "bn" not in name}
    with pytest.raises(InputError, match=r"and \d+ more"):
        fit_state(net, wrong, file="w", model="net")


def test_weights_with_nan_are_refused(net: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state["fc.bias"][1] = torch.nan
    with pytest.raises(InputError, match="fc.bias holds NaN or infinity"):
        fit_state(net, state, file="w", model="net")
