"""Everything that the papers' tables are made of, one plain command after another; what is there is not made again.

    python benchmarks/papers/run.py small DATA OUT
    python benchmarks/papers/run.py full DATA OUT --minutes 9        again and again, until nothing is left

DATA holds `cifar10-*.tar.gz` and `gtsrb-*.tar.gz` (for `full` also SVHN's own `train_32x32.mat` and `test_32x32.mat`,
where there are such). Every command is printed before it runs and written to OUT/stages.jsonl with its commit and its
seconds. With `--minutes` a command that is still running then is stopped; the next call goes on: `compress` after the
last member that is whole, `evaluate` after the last attack. Exit code: 0 all is there, 10 something is left, else the
code of the command that failed.
"""

import argparse
import sys
from collections.abc import Sequence

from plan import SCALES, stages
from stages import add_options, carry_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scale", choices=SCALES)
    add_options(parser)
    options = parser.parse_args(arguments)
    every = stages(SCALES[options.scale], options.data, options.out, limit=options.limit, seed=options.seed)
    return carry_out(every, options, parser)


if __name__ == "__main__":
    sys.exit(main())
