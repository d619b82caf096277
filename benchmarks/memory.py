"""Whether the memory of making a pool grows with the number of members.

    python benchmarks/memory.py WEIGHTS TRAIN OUT

One epoch a member, one thread. Prints, for some of the members, what the process holds when the member is finished and
the most that it held since the one before (resident sets, MiB), and the pool's bytes on disk.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pdtool.devices.memory import keep_few_kernels, peak_bytes, reset_peak, resident_bytes

SHOWN = (1, 2, 4, 8, 12, 16)


class Watch:
    """Prints a row when a member is finished."""

    made = 0

    @contextmanager
    def __call__(self, label: str, total: int | None) -> Iterator["Watch"]:
        yield self

    def advance(self, steps: int = 1) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """A member's line, or another."""
        if text.startswith("m"):
            self.made += 1
            if self.made in SHOWN:
                print(f"| {self.made} | {resident_bytes() / 2**20:.0f} | {peak_bytes() / 2**20:.0f} |", flush=True)
            reset_peak()


def main() -> None:
    """Command line."""
    keep_few_kernels()  # as the command does; what follows imports torch
    import torch

    from pdtool.compress.pool import PoolRequest, make_pool
    from pdtool.compress.training import RECIPES

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("train")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.out.exists():
        raise SystemExit(f"{options.out} exists: give a new folder")
    print("| member | held, MiB | most, MiB |\n|--:|--:|--:|")
    recipe = replace(RECIPES["paper"], epochs=1)
    request = PoolRequest(weights=options.weights, data=options.train, members=max(SHOWN), recipe=recipe, max_drop=1.0)
    make_pool(request, options.out, watch=Watch())
    sizes = {
        end: [path.stat().st_size for path in options.out.glob(f"members/*{end}")] for end in (".safetensors", ".json")
    }
    weights, plans = (sum(of) / len(sizes[".safetensors"]) / 1024 for of in sizes.values())
    print(f"\nOn disk a member: {weights:.0f} KiB of weights, {plans:.0f} KiB of plan and record.")


if __name__ == "__main__":
    main()
