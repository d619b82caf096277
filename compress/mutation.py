"""The mutation operators of MMT (Wang et al. 2019, "Adversarial sample detection for deep neural network through model
mutation testing", section III-B; the baseline of Wang et al. 2021, section IV-B, whose rate of 0.007 is the default).

A member is the original with a few neurons or weights changed, redrawn until its accuracy is at least 90 % of the
original's, both on the held-out images. Nothing is removed and nothing trained. A neuron is one output of a
convolution or linear layer, its weights one row of the layer's weight.

- `nai` negates the weights and the bias of a share of all neurons;
- `gf` redraws a share of all weights from the normal distribution of their layer's mean and standard deviation (MMT's
  paper centres each on the old weight; its code, followed here, does not);
- `ws` shuffles the weights within each of a share of all neurons, biases stay;
- `ns` switches the weights of pairs of neurons of one layer, a share of all neurons in all, biases stay; the logits'
  layer and layers of fewer than ten neurons are left alone.

Two departures from MMT's code, in both of which it changes next to nothing: its `ns` takes a share of each layer's
neurons and "switches" a single one with itself (at 0.007, in every layer of up to 142 neurons), and its `nai` negates,
in a layer without bias, the scale of the batch norm behind it.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pdtool.compress.contract import Draft, Method, Settings, Task
from pdtool.compress.head import last_linear
from pdtool.compress.masks import weight_of
from pdtool.compress.rates import check_rate
from pdtool.compress.training import accuracy
from pdtool.errors import GateError, UsageError
from pdtool.jsonform import JsonValue

__all__ = ["GF", "NAI", "NS", "WS", "gf", "nai", "ns", "ws"]

KEEP = 0.9  # share of the original's accuracy that a mutant must have
DRAWS = 100  # how often a member is drawn before it is given up
LEAST = 10  # neurons of a layer whose neurons are switched

# (net, layers, rate, generator) -> how many neurons or weights were changed, in place
Operator = Callable[[nn.Module, tuple[str, ...], float, torch.Generator], int]


def nai(net: nn.Module, layers: tuple[str, ...], rate: float, generator: torch.Generator) -> int:
    """Neuron activation inverse."""
    chosen = _neurons(net, layers, rate, generator)
    for layer, rows in chosen.items():
        weight_of(net, layer)[rows] *= -1
        bias = net.get_submodule(layer).bias
        if isinstance(bias, Tensor):
            bias[rows] *= -1
    return sum(len(rows) for rows in chosen.values())


def gf(net: nn.Module, layers: tuple[str, ...], rate: float, generator: torch.Generator) -> int:
    """Gaussian fuzzing."""
    weights = [weight_of(net, layer) for layer in layers]
    chosen = _some([weight.numel() for weight in weights], rate, generator)
    for weight, places in zip(weights, chosen, strict=True):
        if len(places):
            mean, deviation = float(weight.mean()), float(weight.std(correction=0))
            drawn = mean + deviation * torch.randn(len(places), generator=generator)
            flat = weight.flatten()
            flat[places] = drawn.to(weight)
            weight.copy_(flat.reshape(weight.shape))
    return sum(len(places) for places in chosen)


def ws(net: nn.Module, layers: tuple[str, ...], rate: float, generator: torch.Generator) -> int:
    """Weight shuffling."""
    chosen = _neurons(net, layers, rate, generator)
    for layer, rows in chosen.items():
        weight = weight_of(net, layer)
        for row in rows.tolist():
            order = torch.randperm(weight[row].numel(), generator=generator).to(weight.device)
            weight[row] = weight[row].flatten()[order].reshape(weight[row].shape)
    return sum(len(rows) for rows in chosen.values())


def ns(net: nn.Module, layers: tuple[str, ...], rate: float, generator: torch.Generator) -> int:
    """Neuron switch, in layers of `LEAST` neurons at least."""
    weights = [weight for layer in layers if len(weight := weight_of(net, layer)) >= LEAST]
    changed = 0
    for weight, firsts in zip(weights, _some([len(weight) for weight in weights], rate / 2, generator), strict=True):
        pairs = min(len(firsts), len(weight) // 2)
        rows = torch.randperm(len(weight), generator=generator)[: 2 * pairs]
        weight[rows] = weight[rows.roll(pairs)]
        changed += 2 * pairs
    return changed


def _neurons(net: nn.Module, layers: tuple[str, ...], rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    """A share of all the layers' neurons: layer -> rows of its weight."""
    chosen = _some([len(weight_of(net, layer)) for layer in layers], rate, generator)
    return {layer: rows for layer, rows in zip(layers, chosen, strict=True) if len(rows)}


def _some(sizes: list[int], rate: float, generator: torch.Generator) -> list[Tensor]:
    """A share of all places, at least one: for each part of `sizes` places, which ones."""
    total = sum(sizes)
    places = torch.randperm(total, generator=generator)[: max(1, round(rate * total))].sort().values
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        places[(places >= first) & (places < first + size)] - first for first, size in zip(starts, sizes, strict=True)
    ]


def _method(operator: Operator) -> Method:
    def layers_of(task: Task) -> tuple[str, ...]:
        last = last_linear(task.original.net, task.original.spec.input) if operator is ns else None
        return tuple(layer for layer in task.layers if layer != last)

    def settle(task: Task) -> tuple[Settings, tuple[str, ...]]:
        rate = task.settings.rate
        assert rate is not None
        if check_rate(rate, of="neurons or weights to mutate") == 0:
            raise UsageError("rate 0 would mutate nothing; give a share above 0, such as 0.007")
        if operator is ns and all(len(weight_of(task.original.net, layer)) < LEAST for layer in layers_of(task)):
            raise UsageError(f"mutation-ns switches neurons in hidden layers of {LEAST} at least; this model has none")
        return task.settings, ("mutants are as large and as slow as the original",)

    def tune(task: Task, net: nn.Module) -> dict[str, JsonValue]:
        held, preprocessing, rate = task.held, task.original.preprocessing, task.settings.rate
        assert rate is not None
        floor = KEEP * accuracy(task.original.net, held.images, held.labels, preprocessing)
        layers, first = layers_of(task), copy.deepcopy(net.state_dict())
        generator = torch.Generator().manual_seed(task.seed)
        for draw in range(1, DRAWS + 1):
            task.tick(0)
            net.load_state_dict(first)
            with torch.no_grad():
                changed = operator(net, layers, rate, generator)
            if accuracy(net, held.images, held.labels, preprocessing) >= floor:
                task.tick(1)
                return {"draws": draw, "weights" if operator is gf else "neurons": changed}
        raise GateError(
            f"none of {DRAWS} mutants reached the accuracy {floor:.4f}, {KEEP:.0%} of the original's; lower --rate"
        )

    return Method(
        options={"rate": 0.007},
        removes="nothing",
        settle=settle,
        start=lambda task: Draft(net=copy.deepcopy(task.original.net)),
        tune=tune,
        steps=lambda task: 1,
    )


NAI, GF, WS, NS = (_method(operator) for operator in (nai, gf, ws, ns))
