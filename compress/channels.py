"""What the methods that remove whole channels share: select, prune, fine-tune the copy of the original."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from torch import nn

from pdtool.compress.contract import TRAINING, Draft, Method, Settings, Task, fine_tune
from pdtool.compress.fresh import fresh_layers, refresh
from pdtool.compress.prune import Unit, prune
from pdtool.compress.rates import preset_rates, rounding_leaves_whole
from pdtool.errors import UsageError
from pdtool.jsonform import JsonValue

__all__ = ["Select", "channel_method"]


class Select(Protocol):
    """Which channels each unit loses: unit name -> sorted indices. Pruned units keep a multiple of `round_to`."""

    def __call__(
        self,
        units: Sequence[Unit],
        net: nn.Module,
        rate: float,
        group_rates: Mapping[int, float],
        rng: np.random.Generator,
        *,
        round_to: int = 1,
    ) -> dict[str, tuple[int, ...]]:
        """Raises UsageError for rates outside [0, 1) and groups that the net does not have."""


def channel_method(select: Select) -> Method:
    """The method that removes the channels that `select` chooses and fine-tunes what is left."""

    def choose(task: Task, seed: int) -> dict[str, tuple[int, ...]]:
        settings, rng = task.settings, np.random.default_rng(seed)
        assert settings.rate is not None and settings.round_to is not None
        return select(task.units, task.stem, settings.rate, settings.group_rates, rng, round_to=settings.round_to)

    def settle(task: Task) -> tuple[Settings, tuple[str, ...]]:
        settings, units, notes = task.settings, task.units, list[str]()
        round_to = settings.round_to or 1
        if settings.preset is not None:
            group_rates = preset_rates(settings.preset, units)
            filters = sum(unit.filters for unit in units)
            rate = sum(group_rates[unit.channels] * unit.filters for unit in units) / filters
            settings = replace(settings, rate=round(rate, 6), group_rates=group_rates)
        whole = rounding_leaves_whole(units, round_to)
        if len(whole) == len(units):
            raise UsageError(f"--round-to {round_to}: no layer has more channels than that; give a smaller one")
        if whole:
            notes.append(f"left whole by --round-to {round_to}: {', '.join(unit.name for unit in whole)}")
        choose(replace(task, settings=settings), 0)  # raises for unknown groups and the like
        return settings, tuple(notes)

    def start(task: Task) -> Draft:
        net = copy.deepcopy(task.stem)
        if task.hardening is not None and task.kind != "plain":
            refresh(net, task.hardening.fresh, task.seed)
        return Draft(net=net, history=prune(net, task.original.spec.input, choose(task, task.seed)))

    def tune(task: Task, net: nn.Module) -> dict[str, JsonValue]:
        fine_tune(task, net)
        if task.hardening is None or task.hardening.fresh == 0 or task.kind == "plain":
            return {}
        return {"fresh": list(fresh_layers(net, task.hardening.fresh, task.seed))}

    return Method(
        options={"rate": 0.5, "group_rates": {}, "preset": None, "round_to": 1, **TRAINING},
        removes="channels",
        settle=settle,
        start=start,
        tune=tune,
        steps=lambda task: task.recipe.steps(len(task.training)),
        inherits=True,
    )
