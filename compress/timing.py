"""How large members will be and how long the parts of making a pool take: a few are started, some steps timed."""

import gc
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from torch import nn

from pdtool.artifacts import Kind
from pdtool.compress.contract import Draft, Task
from pdtool.compress.costs import count, count_nonzero
from pdtool.compress.crafting import BATCH, craft
from pdtool.compress.member import member_seed
from pdtool.compress.parent import parent_steps, raise_parent
from pdtool.compress.prepare import PoolRequest, Prepared
from pdtool.compress.scouting import crafted_count
from pdtool.compress.training import Crafted, accuracy, estimate_norms
from pdtool.compress.weights import weights_bytes
from pdtool.devices.memory import give_back
from pdtool.errors import GateError

__all__ = [
    "AT_MOST", "PATIENCE", "STEPS", "Spread", "Timed", "by_kind_of", "seconds_of_parent", "seconds_to_finish",
    "sizes_of", "some_crafted", "timed_steps",
]  # fmt: skip

STARTED = 8  # members that are started to see how large they are
STEPS = 100  # steps that are timed
WARM = 3  # steps before them: memory is allocated in the first ones
PARENT = 8  # steps of a parent that are timed, the first two left out
CRAFTED = 4  # batches that are crafted and timed
PATIENCE = 2.0  # seconds after which fewer will do
AT_MOST = 10.0  # seconds after which a single step is given up


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several figures of one kind."""

    mean: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of one figure at least."""
        return Spread(mean=float(np.mean(values)), least=min(values), most=max(values))


def some_crafted(ready: Prepared) -> tuple[Prepared, float]:
    """With a few crafted images, and the seconds that all of them take."""
    task, hardening, wanted = ready.task, ready.task.hardening, crafted_count(ready.method, ready.task)
    if hardening is None:
        return ready, 0.0

    def some(nets: list[nn.Module]) -> tuple[Crafted, float]:
        ends = [time.perf_counter()]
        few = craft(
            nets,
            task.training,
            hardening,
            task.recipe,
            seed=0,
            count=min(wanted, CRAFTED * BATCH),
            tick=lambda _: ends.append(time.perf_counter()),
        )
        # the first batch is slower, memory is allocated in it
        each = (ends[-1] - ends[1]) / (len(ends) - 2) if len(ends) > 2 else ends[1] - ends[0]
        return few, math.ceil(wanted / BATCH) * each

    crafted, seconds = some([task.original.net])
    scouts = tuple(ready.method.start(task) for _ in range(hardening.scouts))
    if scouts:  # once against the original, once against a scout, too
        seconds += some([task.original.net, scouts[0].net])[1]
    return replace(ready, task=replace(task, crafted=crafted, scouts=scouts)), seconds


def seconds_of_parent(ready: Prepared) -> float:
    """Seconds that the parent of a hardened pool takes, as a few of its steps tell."""
    steps, ends = parent_steps(ready.method, ready.task), [time.perf_counter()]

    def tick(count: int) -> None:
        ends.append(time.perf_counter())
        if len(ends) > PARENT or ends[-1] > ends[0] + PATIENCE:
            raise _Enough

    if steps:
        with suppress(_Enough):
            raise_parent(replace(ready.task, kind="robust", tick=tick))
    taken = np.diff(ends)
    return steps * float(np.mean(taken[2:] if len(taken) > 2 else taken)) if steps else 0.0


def _draft(ready: Prepared, request: PoolRequest, index: int) -> Draft:
    return ready.method.start(_own(ready, request, index))


def _own(ready: Prepared, request: PoolRequest, index: int) -> Task:
    """Of member number `index`."""
    kind = "plain" if request.hardening is None else request.hardening.kind(index)
    return replace(ready.task, seed=member_seed(request.seed, index), kind=kind)


def sizes_of(ready: Prepared, request: PoolRequest) -> tuple[list[tuple[int, int, int]], float]:
    """(MACs, bytes, parameters) of the first members, and the seconds that it takes to start one."""
    begun, sizes = time.perf_counter(), list[tuple[int, int, int]]()
    while not sizes or (len(sizes) < min(request.members, STARTED) and time.perf_counter() < begun + PATIENCE):
        net = _draft(ready, request, len(sizes)).net
        costs = count(net, ready.task.original.spec.input)
        sizes.append((costs.macs, len(weights_bytes(net, {})), costs.parameters))
    return sizes, (time.perf_counter() - begun) / len(sizes)


def seconds_to_finish(ready: Prepared, request: PoolRequest, index: int) -> float:
    """Seconds for what is done with a member beside its steps."""
    task, net = ready.task, _draft(ready, request, index).net
    begun = time.perf_counter()
    if ready.recipe:
        estimate_norms(net, task.training, task.recipe.norm_images)
    norms = time.perf_counter() - begun
    accuracy(net, task.held.images, task.held.labels, task.original.preprocessing)
    count_nonzero(net, count(net, task.original.spec.input))
    gc.collect()  # this and the next as after every member
    give_back()
    # batch norm is estimated after every round, all else once
    return time.perf_counter() - begun + norms * ((task.settings.rounds or 1) - 1)


@dataclass(frozen=True)
class Timed:
    """Seconds of the steps of so many members of a kind, from `timed` of them; and what went wrong with them."""

    kind: Kind
    members: int
    timed: int
    step: Spread
    notes: tuple[str, ...]


def by_kind_of(request: PoolRequest) -> dict[Kind, list[int]]:
    """The members by index, those of one kind together: their steps take as long."""
    kinds: dict[Kind, list[int]] = {}
    for index in range(request.members):
        kind: Kind = "plain" if request.hardening is None else request.hardening.kind(index)
        kinds.setdefault(kind, []).append(index)
    return kinds


def timed_steps(ready: Prepared, request: PoolRequest, typical: int, kind: Kind, own: Sequence[int]) -> Timed:
    """Steps of a member of `own`, the `typical` one if it is one of them, and where it has few, of others."""
    first = typical if typical in own else own[0]
    steps = len(own) * ready.method.steps(ready.task)
    warm = WARM if ready.recipe and steps > 2 * WARM else 0  # a method that does not train has a step a member
    taken, notes = list[float](), list[str]()
    begun = last = time.perf_counter()

    def tick(count: int) -> None:
        nonlocal last, warm
        now = time.perf_counter()
        if count and warm:
            warm, last = warm - 1, now
        elif count:
            taken.append((now - last) / count)
            last = now
        if len(taken) >= STEPS or now > begun + (PATIENCE if taken else AT_MOST):
            raise _Enough

    try:
        for index in chain([first], (index for index in own if index != first)):
            net, before = _draft(ready, request, index).net, len(taken)
            last = time.perf_counter()
            try:
                ready.method.tune(replace(_own(ready, request, index), tick=tick), net)
            except GateError as error:
                notes.append(f"m{index:03d}: {error}")
                taken += [time.perf_counter() - last] if len(taken) == before else []
    except _Enough:
        if not taken:
            taken.append(time.perf_counter() - last)
            notes.append(f"a step took more than {AT_MOST:.0f} s: the time is the least that it can take")
    low, high = np.quantile(taken or [0.0], [0.1, 0.9])
    mean = np.clip(taken or [0.0], low, high).mean()  # a hiccup of the machine does not count a thousand times
    return Timed(kind, len(own), len(taken), Spread(mean=float(mean), least=float(low), most=float(high)), tuple(notes))


class _Enough(Exception):
    """Enough steps were timed."""
