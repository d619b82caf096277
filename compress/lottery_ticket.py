"""Lottery tickets (Frankle & Carbin 2019, section 1; Wang et al. 2021, section III-C3).

A member is a net of its own random initialisation: trained a few epochs, its smallest weights pruned, rewound to that
initialisation, and so on until the rate is reached; then trained. Wang et al. train "6 epochs after initializing" and
give 6 as the "max search steps", without saying whether those are epochs of one round or rounds: here a round is 6
epochs, and there are as many rounds as it takes with 20 % of the weights a round (Frankle & Carbin).
"""

import copy
import math
from dataclasses import replace

from torch import nn

from pdtool.compress.contract import TRAINING, Draft, Method, Settings, Task, fine_tune
from pdtool.compress.masks import (
    Masks,
    best_of_four,
    check_pattern,
    drop_smallest,
    fits_pattern,
    hold,
    pattern_notes,
    weight_of,
    whole_masks,
    zero_masked,
)
from pdtool.compress.models import build
from pdtool.compress.rates import check_rate
from pdtool.compress.training import device_of
from pdtool.errors import UsageError
from pdtool.jsonform import JsonValue

__all__ = ["METHOD"]

A_ROUND = 0.2  # share of the weights left that a round removes at most
FOUR = (3, 2)  # of every four weights, how many a round of the pattern leaves


def settle(task: Task) -> tuple[Settings, tuple[str, ...]]:
    """The number of rounds."""
    settings = task.settings
    assert settings.rate is not None
    check_rate(settings.rate, of="weights to remove")
    check_pattern(settings.pattern, settings.rate)
    rounds = settings.rounds
    if settings.pattern is not None and rounds not in (None, 1, len(FOUR)):
        raise UsageError(f"--pattern {settings.pattern} takes one round or two, not {rounds}; leave --rounds out")
    if rounds is None and settings.pattern is not None:
        rounds = len(FOUR)
    elif rounds is None:
        rounds = max(1, math.ceil(math.log(1 - settings.rate) / math.log(1 - A_ROUND)))
    return replace(settings, rounds=rounds), pattern_notes(task.original.net, task.layers, settings.pattern)


def start(task: Task) -> Draft:
    """The net of the member's own initialisation."""
    return Draft(net=build(task.original.spec, seed=task.seed).to(device_of(task.original.net)))


def tune(task: Task, net: nn.Module) -> dict[str, JsonValue]:
    """Train, prune and rewind round after round; then train."""
    rounds, epochs = task.settings.rounds, task.settings.search_epochs
    assert rounds is not None and epochs is not None
    first = copy.deepcopy(net.state_dict())
    masks = whole_masks(net, task.layers)
    for number in range(1, rounds + 1):
        fine_tune(task, net, epochs=epochs, hooks=hold(masks))
        masks = _pruned(task, net, masks, number / rounds)
        net.load_state_dict(first)
        zero_masked(net, masks)
    fine_tune(task, net, hooks=hold(masks))
    return {}


def _pruned(task: Task, net: nn.Module, masks: Masks, way: float) -> Masks:
    """The masks once the share `way` of the rounds is done."""
    rate, rounds = task.settings.rate, task.settings.rounds
    assert rate is not None and rounds is not None
    sizes = {layer: weight_of(net, layer).abs() for layer in masks}
    if task.settings.pattern is None:
        weights = sum(mask.numel() for mask in masks.values())
        return drop_smallest(sizes, masks, round(weights * (1 - (1 - rate) ** way)))
    left = FOUR[len(FOUR) - rounds :][round(way * rounds) - 1]
    return {
        layer: best_of_four(sizes[layer].masked_fill(~mask, -1), left)
        if fits_pattern(mask)
        else drop_smallest(sizes, {layer: mask}, round(mask.numel() * (1 - left / 4)))[layer]
        for layer, mask in masks.items()
    }


def steps(task: Task) -> int:
    """All rounds' and the last training's."""
    rounds, epochs = task.settings.rounds, task.settings.search_epochs
    assert rounds is not None and epochs is not None
    search = replace(task.recipe, epochs=rounds * epochs)
    return search.steps(len(task.training)) + task.recipe.steps(len(task.training))


METHOD = Method(
    options={"rate": 0.5, "pattern": None, "rounds": None, "search_epochs": 6, **TRAINING},
    removes="weights",
    settle=settle,
    start=start,
    tune=tune,
    steps=steps,
)
