"""All methods on the same images: what their members are worth, what they cost and how long they take.

    python benchmarks/methods.py TRAIN TEST KEEP POOL... > benchmarks/methods-DATA.md

The pools have one original and were made by `compress.sh`. Members of a pool are compared in their first `MEMBERS`.
KEEP is a folder for the attacked images, made once. Times are CPU times, with one thread: a few training steps are
measured, those of the original and of each method in turns, and multiplied by the number of steps; what is done beside
the steps (batch norm estimated anew, masks sorted, members judged) is left out. A mutant's time is that of the draws
until the first member is good enough.
"""

import argparse
import statistics
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from said import HEADERS, attacked_sets, cells, said_by, worth

from pdtool.artifacts import Pool
from pdtool.compress.contract import Settings, Task
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.member import member_seed
from pdtool.compress.methods import METHODS
from pdtool.compress.models import Normalised, build
from pdtool.compress.original import load_original
from pdtool.compress.pool import PoolRequest
from pdtool.compress.prepare import prepare
from pdtool.compress.training import RECIPES, Recipe, fit
from pdtool.errors import GateError

MEMBERS = 3
TICKS = 25  # training steps that are timed
COSTS = (
    "removed or zero: channels, weights",
    "M MACs (without zeros)",
    "weights + plan, KiB",
    "epochs of the original",
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("keep", type=Path)
    parser.add_argument("pools", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    opened = [open_pool(folder) for folder in options.pools]
    original, _ = load_original(opened[0].folder / "original.safetensors")
    sets = attacked_sets(original, options.test, options.keep)
    truth = sets["truth"]
    said = said_by(Normalised(original.net, original.preprocessing), sets)
    counts = ", ".join(f"{len(images)} {name}" for name, images in sets.items() if name != "truth")
    whole = opened[0].pool.original
    print(
        f"Original: {100 * np.mean(said['clean'] == truth):.1f} %, {whole.macs / 1e6:.2f} M MACs, "
        f"{(whole.file.bytes + whole.plan.bytes) / 1024:.0f} KiB. Images: {counts}. {MEMBERS} members a row, of "
        f"prune-and-scale one.\n"
    )
    headers = (*HEADERS, *COSTS)
    print(f"| method | {' | '.join(headers)} |\n|---|{'--:|' * len(headers)}")
    for of in opened:
        members = [of.member(member.id) for member in of.pool.members[:MEMBERS]]
        row = cells(worth(said, [said_by(net, sets) for net in members], truth))
        epochs = f"{in_epochs(of, options.train):.1f}"
        print(f"| {of.pool.method} | {' | '.join((*row, *costs(of.pool), epochs))} |", flush=True)


def costs(pool: Pool) -> tuple[str, ...]:
    """Mean of the members: achieved rates, MACs, bytes on disk."""
    members = pool.members[:MEMBERS]

    def mean(values: list[float]) -> float:
        return statistics.fmean(values)

    macs, left = (mean([m.model.macs for m in members]), mean([m.model.nonzero_macs for m in members]))
    file, plan = (mean([m.model.file.bytes for m in members]), mean([m.model.plan.bytes for m in members]))
    rates = (mean([m.channel_rate for m in members]), mean([m.weight_rate for m in members]))
    return (
        f"{100 * rates[0]:.1f}, {100 * rates[1]:.1f} %",
        f"{macs / 1e6:.2f} ({left / 1e6:.2f})",
        f"{file / 1024:.0f} + {plan / 1024:.0f}",
    )


def in_epochs(of: PoolFolder, data: str) -> float:
    """CPU time of one member in CPU times of one epoch of training the original."""
    pool = of.pool
    recipe: dict[str, Any] = {
        field.name: pool.recipe[field.name] for field in fields(Recipe) if field.name in pool.recipe
    }
    names = {field.name for field in fields(Settings)} - {"group_rates"}
    chosen: dict[str, Any] = {name: value for name, value in pool.options.items() if name in names}
    request = PoolRequest(
        weights=of.folder / "original.safetensors",
        data=data,
        method=pool.method,
        rate=pool.rate if "rate" in METHODS[pool.method].options else None,
        members=1,
        recipe=replace(RECIPES["paper"], **recipe),
        **chosen,
    )
    ready = prepare(request)
    task = replace(ready.task, seed=member_seed(pool.seed, 0))
    steps = ready.method.steps(task)
    an_epoch = replace(task.recipe, epochs=1).steps(len(task.training)) * train_step(task)
    ticks, begun = [time.process_time()], time.process_time()

    def tick(count: int) -> None:
        ticks.append(time.process_time())
        if len(ticks) > TICKS:
            raise _Enough

    draft = ready.method.start(task)
    try:
        with suppress(GateError):
            ready.method.tune(replace(task, tick=tick), draft.net)
        return (time.process_time() - begun) / an_epoch
    except _Enough:
        return statistics.median(np.diff(ticks[2:])) * steps / an_epoch


def train_step(task: Task) -> float:
    """CPU seconds of a step of training a net like the original, with the batch of the members' recipe."""
    ticks: list[float] = []

    def tick(count: int) -> None:
        ticks.append(time.process_time())
        if len(ticks) > TICKS:
            raise _Enough

    with suppress(_Enough):
        fit(
            build(task.original.spec),
            task.training,
            replace(RECIPES["train"], batch=task.recipe.batch),
            seed=0,
            tick=tick,
        )
    return statistics.median(np.diff(ticks[2:]))


class _Enough(Exception):
    """Enough steps were timed."""


if __name__ == "__main__":
    main()
