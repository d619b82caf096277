"""What drives members away from the original, and which members: right angles, fresh layers, kinds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.fresh import fresh_layers, refresh
from pdtool.compress.hardening import Hardening
from pdtool.compress.masks import weight_layers, weight_of
from pdtool.compress.original import Trained, load_original
from pdtool.compress.orthogonal import orthogonality
from pdtool.compress.pool import PoolRequest, make_pool, open_pool
from pdtool.compress.prepare import prepare
from pdtool.compress.scouting import craft_for
from pdtool.compress.training import RECIPES, Hooks, fit
from pdtool.compress.weights import load_weights


def cosines(one: nn.Module, other: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Image by image, one gradient at a time."""
    found = []
    for k in range(len(labels)):
        gradients = []
        for net in (one, other):
            point = inputs[k : k + 1].clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), labels[k : k + 1]), point)
            gradients.append(gradient.flatten())
        found.append(torch.dot(*gradients) / (gradients[0].norm() * gradients[1].norm()))
    return torch.stack(found)


def test_the_term_is_the_mean_squared_cosine_of_the_first_images(request_of: PoolRequest) -> None:
    task = prepare(request_of).task
    data, original = task.training, task.original.net
    torch.manual_seed(0)
    net, other = (nn.Sequential(nn.Flatten(), nn.Linear(data.images[0].numel(), 10)) for _ in range(2))
    inputs, labels = (data.pixels(slice(0, 8)) - data.mean) / data.std, data.labels[:8]
    for given in ((original,), (original, other)):
        term = orthogonality(given, 3.0, 5)(net, inputs, labels, net(inputs))
        each = [cosines(net, one, inputs[:5], labels[:5]).square().mean().item() for one in given]
        assert term.item() == pytest.approx(3.0 * sum(each), rel=1e-3) and min(each) > 0
        for one in given:
            assert all(parameter.requires_grad and parameter.grad is None for parameter in one.parameters())


def test_gradients_are_driven_apart(request_of: PoolRequest, trained: Trained) -> None:
    task = prepare(request_of).task
    data, original = task.training, task.original.net
    inputs, labels = (data.pixels(slice(0, 60)) - data.mean) / data.std, data.labels[:60]
    alike = []
    for weight in (0.0, 10.0):
        net = load_original(Path(trained.file))[0].net
        fit(
            net,
            data,
            replace(RECIPES["paper"], epochs=3),
            seed=0,
            hooks=Hooks(loss=orthogonality((original,), weight, 16)),
        )
        alike.append(cosines(net, original, inputs, labels).square().mean().item())
    assert alike[1] < 0.5 * alike[0]


def test_a_share_of_the_layers_begins_anew(trained: Trained) -> None:
    first, one, same, other = (load_original(Path(trained.file))[0].net for _ in range(4))
    before = torch.random.get_rng_state()
    names = fresh_layers(one, 0.5, 7)
    refresh(one, 0.5, 7)
    assert torch.equal(before, torch.random.get_rng_state())
    layers = weight_layers(first)
    refresh(same, 0.5, 7)
    assert len(names) == round(len(layers) / 2)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in one.state_dict().items())
    for layer in layers:
        left = torch.equal(weight_of(one, layer), weight_of(first, layer))
        assert left == (layer not in names)
    assert fresh_layers(other, 0.0, 7) == () and fresh_layers(other, 1.0, 7) == layers


def test_a_mixed_pool_says_what_each_member_is(request_of: PoolRequest, tmp_path: Path) -> None:
    """A plain member is the one that the paper's recipe makes of the same seed."""
    recipe = replace(RECIPES["hardened"], epochs=1)
    hardening = Hardening(crafted=0.2, robust=0.1, robust_members=0.5, plain_members=0.25, parent=1)
    mixed = replace(request_of, members=4, recipe=recipe, hardening=hardening, max_drop=1.0)
    pool = make_pool(mixed, tmp_path / "P")
    assert [member.kind for member in pool.members] == ["hardened", "robust", "robust", "plain"]
    assert open_pool(tmp_path / "P").pool == pool
    plain = make_pool(replace(mixed, recipe=replace(RECIPES["paper"], epochs=1), hardening=None), tmp_path / "Q")
    assert [member.kind for member in plain.members] == [None] * 4
    for number in range(4):
        one, other = (load_weights(tmp_path / name / f"members/m00{number}.safetensors")[0] for name in ("P", "Q"))
        alike = all(torch.equal(tensor, other[name]) for name, tensor in one.items())
        assert alike == (number == 3)
    hard = make_pool(replace(mixed, hardening=replace(hardening, robust_members=0.0)), tmp_path / "R")
    assert [member.kind for member in hard.members] == ["hardened", "hardened", "hardened", "plain"]


def test_members_are_driven_apart_from_scouts(request_of: PoolRequest) -> None:
    """By the same crafted images, with the same seed."""
    recipe, alike = replace(RECIPES["hardened"], epochs=4), []
    for weight in (0.0, 10.0):
        hardening = Hardening(crafted=0.5, scouts=1, orthogonal=weight, orthogonal_share=1.0)
        ready = prepare(replace(request_of, recipe=recipe, hardening=hardening))
        scouted = craft_for(
            ready.method, replace(ready.task, hardening=replace(hardening, orthogonal=0.0)), 0, tick=_tick
        )
        task = replace(scouted, hardening=hardening, seed=9)
        net = ready.method.start(task).net
        ready.method.tune(task, net)
        inputs = (task.training.pixels(slice(0, 60)) - task.training.mean) / task.training.std
        (scout,) = task.scouts
        alike.append(cosines(net.eval(), scout.net, inputs, task.training.labels[:60]).square().mean().item())
    assert alike[1] < 0.1 * alike[0]


def _tick(steps: int) -> None: ...


@pytest.mark.parametrize(
    "hardening",
    [
        Hardening(crafted=0.2, robust=0.1),
        Hardening(crafted=0.2, orthogonal=10.0),
        Hardening(crafted=0.2, scouts=1),
        Hardening(crafted=0.2, fresh=0.5),
    ],
)
def test_every_setting_reaches_the_members(request_of: PoolRequest, tmp_path: Path, hardening: Hardening) -> None:
    recipe = replace(RECIPES["hardened"], epochs=1)
    files = []
    for name, settings in (("with", hardening), ("without", Hardening(crafted=0.2))):
        request = replace(request_of, members=1, recipe=recipe, hardening=settings, max_drop=1.0)
        (member,) = make_pool(request, tmp_path / name).members
        files.append((tmp_path / name / member.model.file.path).read_bytes())
        assert ("fresh" in member.drawn) == (settings.fresh > 0)
    assert files[0] != files[1]
