"""How well a pool tells images apart that were made against the original and members, an attacker's own or the pool's.

    python benchmarks/recipes/known.py BUNDLE POOL SURROGATES DATA --out known.json

Targeted PGD (towards a random wrong class, 50 steps of falling size with momentum) on the sum of the original's
cross-entropy and the members' mean. Scored by the bundle's graded evidence, all members asked; thresholds from clean
images of DATA alone. SURROGATES: a pool of the same weights and recipe with another --seed; it is also what an attacker
has who stole the pool before it was renewed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pdtool.calibration.kinds import levels
from pdtool.decisions import Grading
from pdtool.evaluation.adaptive_cells import pictures
from pdtool.evaluation.adaptive_stage import Stage, open_stage
from pdtool.evaluation.adaptive_transfer import push_together
from pdtool.evaluation.metrics import auroc, rate, threshold_at
from pdtool.images import Images
from pdtool.jsonform import JsonValue, encode
from pdtool.runtime.votes import collect_votes

EPSILONS = (4, 8)  # of 255
OWN = (1, 5, 20)  # members of the attacker's own, as far as there are so many
STEPS, AT_ONCE, BATCH = 50, 8, 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("bundle", "pool", "surrogates"):
        parser.add_argument(name, type=Path)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200, help="images attacked")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with open_stage(
        options.bundle, options.pool, options.data, surrogates=options.surrogates, targets=2, limit=None,
        seed=options.seed, memory_budget=None, model=None,
    ) as stage:  # fmt: skip
        rows = []
        for row in measure(stage, options.limit, options.seed):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


def measure(stage: Stage, limit: int, seed: int) -> Iterator[dict[str, JsonValue]]:
    """One attacker after another: nobody's members, K of their own, the pool's; at every epsilon."""
    clean = _score(stage, stage.data.images)
    rows = np.linspace(0, len(stage.images) - 1, min(limit, len(stage.images))).astype(np.int64)
    counts = sorted({min(count, len(stage.surrogates)) for count in OWN})
    attackers = [("oblivious", ()), *((f"own {count}", stage.surrogates[:count]) for count in counts)]
    for name, members in (*attackers, ("stolen", stage.members)):
        for epsilon in EPSILONS:
            made = []
            generator = torch.Generator().manual_seed(seed)
            for start in range(0, len(rows), BATCH):
                here = torch.from_numpy(rows[start : start + BATCH])
                made.append(
                    push_together(
                        stage.original, members, stage.images[here], stage.aims[1][here], epsilon=epsilon / 255,
                        steps=STEPS, at_once=AT_ONCE, judge=False, generator=generator,
                        kinds=stage.kinds if name == "stolen" else None,
                    )
                )  # fmt: skip
            attacked = torch.cat(made)
            with torch.no_grad():
                fooled = (stage.original(attacked).argmax(1) != stage.labels[torch.from_numpy(rows)]).numpy()
            told = _score(stage, pictures(attacked)[fooled])
            yield {
                "attacker": name,
                "epsilon": epsilon,
                "attacked": len(rows),
                "fooled": int(fooled.sum()),
                **{
                    score: {
                        "auroc": auroc(clean[score], told[score]),
                        "tpr_5": encode(rate(told[score] > threshold_at(clean[score], 0.05))),
                        "tpr_1": encode(rate(told[score] > threshold_at(clean[score], 0.01))),
                    }
                    for score in clean
                },
            }


def _score(stage: Stage, images: Images) -> dict[str, NDArray[np.float64]]:
    """Graded evidence (N,) of all members: as the test counts it, and (the same unless kinds are mixed) their mean."""
    opened, grading = stage.screener.opened, stage.screener.calibration.grading
    unscaled = Grading(temperatures=(1.0,) * len(stage.members))  # for a test that counts labels
    votes = collect_votes(opened, images, grading=grading or unscaled)
    evidence = votes.evidence.known()
    return {"counted": levels(evidence, votes.kinds)[:, -1], "mean": evidence.mean(axis=1)}


if __name__ == "__main__":
    main()
