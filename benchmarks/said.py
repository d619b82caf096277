"""What members say of clean and attacked test images, kept small, and what it is worth as evidence."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.compress.models import Normalised
from pdtool.compress.original import Original
from pdtool.compress.split import align
from pdtool.compress.training import predict
from pdtool.compress.weights import weights_bytes
from pdtool.data import load_data
from pdtool.evaluation.attacks import parse_attack, run_attack
from pdtool.evaluation.diversity import Diversity, diversity
from pdtool.evaluation.metrics import auroc
from pdtool.files import npz_bytes, sha256_bytes, write_atomic
from pdtool.images import Images

__all__ = ["ATTACKS", "HEADERS", "Worth", "attacked_sets", "cells", "key_of", "said_by", "worth"]

ATTACKS = {"FGSM": "fgsm:epsilon=0.03", "DeepFool": "deepfool", "PGD": "pgd:epsilon=8/255"}
MOST = 600  # test images that are attacked, about, and at most every third
HEADERS = (
    "accuracy: mean (least, most)",
    "clean labels changed",
    "correlation of pairs: clean, FGSM, DeepFool, PGD",
    "effective votes: clean, FGSM, DeepFool, PGD",
    "AUROC: FGSM, DeepFool, PGD",
)


@dataclass(frozen=True, kw_only=True)
class Worth:
    """`accuracy` a member on clean test images; `changed`: mean label change rate on clean test images; a set of
    images (`clean` or an attack) its `diversity` and, for attacks, the AUROC of the label change rate."""

    accuracy: tuple[float, ...]
    original: float
    changed: float
    images: dict[str, int]
    diversity: dict[str, Diversity]
    auroc: dict[str, float | None]


def attacked_sets(original: Original, data: str, folder: Path) -> dict[str, Images]:
    """The test images and, of some of those that the original gets right, the attacks on it that succeeded.

    Made once and kept in `folder`, in a file named after original and images: float32 (N, H, W, C) in [0, 1], `clean`
    as loaded; `truth` (N,) of `clean`.
    """
    dataset = load_data(data, original.spec.input, role="test")
    keep = folder / f"attacked-{key_of(weights_bytes(original.net, original.metadata()), dataset.fingerprint)}.npz"
    if not keep.exists():
        loaded = align(dataset, original.classes)
        net = Normalised(original.net, original.preprocessing)
        sets: dict[str, NDArray[np.generic]] = {"clean": loaded.images, "truth": loaded.labels}
        every = max(3, len(loaded.labels) // MOST)
        for text in ATTACKS.values():
            found = run_attack(net, loaded.images[::every], loaded.labels[::every], parse_attack(text), seed=0)
            sets[text] = found.images[predict(net, found.images) != found.labels]
            print(f"{text}: {len(sets[text])} of {len(found)} succeeded", file=sys.stderr, flush=True)
        write_atomic(keep, npz_bytes(sets))
    with np.load(keep, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def key_of(*parts: str | bytes) -> str:
    """A name for what depends on all of them."""
    return sha256_bytes(b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts))[:12]


def said_by(net: nn.Module, sets: Mapping[str, Images]) -> dict[str, NDArray[np.int64]]:
    """The labels that a net of pixels gives each set's images."""
    return {name: predict(net, images) for name, images in sets.items() if name != "truth"}


def worth(
    original: Mapping[str, NDArray[np.int64]],
    members: list[Mapping[str, NDArray[np.int64]]],
    truth: NDArray[np.int64],
) -> Worth:
    """From the labels that the original and every member gave each set."""
    changed = {name: np.stack([said[name] != labels for said in members], axis=1) for name, labels in original.items()}
    rates = {name: of.mean(axis=1) for name, of in changed.items()}
    return Worth(
        accuracy=tuple(float(np.mean(said["clean"] == truth)) for said in members),
        original=float(np.mean(original["clean"] == truth)),
        changed=float(rates["clean"].mean()),
        images={name: len(of) for name, of in changed.items()},
        diversity={name: diversity(of) for name, of in changed.items()},
        auroc={name: auroc(rates["clean"], of) for name, of in rates.items() if name != "clean"},
    )


def cells(w: Worth) -> tuple[str, ...]:
    """A table's cells under `HEADERS`."""
    names = ("clean", *ATTACKS.values())
    share = [f"{100 * value:.1f}" for value in (np.mean(w.accuracy), min(w.accuracy), max(w.accuracy))]
    accuracy, changed = f"{share[0]} % ({share[1]}, {share[2]})", f"{100 * w.changed:.1f} %"
    if len(w.accuracy) == 1:  # one vote is no pool
        return f"{share[0]} %", changed, "–", "–", "–"
    return (
        accuracy,
        changed,
        ", ".join(_number(w.diversity[name].correlation, 2) for name in names),
        ", ".join(_number(w.diversity[name].effective_votes, 1) for name in names),
        ", ".join(_number(w.auroc[name], 3) for name in names[1:]),
    )


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
