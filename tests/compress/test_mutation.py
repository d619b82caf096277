"""What each of the four operators does to a net, and that mutants keep the accuracy."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pdtool.compress import mutation
from pdtool.compress.folder import open_pool
from pdtool.compress.masks import weight_layers, weight_of
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.errors import GateError


def nets() -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    net = build(ModelSpec.parse("lenet5:classes=10"))
    return net, copy.deepcopy(net), weight_layers(net)


def mutated(operator: mutation.Operator, rate: float, seed: int = 0) -> tuple[nn.Module, nn.Module, int]:
    before, after, layers = nets()
    with torch.no_grad():
        changed = operator(after, layers, rate, torch.Generator().manual_seed(seed))
    return before, after, changed


def biases_are_the_same(before: nn.Module, after: nn.Module) -> bool:
    return all(torch.equal(p, after.state_dict()[name]) for name, p in before.state_dict().items() if "bias" in name)


def test_nai_negates_weights_and_bias() -> None:
    before, after, changed = mutated(mutation.nai, 0.1)
    negated = 0
    for layer in weight_layers(before):
        old, new = before.get_submodule(layer), after.get_submodule(layer)
        for row in range(len(weight_of(before, layer))):
            sign = 1 if torch.equal(old.get_parameter("weight")[row], new.get_parameter("weight")[row]) else -1
            assert torch.equal(old.get_parameter("weight")[row] * sign, new.get_parameter("weight")[row])
            assert torch.equal(old.get_parameter("bias")[row] * sign, new.get_parameter("bias")[row])
            negated += sign < 0
    assert negated == changed == 24  # of 236


def test_ws_shuffles_within_neurons() -> None:
    before, after, changed = mutated(mutation.ws, 0.1)
    shuffled = 0
    for layer in weight_layers(before):
        for old, new in zip(weight_of(before, layer), weight_of(after, layer), strict=True):
            assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
            shuffled += not torch.equal(old, new)
    assert shuffled == changed == 24 and biases_are_the_same(before, after)


def test_ns_switches_pairs_of_neurons_of_one_layer() -> None:
    before, after, layers = nets()
    with torch.no_grad():
        changed = mutation.ns(after, layers, 0.2, torch.Generator().manual_seed(0))
    moved = 0
    for layer in layers:
        old, new = weight_of(before, layer).flatten(1), weight_of(after, layer).flatten(1)
        source = [int((old == row).all(1).nonzero()) for row in new]
        assert sorted(source) == list(range(len(old)))
        assert all(source[source[row]] == row for row in range(len(old)))  # switched, not sent round
        here = sum(row != at for row, at in enumerate(source))
        assert here == 0 or len(old) >= 10
        moved += here
    assert moved == changed == 46 and biases_are_the_same(before, after)  # of 230 in layers of ten at least
    assert mutated(mutation.ns, 0.001)[2] == 2  # never nothing


def test_gf_redraws_from_the_layer_s_mean_and_deviation() -> None:
    before, after, changed = mutated(mutation.gf, 0.5)
    assert changed == round(0.5 * 61_470) and biases_are_the_same(before, after)
    total = 0
    for layer in weight_layers(before):
        old, new = weight_of(before, layer).detach(), weight_of(after, layer).detach()
        drawn = new[new != old].double().numpy()
        total += len(drawn)
        assert len(drawn) == pytest.approx(old.numel() / 2, rel=0.25)
        deviation = float(old.double().std(correction=0))
        error = deviation / np.sqrt(len(drawn))
        assert drawn.mean() == pytest.approx(float(old.mean()), abs=4 * error)
        assert drawn.std() == pytest.approx(deviation, abs=4 * error)
        # a normal distribution, where the old weights are uniform
        assert (np.abs(drawn - drawn.mean()) > 2 * deviation).mean() == pytest.approx(
            0.0455, abs=4 * 0.21 / len(drawn) ** 0.5
        )
    assert total == changed


@pytest.mark.parametrize("operator", ["nai", "gf", "ws", "ns"])
def test_mutants_keep_nine_tenths_of_the_accuracy(operator: str, request_of: PoolRequest, tmp_path: Path) -> None:
    rate = {"nai": 0.1, "gf": 0.3, "ws": 0.2, "ns": 0.2}[operator]  # some draws fail
    pool = make_pool(replace(request_of, method=f"mutation-{operator}", members=4, rate=rate), tmp_path / "POOL")
    assert all(member.model.accuracy >= 0.9 * pool.original.accuracy for member in pool.members)
    assert max(member.drawn["draws"] for member in pool.members) > 1


def test_mutants_that_never_keep_it_are_recorded_and_not_used(
    request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "DRAWS", 3)
    with pytest.raises(
        GateError, match=r"none of 2 members can be used; m000: none of 3 mutants reached .* lower --rate"
    ):
        make_pool(replace(request_of, method="mutation-nai", rate=0.9), tmp_path / "POOL")
    assert (tmp_path / "POOL/members/m001.record.json").exists() and not (tmp_path / "POOL/pool.json").exists()


def test_classes_are_never_switched(request_of: PoolRequest, tmp_path: Path) -> None:
    make_pool(replace(request_of, method="mutation-ns", rate=0.3, members=1, max_drop=1.0), tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    before, after = folder.original().net, folder.member("m000").net
    assert torch.equal(weight_of(before, "fc3"), weight_of(after, "fc3"))
    assert not torch.equal(weight_of(before, "fc2"), weight_of(after, "fc2"))
