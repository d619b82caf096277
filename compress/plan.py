"""What making a pool would take, before it is made: a few members are started, one or more trained for some steps."""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pdtool.compress.costs import count
from pdtool.compress.prepare import PoolRequest, prepare
from pdtool.compress.timing import (
    Spread,
    by_kind_of,
    seconds_of_parent,
    seconds_to_finish,
    sizes_of,
    some_crafted,
    timed_steps,
)  # fmt: skip
from pdtool.compress.training import accuracy
from pdtool.compress.weights import weights_bytes
from pdtool.devices.catalogue import DeviceProfile
from pdtool.devices.roofline import ITEM_BYTES, Fit, fits

__all__ = ["BoardFit", "PoolPlan", "fits_board", "plan_pool"]


@dataclass(frozen=True, kw_only=True)
class BoardFit:
    """Whether the weights of all models fit a board of the catalogue at once, in two number formats."""

    id: str
    name: str
    fp32: Fit
    fp16: Fit


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """What making a pool would take. Sizes and MACs are those of the first `started` members, before any training.

    `units` are what may be pruned or mutated, each for itself: layers that lose channels together, or layers.
    `parameters`: of the original and all members. `seconds`: for all members, one after another in this process, data
    included; `least` and `most` if every step took as long as the fastest and slowest tenth of the `timed` steps.
    """

    model: str
    classes: int
    members: int
    units: int
    left_whole: dict[str, str]
    train_images: int
    held_images: int
    original_accuracy: float
    original_bytes: int
    original_macs: int
    started: int
    member_bytes: Spread
    member_macs: Spread
    parameters: int
    board: BoardFit | None
    steps: int  # a member
    timed: int
    seconds: Spread
    notes: tuple[str, ...]

    @property
    def bytes(self) -> float:
        """Of the weights of the original and of all members, on disk."""
        return self.original_bytes + self.members * self.member_bytes.mean


def plan_pool(request: PoolRequest, board: DeviceProfile | None = None) -> PoolPlan:
    """What `make_pool` would do, without writing anything; `board`: does the pool fit it?

    Takes some seconds beside reading the data. Raises as `make_pool` for what cannot be used.
    """
    begun = time.perf_counter()
    ready = prepare(request)
    the = ready.task.original
    right = accuracy(the.net, ready.task.held.images, ready.task.held.labels, the.preprocessing)
    costs = count(the.net, the.spec.input)
    once = time.perf_counter() - begun
    ready, crafting = some_crafted(ready)
    task, scouts = ready.task, ready.task.hardening.scouts if ready.task.hardening else 0
    sizes, start = sizes_of(ready, request)
    macs, lengths, parameters = zip(*sizes, strict=True)
    typical = int(np.argsort(macs)[len(macs) // 2])  # members may be of unlike size: time one in the middle
    finish = seconds_to_finish(ready, request, typical)
    by_kind = [timed_steps(ready, request, typical, kind, own) for kind, own in by_kind_of(request).items()]
    notes = tuple(note for kind in by_kind for note in kind.notes)
    steps, once = ready.method.steps(task), once + crafting + seconds_of_parent(ready)

    def whole(name: Literal["mean", "least", "most"]) -> float:
        seconds = once + request.members * (start + finish)
        seconds += sum(kind.members * steps * getattr(kind.step, name) for kind in by_kind)
        if scouts:  # they are hardened: as members of that kind, or the nearest to it
            like = min(by_kind, key=lambda kind: kind.kind != "hardened")
            seconds += scouts * (start + steps * getattr(like.step, name))
        return round(float(seconds), 3)

    parameters_in_all = costs.parameters + round(request.members * float(np.mean(parameters)))
    return PoolPlan(
        model=str(the.spec),
        classes=len(the.classes),
        members=request.members,
        units=len(task.units) or len(task.layers),
        left_whole=ready.whole,
        train_images=len(task.training),
        held_images=len(task.held),
        original_accuracy=round(right, 6),
        original_bytes=len(weights_bytes(the.net, {})),
        original_macs=costs.macs,
        started=len(sizes),
        member_bytes=Spread.of(lengths),
        member_macs=Spread.of(macs),
        parameters=parameters_in_all,
        board=None if board is None else fits_board(parameters_in_all, board),
        steps=steps,
        timed=sum(kind.timed for kind in by_kind),
        seconds=Spread(mean=whole("mean"), least=whole("least"), most=whole("most")),
        notes=(*ready.notes, *notes),
    )


def fits_board(parameters: int, board: DeviceProfile) -> BoardFit:
    """Whether models of so many parameters in all fit the board: by their weights alone, the least that they take."""
    basis = "estimate from the weights alone: engines and their scratch take more, pdtool export measures it"
    return BoardFit(
        id=board.id,
        name=board.name,
        fp32=fits(parameters * ITEM_BYTES["fp32"], board, basis=basis),
        fp16=fits(parameters * ITEM_BYTES["fp16"], board, basis=basis),
    )
