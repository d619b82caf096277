"""Record what a pool's members say of clean and attacked images, small enough to keep.

    python benchmarks/record_votes.py POOL BUNDLE DATA OUT.npz [--limit N]

DATA is labelled and was not seen by the pool. Its first half (tracks kept whole) is `calibrate`, its second `test`; the
test images that the original gets right are attacked. Arrays of each set, named "<set>/<array>": `original` and `truth`
(N,), `groups` (N,), `members` (N, M) labels as uint8, `graded` (N, M) evidence as float16. Attacked sets hold only
images that fool the exported original, and `source` (N,), the index of the test image. Set names and settings are in
`provenance`. The members' temperatures were fitted on the fit part of `calibrate`, as `pdtool calibrate` does with
seed 0.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.promise import split
from pdtool.compress.folder import open_pool
from pdtool.data import labels_as, load_data
from pdtool.evaluation.attacks import parse_attack, run_attack
from pdtool.files import write_atomic
from pdtool.images import size_of
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.votes import Votes, collect_votes

ATTACKS = {
    "fgsm-small": "fgsm:epsilon=0.0075",  # the papers' 0.03 in normalised space
    "fgsm": "fgsm:epsilon=0.03",
    "deepfool": "deepfool",
    "cw": "cw:steps=100",
    "pgd": "pgd:epsilon=8/255",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("pool", "bundle"):
        parser.add_argument(name, type=Path)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=600, help="most test images attacked, evenly over the data")
    options = parser.parse_args()
    record(options.pool, options.bundle, options.data, options.out, limit=options.limit, say=print)


def record(pool: Path, bundle: Path, data: str, out: Path, *, limit: int, say: Callable[[str], None]) -> None:
    """Ask every member and write the file `out`."""
    opened, of = open_bundle(bundle), open_pool(pool)
    size = size_of(opened.bundle.preprocessing)
    if len(opened.bundle.classes) > 256:
        raise SystemExit(f"labels are stored in 8 bits, {bundle} has {len(opened.bundle.classes)} classes")
    arrays: dict[str, NDArray[np.generic]] = {}

    def keep(
        name: str, votes: Votes, truth: NDArray[np.int64], rows: NDArray[np.int64], **more: NDArray[np.int64]
    ) -> None:
        kept = votes.evidence.take(rows)
        wanted: dict[str, NDArray[np.generic]] = {
            "original": votes.original[rows].astype(np.uint8),
            "truth": truth[rows].astype(np.uint8),
            "members": votes.members[rows].astype(np.uint8),
            "graded": kept.known().astype(np.float16),
            **more,
        }
        arrays.update({f"{name}/{key}": array for key, array in wanted.items()})
        say(f"{name}: {len(rows)} images, label change rate {kept.changed.mean():.3f}")

    calibrate = load_data(f"{data}#1/2", size, role="test")
    labels = labels_as(calibrate, opened.bundle.classes)
    fit, _ = split(calibrate.groups, 0)
    votes = collect_votes(opened, calibrate.images, fit_on=fit)
    assert labels is not None and votes.grading is not None
    keep("calibrate", votes, labels, np.arange(len(labels)), groups=calibrate.groups)
    test = load_data(f"{data}#2/2", size, role="test")
    truth = labels_as(test, opened.bundle.classes)
    assert truth is not None
    clean = collect_votes(opened, test.images, grading=votes.grading)
    keep("test", clean, truth, np.arange(len(truth)), groups=test.groups)
    chosen = np.arange(min(limit, len(truth))) * len(truth) // min(limit, len(truth))
    net = of.original()
    facts = {}
    for name, spec in ATTACKS.items():
        attack = parse_attack(spec)
        found = run_attack(net, test.images[chosen], truth[chosen], attack, seed=0)
        said = collect_votes(opened, found.images, grading=votes.grading)
        fooled = np.flatnonzero(said.original != found.labels)
        keep(name, said, found.labels, fooled, source=chosen[found.source[fooled]])
        facts[name] = {"spec": attack.spec, "attacked": len(found), "fooled": len(fooled)}
    provenance = {
        "model": of.pool.model,
        "method": of.pool.method,
        "rate": of.pool.rate,
        "members": [member.id for member in opened.bundle.members],
        "macs": [member.macs for member in opened.bundle.members],
        "original_macs": opened.bundle.original.macs,
        "temperatures": votes.grading.temperatures,
        "classes": list(opened.bundle.classes),
        "attacks": facts,
    }
    arrays["provenance"] = np.array(json.dumps(provenance))
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    write_atomic(out, packed.getvalue())


if __name__ == "__main__":
    main()
