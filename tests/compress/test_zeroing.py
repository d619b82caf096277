"""What is special of the methods that zero weights: tickets are rewound, random weights stay, hardened models scale."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.head import last_linear
from pdtool.compress.masks import weight_layers, weight_of
from pdtool.compress.member import member_seed
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.original import load_original
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.compress.prepare import prepare
from pdtool.compress.subnetwork import METHOD as SUBNETWORK
from pdtool.compress.subnetwork import _Choice
from pdtool.compress.training import RECIPES, fit
from pdtool.compress.weights import save_weights

UNTRAINED = replace(RECIPES["paper"], epochs=0)
HARDENED: dict[str, Any] = {"method": "prune-and-scale", "rounds": 3, "members": 1, "max_drop": 1.0}


@pytest.fixture
def ticket(request_of: PoolRequest) -> PoolRequest:
    """Two tickets, each as it is after the last rewinding."""
    return replace(request_of, method="lottery-ticket", search_epochs=1, recipe=UNTRAINED, max_drop=1.0)


@pytest.fixture
def hardened(request_of: PoolRequest, tmp_path: Path) -> PoolFolder:
    """Three rounds, tau 4."""
    make_pool(replace(request_of, **HARDENED, tau=4.0), tmp_path / "HARDENED")
    return open_pool(tmp_path / "HARDENED")


def state_of(folder: PoolFolder, id: str) -> dict[str, Tensor]:
    return folder.member(id).net.state_dict()


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_a_ticket_is_rewound_to_its_own_initialisation(
    pattern: str | None, ticket: PoolRequest, tmp_path: Path
) -> None:
    make_pool(replace(ticket, pattern=pattern, rounds=2), tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    for index, member in enumerate(folder.pool.members):
        first = build(ModelSpec.parse(folder.pool.model), seed=member_seed(0, index)).state_dict()
        zeros = 0
        for name, tensor in state_of(folder, member.id).items():
            if name.removesuffix(".weight") in member.layer_rates and name.endswith("weight"):
                zeros += int((tensor == 0).sum())
                assert torch.equal(tensor[tensor != 0], first[name][tensor != 0])
            else:
                assert torch.equal(tensor, first[name])
        assert zeros == 61_470 // 2


def test_a_ticket_loses_what_training_left_smallest(ticket: PoolRequest, tmp_path: Path) -> None:
    """One round, followed by hand with the same training."""
    request = replace(ticket, members=1, rounds=1, rate=0.6)
    make_pool(request, tmp_path / "POOL")
    task = prepare(request).task
    net = build(task.original.spec, seed=member_seed(0, 0))
    fit(net, task.training, replace(task.recipe, epochs=1), seed=member_seed(0, 0))
    sizes = np.concatenate([weight_of(net, layer).detach().abs().numpy().ravel() for layer in weight_layers(net)])
    state = state_of(open_pool(tmp_path / "POOL"), "m000")
    kept = np.concatenate([state[f"{layer}.weight"].numpy().ravel() != 0 for layer in weight_layers(net)])
    assert (~kept).sum() == round(0.6 * 61_470)
    assert sizes[~kept].max() <= sizes[kept].min()


def test_rounds_remove_a_fifth_at_most(request_of: PoolRequest) -> None:
    def rounds(**change: Any) -> int | None:
        return prepare(replace(request_of, method="lottery-ticket", **change)).task.settings.rounds

    assert [rounds(rate=rate) for rate in (0.0, 0.2, 0.5, 0.9)] == [1, 1, 4, 11]
    assert rounds(rounds=2) == 2 and rounds(pattern="2:4") == 2


def test_no_weight_of_a_subnetwork_is_trained(untrained: PoolRequest, tmp_path: Path) -> None:
    request = replace(untrained, method="subnetwork", search_epochs=2, rate=0.3)
    make_pool(request, tmp_path / "POOL")
    first = SUBNETWORK.start(replace(prepare(request).task, seed=member_seed(0, 0))).net.state_dict()
    for name, tensor in state_of(open_pool(tmp_path / "POOL"), "m000").items():
        if tensor.ndim > 1:
            assert torch.equal(tensor[tensor != 0], first[name][tensor != 0])
            assert len(first[name].abs().unique()) == 1 and not bool((first[name] == 0).any())
            assert int((tensor == 0).sum()) == round(0.3 * tensor.numel())
        elif "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, first[name])


def test_searching_finds_better_weights_than_chance(request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(request_of, method="subnetwork", members=1, rate=0.6, search_epochs=6)
    assert make_pool(request, tmp_path / "POOL").members[0].model.accuracy > 0.85


def test_scores_get_the_straight_through_gradient() -> None:
    scores = torch.tensor([[0.1, -0.9, 0.5, -0.2]])
    choice, weight, outside = (
        _Choice(scores, 0.5, None),
        torch.tensor([[2.0, 3.0, -4.0, 5.0]]),
        torch.tensor([[1.0, -2, 3, 4]]),
    )
    came = choice(weight)
    assert came.tolist() == [[0.0, 3.0, -4.0, 0.0]]
    (came * outside).sum().backward()
    assert choice.scores.grad is not None
    torch.testing.assert_close(choice.scores.grad, outside * weight * scores.sign())


def test_rounds_take_shares_of_each_layer_and_tau_scales_the_last(
    hardened: PoolFolder, request_of: PoolRequest, tmp_path: Path
) -> None:
    make_pool(replace(request_of, **HARDENED, tau=1.0), tmp_path / "ONE")
    one, four = state_of(open_pool(tmp_path / "ONE"), "m000"), state_of(hardened, "m000")
    for name, tensor in one.items():
        assert torch.equal(tensor * (4 if name == "fc3.weight" else 1), four[name])
    (member,) = hardened.pool.members
    assert member.drawn == {"scaled": "fc3"}
    for layer, share in member.layer_rates.items():
        left = 0.95**3 if layer.startswith("conv") else 0.9**3
        assert share == pytest.approx(1 - left, abs=0.5 / one[f"{layer}.weight"].numel() + 1e-6)


def test_the_hardened_model_is_an_original_as_it_is(hardened: PoolFolder) -> None:
    original, notes = load_original(hardened.folder / "members/m000.safetensors")
    assert notes == () and original.classes == hardened.pool.classes
    assert torch.equal(original.net.state_dict()["fc3.weight"], state_of(hardened, "m000")["fc3.weight"])


def test_the_last_linear_layer_is_the_one_that_makes_the_logits() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
            self.unused = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(x))
            return logits

    assert last_linear(Odd(), (1, 4, 4)) == "head"
    assert last_linear(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4)) == "1"
    assert last_linear(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.LogSoftmax(1)), (1, 4, 4)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lottery-ticket", "pattern": "2:4", "search_epochs": 1},
        {"method": "subnetwork", "pattern": "2:4", "search_epochs": 1},
        {"method": "mutation-ns", "rate": 0.1},
        {"method": "prune-and-scale", "rounds": 2, "tau": 2.0},
    ],
)
def test_a_net_of_the_user_s_own_works(
    change: dict[str, Any], request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tickets.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n"
        "    layers = [nn.Conv2d(1, 16, 5, 2), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, groups=2)]\n"
        "    layers += [nn.Conv2d(16, 16, 3, groups=16), nn.PReLU(16), nn.Flatten(), nn.Dropout(0.1)]\n"
        "    return nn.Sequential(*layers, nn.Linear(256, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = "tickets:make:classes=10,input=1x32x32"
    save_weights(tmp_path / "own.safetensors", build(ModelSpec.parse(spec)), {})
    request = replace(request_of, weights=tmp_path / "own.safetensors", model=spec, members=1, max_drop=1.0, **change)
    pool = make_pool(replace(request, recipe=replace(RECIPES["paper"], epochs=1)), tmp_path / "POOL")
    net = open_pool(tmp_path / "POOL", model="tickets:make").member("m000").net
    if "pattern" in change:
        assert pool.members[0].weight_rate == 0.5
        grouped = weight_of(net, "3").detach()  # 8 inputs a group
        fours = grouped.permute(0, 2, 3, 1).reshape(-1, 4)
        assert bool(((fours != 0).sum(1) == 2).all())
        assert int(weight_of(net, "4").count_nonzero()) == 16 * 9 // 2  # one input a group: no pattern
