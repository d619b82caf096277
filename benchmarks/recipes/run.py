"""Pools by many recipes, attacked alike; one plain command after another, what is there is not made again.

    python benchmarks/recipes/run.py DATA OUT
    python benchmarks/recipes/table.py OUT > benchmarks/recipes/recipes.md

DATA holds `cifar10-*.tar.gz` and `gtsrb-*.tar.gz`. Options, log and exit codes: as `benchmarks/papers/run.py`.
"""

import argparse
import sys
from collections.abc import Sequence

from rows import stages
from stages import add_options, carry_out

LIMIT = 300  # images attacked


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    options = parser.parse_args(arguments)
    every = stages(options.data, options.out, limit=options.limit or LIMIT, seed=options.seed)
    return carry_out(every, options, parser)


if __name__ == "__main__":
    sys.exit(main())
