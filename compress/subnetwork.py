"""Subnetworks of random nets (Ramanujan et al. 2020, "edge-popup", section 3; Wang et al. 2021, section III-C4).

A member is a net whose weights are random and never trained. Every weight has a score; forward, the weights of the
highest scores of each layer are there and the others are zero; backward, the choice counts as the identity
(straight-through), so that a score grows where its weight would lower the loss. Weights are signed Kaiming constants,
scaled to the share that stays (section 4 and figure 8 there); biases are zero and batch norm's scale and shift stay 1
and 0: it is only re-estimated. Ramanujan et al. search 100 epochs, as do Wang et al. (section IV-B).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pdtool.compress.contract import Draft, Method, Settings, Task, fine_tune
from pdtool.compress.masks import (
    best_of_four,
    check_pattern,
    drop_smallest,
    fits_pattern,
    pattern_notes,
    weight_of,
    zero_masked,
)
from pdtool.compress.models import build
from pdtool.compress.rates import check_rate
from pdtool.compress.training import device_of
from pdtool.jsonform import JsonValue

__all__ = ["METHOD"]


def settle(task: Task) -> tuple[Settings, tuple[str, ...]]:
    """Nothing depends on the model."""
    settings = task.settings
    assert settings.rate is not None
    check_rate(settings.rate, of="weights to remove")
    check_pattern(settings.pattern, settings.rate)
    return settings, pattern_notes(task.original.net, task.layers, settings.pattern)


def start(task: Task) -> Draft:
    """The net of the member's own random weights, all of them."""
    assert task.settings.rate is not None
    net = build(task.original.spec, seed=task.seed)
    with torch.no_grad():
        for layer in task.layers:
            module, weight = net.get_submodule(layer), weight_of(net, layer)
            fan = weight[0].numel() * (1 - task.settings.rate)
            weight.copy_(torch.where(weight < 0, -1.0, 1.0) * math.sqrt(2 / max(fan, 1.0)))
            if isinstance(module.bias, Tensor):
                module.bias.zero_()
    return Draft(net=net.to(device_of(task.original.net)))


def tune(task: Task, net: nn.Module) -> dict[str, JsonValue]:
    """Search the scores, then zero the weights that lost."""
    rate, epochs = task.settings.rate, task.settings.search_epochs
    assert rate is not None and epochs is not None
    frozen = [parameter for parameter in net.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(task.seed)
    choices = {}
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for layer in task.layers:
            weight = weight_of(net, layer)
            bound = 1 / math.sqrt(weight[0].numel())  # as torch initialises weights, and edge-popup its scores
            scores = (2 * torch.rand(weight.shape, generator=generator) - 1).mul_(bound).to(weight.device)
            choices[layer] = _Choice(scores, rate, task.settings.pattern)
            parametrize.register_parametrization(net.get_submodule(layer), "weight", choices[layer])
        fine_tune(task, net, epochs=epochs)
    finally:
        for layer in choices:
            parametrize.remove_parametrizations(net.get_submodule(layer), "weight", leave_parametrized=False)
        for parameter in frozen:
            parameter.requires_grad_(True)
    zero_masked(net, {layer: choice.stays() for layer, choice in choices.items()})
    return {}


class _Choice(nn.Module):
    """What a layer's weight becomes: itself where its score is among the best, else zero."""

    def __init__(self, scores: Tensor, rate: float, pattern: str | None) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.zeros = round(scores.numel() * rate)
        self.fours = pattern is not None and fits_pattern(scores)

    def stays(self) -> Tensor:
        """The mask, bool."""
        sizes = self.scores.detach().abs()
        if self.fours:
            return best_of_four(sizes)
        return drop_smallest({"": sizes}, {"": torch.ones_like(sizes, dtype=torch.bool)}, self.zeros)[""]

    def forward(self, weight: Tensor) -> Tensor:
        chosen: Tensor = _StraightThrough.apply(self.scores.abs(), self.stays())  # type: ignore[no-untyped-call]
        return weight * chosen


class _StraightThrough(torch.autograd.Function):
    """The mask forward, the scores' gradient as it is backward."""

    @staticmethod
    def forward(context: object, scores: Tensor, mask: Tensor) -> Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


METHOD = Method(
    options={"rate": 0.5, "pattern": None, "search_epochs": 30, "recipe": None, "flip": None},
    removes="weights",
    settle=settle,
    start=start,
    tune=tune,
    steps=lambda task: replace(task.recipe, epochs=task.settings.search_epochs or 0).steps(len(task.training)),
)
