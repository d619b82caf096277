"""Which knob buys members that err apart, and at what accuracy: a few members for each setting, on real images.

    python benchmarks/independence.py WEIGHTS TRAIN TEST OUT > benchmarks/independence.md

WEIGHTS is the original of `gtsrb.sh`. Each member's labels are kept in OUT; a run that was stopped goes on. Every
setting differs from the first in what it is called after; its members have the seeds of a pool with seed 0. Four
members a setting tell large differences only: members of one setting differ by several points of accuracy.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from said import HEADERS, attacked_sets, cells, key_of, said_by, worth
from torch import nn

from pdtool.compress.contract import Task, fine_tune
from pdtool.compress.member import member_seed
from pdtool.compress.models import Normalised, build
from pdtool.compress.pool import PoolRequest
from pdtool.compress.prepare import prepare
from pdtool.compress.prune import prune
from pdtool.compress.random_channel import select
from pdtool.compress.rates import spread_over_blocks
from pdtool.compress.weights import weights_bytes
from pdtool.files import npz_bytes, write_atomic

MEMBERS = 4
RATES = (0.3, 0.43, 0.57, 0.7)  # of the members, where they differ


def member(
    task: Task,
    index: int,
    *,
    rate: float | None = 0.5,
    even: bool = False,
    one_mask: bool = False,
    one_order: bool = False,
    fresh: bool = False,
    epochs: int = 10,
    distill: float = 0.0,
    temperature: float = 2.0,
) -> nn.Module:
    """One random-channel member, fine-tuned; `rate` None: each member another."""
    own, first = member_seed(0, index), member_seed(0, 0)
    net = copy.deepcopy(task.original.net)
    if fresh:
        net = build(task.original.spec, seed=own)
    rng = np.random.default_rng(first if one_mask else own)
    share = RATES[index] if rate is None else rate
    if even:
        channels = {
            unit.name: spread_over_blocks(
                unit, rng.choice(unit.channels, size=round(share * unit.channels), replace=False).tolist()
            )
            for unit in task.units
        }
    else:
        channels = select(task.units, task.original.net, share, {}, rng)
    prune(net, task.original.spec.input, channels)
    recipe = replace(task.recipe, epochs=epochs, distill=distill, temperature=temperature)
    fine_tune(replace(task, seed=first if one_order else own, recipe=recipe), net)
    return Normalised(net, task.original.preprocessing).eval()


SETTINGS: dict[str, Callable[[Task, int], nn.Module]] = {
    "as `--method random-channel`: rate 0.5, 10 epochs": member,
    "15 epochs": lambda task, i: member(task, i, epochs=15),
    "8 epochs": lambda task, i: member(task, i, epochs=8),
    "fresh weights, not the original's": lambda task, i: member(task, i, fresh=True),
    "5 epochs": lambda task, i: member(task, i, epochs=5),
    "imitates the original: weight 0.3, temperature 2": lambda task, i: member(task, i, distill=0.3),
    "imitates the original: weight 0.9, temperature 1": lambda task, i: member(task, i, distill=0.9, temperature=1.0),
    "rate 0.3": lambda task, i: member(task, i, rate=0.3),
    "rate 0.7": lambda task, i: member(task, i, rate=0.7),
    "rates from 0.3 to 0.7": lambda task, i: member(task, i, rate=None),
    "one choice of channels for all": lambda task, i: member(task, i, one_mask=True),
    "one order of the data for all": lambda task, i: member(task, i, one_order=True),
    "every layer loses the same share": lambda task, i: member(task, i, even=True),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task = prepare(PoolRequest(weights=options.weights, data=options.train)).task
    sets = attacked_sets(task.original, options.test, options.out)
    weights = weights_bytes(task.original.net, task.original.metadata())
    original = said_by(Normalised(task.original.net, task.original.preprocessing), sets)
    counts = ", ".join(f"{len(images)} {name}" for name, images in sets.items() if name != "truth")
    right = 100 * np.mean(original["clean"] == sets["truth"])
    print(f"{MEMBERS} members a row; images: {counts}. Original: {right:.1f} %.")
    print(f"\n| setting | {' | '.join(HEADERS)} |\n|---|{'--:|' * len(HEADERS)}")
    for name, make in SETTINGS.items():
        said = []
        for index in range(MEMBERS):
            path = options.out / f"said-{key_of(weights, name)}-{index}.npz"
            if not path.exists():
                begun = time.process_time()
                labels = said_by(make(task, index), sets)
                write_atomic(path, npz_bytes(labels))
                print(f"{name}, {index}: {time.process_time() - begun:.0f} s", file=sys.stderr, flush=True)
            with np.load(path, allow_pickle=False) as arrays:
                said.append({key: arrays[key] for key in arrays.files})
        print(f"| {name} | {' | '.join(cells(worth(original, said, sets['truth'])))} |", flush=True)


if __name__ == "__main__":
    main()
