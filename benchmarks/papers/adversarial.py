"""One adversarially trained model to compare with (Table 7), of the spec of an original and on its data.

python benchmarks/papers/adversarial.py pgd-at|trades|fast-at ORIGINAL TRAIN OUT --epochs N
"""

import argparse
from dataclasses import replace
from pathlib import Path

from pdtool.cli.output import note, percent, progress
from pdtool.compress.original import load_original
from pdtool.compress.training import RECIPES
from pdtool.evaluation.adversarial_training import REGIMES, train_adversarially


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("regime", choices=REGIMES)
    parser.add_argument("original", type=Path)
    parser.add_argument("train")
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--train-on", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    original, _ = load_original(options.original)
    trained = train_adversarially(
        REGIMES[options.regime],
        original,
        options.train,
        options.out,
        recipe=replace(RECIPES["train"], epochs=options.epochs, flip=options.flip),
        seed=options.seed,
        device=options.train_on,
        watch=progress,
    )
    note(f"{options.regime}: {percent(trained.accuracy)} of {trained.accuracy_images} clean images labelled rightly")


if __name__ == "__main__":
    main()
