"""Pruning and logits augmentation (S. Wang et al. 2018, section III): one model that is harder to attack.

Round after round the smallest weights of each layer go, 5 % of those left in a convolution and 10 % in a linear layer,
and the rest is fine-tuned (section III-A, after Han et al. 2015); 20 rounds make the paper's Level One. Then the last
linear layer's weights, not its bias, are multiplied by tau (equation 7): Level Two. The paper gives no tau; tau = 1 is
Level One. The model's file names its model itself: it can be an original as it is.
"""

import copy
import math
from dataclasses import replace

import torch
from torch import nn

from pdtool.compress.contract import TRAINING, Draft, Method, Settings, Task, fine_tune
from pdtool.compress.head import last_linear
from pdtool.compress.masks import Masks, drop_smallest, hold, weight_of, whole_masks, zero_masked
from pdtool.errors import InputError, UsageError
from pdtool.jsonform import JsonValue

__all__ = ["METHOD"]

CONVOLUTION, LINEAR = 0.05, 0.1  # shares of the weights left that a round removes


def settle(task: Task) -> tuple[Settings, tuple[str, ...]]:
    """The overall rate that the rounds come to."""
    settings, net = task.settings, task.original.net
    assert settings.rounds is not None
    if settings.tau is None:
        raise UsageError("prune-and-scale needs --tau, the factor of the last layer's weights; 1 prunes only")
    if not 0 < settings.tau < math.inf:
        raise UsageError(f"tau should be a number above 0, is {settings.tau}")
    _last(task, net)
    weights = {layer: weight_of(net, layer).numel() for layer in task.layers}
    zeros = {layer: _zeros(net, layer, count, settings.rounds) for layer, count in weights.items()}
    note = "zeros do not make an engine smaller or faster: the model costs what the original costs"
    return replace(settings, rate=round(sum(zeros.values()) / sum(weights.values()), 6)), (note,)


def tune(task: Task, net: nn.Module) -> dict[str, JsonValue]:
    """Prune and fine-tune round after round, the last time for the recipe's epochs; then scale."""
    rounds, epochs, tau = task.settings.rounds, task.settings.search_epochs, task.settings.tau
    assert rounds is not None and epochs is not None and tau is not None
    masks: Masks = whole_masks(net, task.layers)
    for number in range(1, rounds + 1):
        for layer, mask in masks.items():
            zeros = _zeros(net, layer, mask.numel(), number)
            masks |= drop_smallest({layer: weight_of(net, layer).abs()}, {layer: mask}, zeros)
        zero_masked(net, masks)
        fine_tune(task, net, epochs=epochs if number < rounds else None, hooks=hold(masks))
    last = _last(task, net)
    with torch.no_grad():
        weight_of(net, last).mul_(tau)
    return {"scaled": last}


def _last(task: Task, net: nn.Module) -> str:
    last = last_linear(net, task.original.spec.input)
    if last is None:
        raise InputError("prune-and-scale: the model's logits do not come straight from a linear layer to be scaled")
    return last


def _zeros(net: nn.Module, layer: str, weights: int, rounds: int) -> int:
    share = LINEAR if isinstance(net.get_submodule(layer), nn.Linear) else CONVOLUTION
    return round(weights * (1 - (1 - share) ** rounds))


def steps(task: Task) -> int:
    """All rounds'."""
    rounds, epochs = task.settings.rounds, task.settings.search_epochs
    assert rounds is not None and epochs is not None
    search = replace(task.recipe, epochs=(rounds - 1) * epochs)
    return search.steps(len(task.training)) + task.recipe.steps(len(task.training))


METHOD = Method(
    options={"rounds": 20, "search_epochs": 1, "tau": None, **TRAINING},
    removes="weights",
    settle=settle,
    start=lambda task: Draft(net=copy.deepcopy(task.original.net)),
    tune=tune,
    steps=steps,
    single=True,
)
