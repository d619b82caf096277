"""What making a pool would take, before it is made: one member is started and tuned for a few steps."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from pdtool.compress.member import member_seed
from pdtool.compress.prepare import PoolRequest, prepare
from pdtool.compress.weights import weights_bytes
from pdtool.errors import GateError

__all__ = ["PoolPlan", "plan_pool"]


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """What making a pool would take: `seconds` from a few measured training steps of one member.

    `units` are what may be pruned or mutated, each for itself: layers that lose channels together, or layers.
    """

    model: str
    classes: int
    members: int
    units: int
    left_whole: dict[str, str]
    train_images: int
    held_images: int
    steps: int  # a member
    original_bytes: int
    member_bytes: int
    seconds: float
    notes: tuple[str, ...]


def plan_pool(request: PoolRequest) -> PoolPlan:
    """What `make_pool` would do, without writing anything: one member is pruned and trained for a few steps."""
    ready = prepare(request)
    times = [time.perf_counter()]

    def tick(count: int) -> None:
        times.append(time.perf_counter())
        if len(times) > 20 or times[-1] - times[0] > 5.0:
            raise _Enough

    task = replace(ready.task, seed=member_seed(request.seed, 0), tick=tick)
    draft = ready.method.start(task)
    member_bytes, steps = len(weights_bytes(draft.net, {})), ready.method.steps(task)
    times = [time.perf_counter()]
    with suppress(_Enough, GateError):
        ready.method.tune(task, draft.net)
    taken = np.diff(times)
    a_step = float(np.median(taken[1:] if len(taken) > 1 else taken)) if len(taken) else 0.0
    return PoolPlan(
        model=str(task.original.spec),
        classes=len(task.original.classes),
        members=request.members,
        units=len(task.units) or len(task.layers),
        left_whole=ready.whole,
        train_images=len(task.training),
        held_images=len(task.held),
        steps=steps,
        original_bytes=len(weights_bytes(task.original.net, {})),
        member_bytes=member_bytes,
        seconds=round(a_step * steps * request.members, 3),
        notes=ready.notes,
    )


class _Enough(Exception):
    """Enough steps were timed."""
