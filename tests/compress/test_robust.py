"""Nets attacked while they are trained: within epsilon, worse than chance moves, taught by an unattacked teacher."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.contract import Task
from pdtool.compress.original import Trained, load_original
from pdtool.compress.pool import PoolRequest
from pdtool.compress.prepare import prepare
from pdtool.compress.robust import Robust, attacked
from pdtool.compress.training import RECIPES, fit

EPSILON = 0.1


@pytest.fixture
def task(request_of: PoolRequest) -> Task:
    return prepare(request_of).task


def loss_of(task: Task, net: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    data = task.training
    with torch.no_grad():
        return F.cross_entropy(net((pixels - data.mean) / data.std), labels).item()


def test_images_move_within_epsilon_to_where_the_net_is_less_sure(task: Task) -> None:
    data, net = task.training, task.original.net
    pixels, labels = data.pixels(slice(0, 200)), data.labels[:200]
    one, same = (attacked(net, data, pixels, labels, EPSILON, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, same) and not one.requires_grad
    assert (one - pixels).abs().max() <= EPSILON + 1e-6 and one.min() >= 0 and one.max() <= 1
    chance = pixels + EPSILON * (2 * torch.rand(pixels.shape, generator=torch.Generator().manual_seed(3)) - 1)
    assert loss_of(task, net, one, labels) > 2 * loss_of(task, net, chance.clamp(0, 1), labels)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_net_trained_so_is_harder_to_fool(task: Task, trained: Trained) -> None:
    data, recipe, right = task.training, replace(RECIPES["paper"], epochs=6), list[float]()
    pixels, labels = torch.from_numpy(task.held.images).permute(0, 3, 1, 2) / 255, torch.from_numpy(task.held.labels)
    for robust in (None, Robust(EPSILON, 1.0)):
        net = load_original(Path(trained.file))[0].net
        fit(net, data, recipe, seed=0, robust=robust)
        moved = attacked(net, data, pixels, labels, EPSILON, torch.Generator().manual_seed(0))
        with torch.no_grad():
            right.append((net((moved - data.mean) / data.std).argmax(1) == labels).float().mean().item())
            assert (net((pixels - data.mean) / data.std).argmax(1) == labels).float().mean() > 0.9
    assert right[1] > right[0] + 0.15


def test_the_teacher_is_asked_once_about_images_as_they_were(task: Task) -> None:
    """The share that is attacked goes through the net once more in training, and once to be attacked."""
    asked, seen = list[Tensor](), list[int]()
    recipe = replace(RECIPES["hardened"], epochs=1, batch=50)

    class Teacher(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            asked.append(inputs)
            return torch.zeros(len(inputs), 10)

    class Net(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                seen.append(len(inputs))
            given: Tensor = super().forward(inputs)
            return given

    shape = task.original.spec.input
    net = Net(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 10))
    fit(net, task.training, recipe, seed=0, teacher=Teacher(), robust=Robust(EPSILON, 0.3))
    steps = recipe.steps(len(task.training))
    assert len(asked) == steps and all(len(inputs) == 50 for inputs in asked)
    assert seen == [50, 15, 15] * steps


def test_attacked_images_are_taught_what_the_teacher_says_of_clean_ones(task: Task, trained: Trained) -> None:
    """A teacher that says 3 of everything: so must the net, of attacked images, too, and no longer the true labels."""

    class Teacher(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return 20.0 * F.one_hot(torch.full((len(inputs),), 3), 10).float()

    recipe = replace(RECIPES["hardened"], epochs=3, distill=1.0)
    net, data = load_original(Path(trained.file))[0].net, task.training
    fit(net, data, recipe, seed=0, teacher=Teacher(), robust=Robust(EPSILON, 1.0))
    pixels, labels = data.pixels(slice(0, 300)), data.labels[:300]
    moved = attacked(net, data, pixels, labels, EPSILON, torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = net((moved - data.mean) / data.std).argmax(1)
    assert (said == 3).float().mean() > 0.95


def test_a_share_is_two_images_at_least() -> None:
    assert [Robust(0.1, share).of(32) for share in (0.001, 0.5, 1.0)] == [2, 16, 32]
