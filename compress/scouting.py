"""What all members of a hardened pool share: the images crafted once, if asked for against scouts, too.

Members that only ever saw attacks on the original are fooled by whoever trains a member of their own in the same way
and attacks both. Scouts are such members: made first, by the pool's own method, on images crafted against the original
alone, never attacked themselves, and thrown away. The members' images are then crafted against the original and scouts
together (ensemble adversarial training: Tramer et al. 2018, section 4); `orthogonal` members keep their gradients at
right angles to theirs, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pdtool.compress.contract import Draft, Method, Task
from pdtool.compress.crafting import BATCH, craft
from pdtool.compress.parent import parent_steps
from pdtool.compress.training import Crafted, crafted_of_batch
from pdtool.errors import UsageError

__all__ = ["craft_for", "crafted_count", "crafting_steps", "parent_seed"]


def crafted_count(method: Method, task: Task) -> int:
    """How many images are crafted: as many as the settings say, but not more than a member or the parent sees. 0: none.

    Raises UsageError for a share so small that no image of a batch would be crafted.
    """
    if task.hardening is None:
        return 0
    assert task.recipe.batch is not None
    share, batch = task.hardening.share, task.recipe.batch
    each = crafted_of_batch(share, batch)
    twice = task.hardening.robust > 0 or task.hardening.orthogonal > 0
    if twice and batch - each < 2:
        raise UsageError(
            f"hardening: robust and orthogonal need two clean images in a batch of {batch}, share={share:g} leaves "
            f"{batch - each}; lower share"
        )
    if each == 0:
        raise UsageError(
            f"hardening: expected a share that is at least one image of a batch of {batch}, got {share:g}; "
            f"raise share or leave hardening out"
        )
    seen = max(method.steps(task), parent_steps(method, task)) * each
    return max(1, min(round(task.hardening.crafted * len(task.training)), seen))


def crafting_steps(method: Method, task: Task) -> int:
    """How often `craft_for` ticks."""
    if task.hardening is None:
        return 0
    batches, scouts = math.ceil(crafted_count(method, task) / BATCH), task.hardening.scouts
    return (2 * batches if scouts else batches) + scouts * method.steps(task)


def craft_for(method: Method, task: Task, seed: int, *, tick: Callable[[int], None]) -> Task:
    """The task of a pool of that seed with its crafted images and scouts; as it is where no hardening is asked for.

    Raises GateError where a scout diverges.
    """
    if task.hardening is None:
        return task
    scouts = list[Draft]()
    if task.hardening.scouts:
        ready = replace(task, crafted=_craft(method, task, (), (seed, 0, 1), tick=tick))
        for number in range(task.hardening.scouts):
            own = replace(ready, seed=_seed(seed, 0, 2, number), tick=tick)
            scout = method.start(own)
            method.tune(own, scout.net)
            scouts.append(replace(scout, net=scout.net.eval()))
    return replace(task, crafted=_craft(method, task, scouts, (seed, 0, 3), tick=tick), scouts=tuple(scouts))


def _craft(
    method: Method, task: Task, scouts: Sequence[Draft], seed: tuple[int, ...], *, tick: Callable[[int], None]
) -> Crafted:
    assert task.hardening is not None
    count = crafted_count(method, task)
    nets = [task.original.net, *(scout.net for scout in scouts)]
    return craft(nets, task.training, task.hardening, task.recipe, seed=_seed(*seed), count=count, tick=tick)


def parent_seed(seed: int) -> int:
    """Of the parent of a pool of that seed."""
    return _seed(seed, 0, 4)


def _seed(*numbers: int) -> int:
    """Unlike any member's, which are of two numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
