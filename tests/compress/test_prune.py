"""Pruning, and the traps of torch-pruning 1.6.1 one by one."""

import copy
import gc
import importlib.metadata
import json
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress import random_channel
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.prune import Unit, achieved, find_units, prune, replay
from pdtool.errors import InputError
from pdtool.images import Size

SIZE = (3, 12, 12)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 8)  # as wide as the layers: told apart by its place, not by its width

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        logits: Tensor = self.fc((x + self.c(F.relu(self.b(x)))).mean((2, 3)))
        return logits


class Dense(nn.Module):
    """Concatenation, and a flatten between convolution and linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.c = nn.Conv2d(10, 5, 3, stride=4)
        self.fc = nn.Linear(5 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], dim=1)
        logits: Tensor = self.fc(F.relu(self.c(x)).flatten(1))
        return logits


class ConvHead(nn.Module):
    """The head is a convolution, its output pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.head(F.relu(self.body(x))), 1).flatten(1)


def grouped(norm: bool) -> nn.Module:
    between = nn.GroupNorm(3, 12) if norm else nn.BatchNorm2d(12)
    layers = [nn.Conv2d(3, 12, 3), between, nn.ReLU(), nn.Conv2d(12, 8, 3, groups=2), nn.ReLU()]
    depthwise = [nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1)]
    return nn.Sequential(*layers, *depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def builtin(text: str) -> tuple[Callable[[], nn.Module], Size]:
    spec = ModelSpec.parse(text)
    return lambda: build(spec), spec.input


NETS: dict[str, tuple[Callable[[], nn.Module], Size]] = {
    "resnet18": builtin("resnet18:width=4,classes=5"),
    "vgg16": builtin("vgg16:width=2,classes=5"),
    "lenet5": builtin("lenet5:width=6,classes=5"),
    "residual": (Residual, SIZE),
    "dense": (Dense, SIZE),
    "conv head": (ConvHead, SIZE),
    "grouped": (lambda: grouped(norm=False), SIZE),
    "group norm": (lambda: grouped(norm=True), SIZE),
}
every_net = pytest.mark.parametrize("name", NETS)


def made(name: str) -> tuple[nn.Module, Size]:
    torch.manual_seed(0)
    make, size = NETS[name]
    net = make().eval()
    for module in net.modules():  # numbers that a wrong channel would show in
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2), nn.init.normal_(module.bias)
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 2), nn.init.normal_(module.bias)
    return net, size


def half(units: tuple[Unit, ...], net: nn.Module, seed: int = 0) -> dict[str, tuple[int, ...]]:
    return random_channel.select(units, net, 0.5, {}, np.random.default_rng(seed))


# (group norm's statistics see silenced channels: no reference for it)
@pytest.mark.parametrize("name", [name for name in NETS if name != "group norm"])
def test_the_pruned_net_is_the_net_with_those_channels_removed(name: str) -> None:
    net, size = made(name)
    units, _ = find_units(net, size)
    chosen = half(units, net)
    pruned = copy.deepcopy(net)
    prune(pruned, size, chosen)
    # the reference: in the whole net, a removed channel is silenced wherever one of its unit's layers is read
    silenced = copy.deepcopy(net)
    gone = {layer: chosen[unit.name] for unit in units for layer in unit.layers}
    _silence(silenced, gone)
    pictures = torch.rand(3, *size)
    assert torch.allclose(pruned(pictures), silenced(pictures), atol=1e-5)
    assert not torch.allclose(pruned(pictures), net(pictures), atol=1e-3)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in net.parameters())


def _silence(net: nn.Module, gone: dict[str, tuple[int, ...]]) -> None:
    """Force removed channels to 0 after every convolution, batch norm (which follows its convolution) and linear."""
    last: tuple[int, ...] = ()
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            last = gone.get(name, ())
        elif not isinstance(module, nn.BatchNorm2d):
            continue

        def zero(module: nn.Module, inputs: object, output: Tensor, indices: tuple[int, ...] = last) -> Tensor:
            output = output.clone()
            output[:, list(indices)] = 0
            return output

        module.register_forward_hook(zero)


@every_net
def test_replaying_the_history_on_the_original_is_bit_for_bit(name: str) -> None:  # trap 8
    net, size = made(name)
    pruned, again = copy.deepcopy(net), copy.deepcopy(net)
    units, _ = find_units(net, size)
    history = prune(pruned, size, half(units, net))
    written = json.dumps(history)
    replay(again, size, json.loads(written))
    assert json.dumps(history) == written
    assert pruned.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in pruned.state_dict().items())


@every_net
def test_the_head_is_never_pruned(name: str) -> None:  # trap 2
    net, size = made(name)
    units, whole = find_units(net, size)
    head = [layer for layer, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    assert whole == {head: "the output comes from it"}
    before = net(torch.rand(2, *size)).shape
    prune(net, size, {unit.name: range(0, unit.channels - 1) for unit in units if unit.blocks == 1})
    assert net(torch.rand(2, *size)).shape == before


def test_pruning_the_head_is_refused() -> None:
    for name, head in (("lenet5", "fc3"), ("residual", "fc"), ("conv head", "head")):
        net, size = made(name)
        for cut in (
            lambda net=net, size=size, head=head: prune(net, size, {head: [0, 1]}),
            lambda net=net, size=size, head=head: replay(net, size, [[head, True, [0]]], file="plan.json"),
        ):
            with pytest.raises(InputError, match="pruning changed the output's shape from .*; leave the head whole"):
                cut()


def test_residual_connections_make_one_unit() -> None:
    units, _ = find_units(*made("resnet18"))
    by_name = {unit.name: unit for unit in units}
    assert by_name["conv1"].layers == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert by_name["conv1"].filters == 12
    assert by_name["layer2.0.conv2"].layers == ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2")
    assert [unit.channels for unit in units] == [4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32]


def test_grouped_channels_go_in_equal_parts() -> None:
    net, size = made("group norm")
    units, _ = find_units(net, size)
    assert {unit.name: unit.blocks for unit in units} == {"0": 6, "3": 2, "8": 1}
    for seed in range(5):
        pruned = copy.deepcopy(net)
        prune(pruned, size, half(units, net, seed))
        assert pruned(torch.rand(2, *size)).isfinite().all()
        shape = pruned.get_parameter("3.weight").shape
        assert shape == (4, 3, 3, 3) and pruned.get_submodule("5").groups == 4


def test_what_pruning_does_not_follow_is_left_whole_with_the_reason() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 2)
            self.spare = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(F.relu(self.b(F.relu(self.a(x)) * self.scale)).mean((2, 3)))
            return logits

    net = Scaled()
    units, whole = find_units(net, SIZE)
    assert [unit.name for unit in units] == ["b"]
    assert "Parameter" in whole["a"] and whole["spare"] == "it is not on the way from input to output"
    prune(net, SIZE, {"b": [0, 5]})
    assert net(torch.rand(1, *SIZE)).shape == (1, 2)


def test_channels_moved_by_an_unknown_operation_are_left_whole() -> None:
    class Shuffled(nn.Module):
        """A channel shuffle that a shape would give away, and a roll that none would."""

        def __init__(self, roll: bool) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 1)
            self.fc, self.roll = nn.Linear(6, 2), roll

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            if self.roll:
                x = torch.roll(x, 1, dims=1)
            else:
                x = x.view(len(x), 2, 4, 10, 10).transpose(1, 2).reshape(len(x), 8, 10, 10)
            logits: Tensor = self.fc(F.relu(self.c(F.relu(self.b(x)))).mean((2, 3)))
            return logits

    torch.manual_seed(0)
    for roll in (True, False):
        units, whole = find_units(Shuffled(roll), SIZE)
        assert [unit.name for unit in units] == ["b", "c"]
        assert whole["a"] == "the model without its channels does not compute the same"


def test_pruned_models_are_freed() -> None:  # trap 1
    net, size = made("group norm")
    units, _ = find_units(net, size)
    alive = []
    for seed in range(5):
        pruned = copy.deepcopy(net)
        prune(pruned, size, half(units, net, seed))
        alive.append(weakref.ref(pruned))
        del pruned
    gc.collect()
    assert [ref() for ref in alive] == [None] * 5


def test_frozen_parameters_are_pruned_and_stay_frozen() -> None:  # trap 3
    net, size = made("resnet18")
    net.requires_grad_(False)
    net.get_submodule("fc").requires_grad_(True)
    with torch.no_grad():
        units, _ = find_units(net, size)
        prune(net, size, half(units, net))
    assert net.get_submodule("conv1").out_channels == 2
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}


def test_pruning_works_inside_inference_mode() -> None:  # trap 3
    net, size = made("lenet5")
    with torch.inference_mode():
        units, _ = find_units(net, size)
        prune(net, size, {"conv1": [0]})
    assert net(torch.rand(1, *size)).shape == (1, 5)


def test_the_example_is_a_batch() -> None:  # trap 4
    shapes = []

    class Watching(Residual):
        def forward(self, x: Tensor) -> Tensor:
            shapes.append(tuple(x.shape))
            return super().forward(x)

    net = Watching()
    prune(net, SIZE, {"b": [1]})
    assert set(shapes) == {(1, *SIZE)}


def test_modes_are_put_back() -> None:  # trap 5
    net, size = made("resnet18")
    net.train()
    net.get_submodule("layer1").eval()
    modes = {name: module.training for name, module in net.named_modules()}
    units, _ = find_units(net, size)
    prune(net, size, half(units, net))
    assert {name: module.training for name, module in net.named_modules()} == modes


def test_achieved_rates_are_measured_on_the_nets() -> None:  # trap 6
    net, size = made("residual")
    units, _ = find_units(net, size)
    pruned = copy.deepcopy(net)
    prune(pruned, size, {"a": [0, 3], "b": [5]})
    rates = achieved(net, pruned, units)
    assert rates.layers == pytest.approx({"a": 0.25, "b": 1 / 6, "c": 0.25})
    assert rates.channels == pytest.approx((2 + 1 + 2) / 22)
    before, after = (sum(p.numel() for p in n.parameters()) for n in (net, pruned))
    assert rates.parameters == pytest.approx(1 - after / before)


def test_the_global_generator_is_not_used() -> None:  # trap 7
    net, size = made("resnet18")
    state = torch.get_rng_state()
    units, _ = find_units(net, size)
    prune(net, size, half(units, net))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_pinned_version_is_installed() -> None:  # trap 11
    assert importlib.metadata.version("torch-pruning") == "1.6.1"


@pytest.mark.parametrize(
    "history",
    [
        {"a": [0]},
        [["a", True]],
        [["a", True, []]],
        [["a", False, [0]]],
        [["a", True, [8]]],
        [["a", True, [-1]]],
        [["a", True, [0, 0]]],
        [["a", True, [0.0]]],
        [["a", True, [True]]],
        [["a", True, list(range(8))]],
        [["forward.__globals__", True, [0]]],
        [["absent", True, [0]]],
        [[1, True, [0]]],
    ],
)
def test_a_history_that_does_not_fit_is_refused(history: object) -> None:
    net = Residual()
    before = net.state_dict()
    with pytest.raises(InputError, match="plan.json: history"):
        replay(net, SIZE, history, file="plan.json")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_history_that_empties_a_layer_in_two_steps_is_refused() -> None:
    with pytest.raises(InputError, match=r"plan.json: layer 'c' is named twice or coupled"):
        replay(Residual(), SIZE, [["a", True, [0, 1, 2, 3]], ["c", True, [4, 5, 6]]], file="plan.json")


def test_a_net_that_cannot_be_traced_is_refused() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 2)

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(InputError, match=r"cannot be traced|no layer that can lose channels"):
        find_units(Constant(), SIZE)
    with pytest.raises(InputError, match=r"expected logits \(1, classes\)"):
        find_units(Two(), SIZE)
    with pytest.raises(InputError, match="does not run on one picture"):
        find_units(nn.Linear(5, 2), SIZE)
    with pytest.raises(InputError, match="no layer that can lose channels .*the output comes from it"):
        find_units(nn.Sequential(nn.Flatten(), nn.Linear(432, 2)), SIZE)
