"""How alike the members of a pool are: their gradients, and what an attack on the original and one does to another.

    python benchmarks/recipes/alike.py POOL DATA --out alike.json

Gradients: the cosine between those of two nets' cross-entropy of the original's label with respect to an image (the
term of Bian et al. 2021, equation 6, before it is squared), mean over images and pairs. Attacks: targeted PGD as in
`known.py`, against the original and the first member of each kind; told apart by each other member for itself, by one
less its probability of the original's label; thresholds from clean images. Pairs of one kind and of two are kept apart.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from known import AT_ONCE, BATCH, EPSILONS, STEPS
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.folder import open_pool
from pdtool.data import load_data
from pdtool.evaluation.adaptive_transfer import push_together
from pdtool.evaluation.metrics import auroc, threshold_at
from pdtool.images import as_input, size_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pool", type=Path)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300, help="clean images")
    parser.add_argument("--attacked", type=int, default=100, help="of them attacked")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    of = open_pool(options.pool)
    images = load_data(options.data, size_of(of.pool.preprocessing), role="test", limit=options.limit).images
    pixels, original = torch.from_numpy(as_input(images)), of.original()
    used = [member for member in of.pool.members if member.used]
    nets, kinds = [of.member(member.id) for member in used], [member.kind for member in used]
    labels = label(original, pixels)
    own, first = [gradients(net, pixels, labels) for net in nets], gradients(original, pixels, labels)
    pairs = [(kinds[i] == kinds[j], cosine(own[i], own[j])) for i, j in combinations(range(len(nets)), 2)]
    told = {
        "images": len(pixels),
        "original": fmean(cosine(first, each) for each in own),
        **_by_kind(pairs),
        "attacked": min(options.attacked, len(pixels)),
        "attacks": [
            {"epsilon": epsilon, **transfer(original, nets, kinds, pixels, epsilon, options.attacked, options.seed)}
            for epsilon in EPSILONS
        ],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n")


def gradients(net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy of the labels (N,) with respect to each image (N, C, H, W): (N, C * H * W), of length 1."""
    point = pixels.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(F.cross_entropy(net(point), labels, reduction="sum"), point)
    return F.normalize(found.flatten(1).double(), dim=1)


def cosine(one: Tensor, other: Tensor) -> float:
    """Mean over images."""
    return float((one * other).sum(dim=1).mean())


def label(net: nn.Module, pixels: Tensor) -> Tensor:
    """Of each image (N,)."""
    with torch.no_grad():
        return net(pixels).argmax(1)


def transfer(
    original: nn.Module,
    nets: Sequence[nn.Module],
    kinds: Sequence[object],
    pixels: Tensor,
    epsilon: float,
    attacked: int,
    seed: int,
) -> dict[str, object]:
    """AUROC and TPR at 5 % of false alarms of members that were not attacked, mean over pairs."""
    generator = torch.Generator().manual_seed(seed)
    clean, few = label(original, pixels), pixels[:attacked]
    logits = int(original(few[:1]).shape[1])
    aims = (clean[:attacked] + torch.randint(1, logits, (len(few),), generator=generator)) % logits
    curves, rates, fooled = list[tuple[bool, float]](), list[tuple[bool, float]](), 0
    for i in sorted({kinds.index(kind) for kind in kinds}):
        made = torch.cat([
            push_together(
                original, (nets[i],), few[start : start + BATCH], aims[start : start + BATCH], epsilon=epsilon / 255,
                steps=STEPS, at_once=AT_ONCE, judge=False, generator=generator,
            )
            for start in range(0, len(few), BATCH)
        ])  # fmt: skip
        given = label(original, made)
        wrong = given != clean[:attacked]
        fooled += int(wrong.sum())
        for j in range(len(nets)):
            if j == i or not bool(wrong.any()):
                continue
            before, after = doubt(nets[j], pixels, clean), doubt(nets[j], made[wrong], given[wrong])
            same = kinds[i] == kinds[j]
            curves.append((same, auroc(before, after) or 0.0))
            rates.append((same, float((after > threshold_at(before, 0.05)).mean())))
    return {"fooled": fooled, "auroc": _by_kind(curves), "tpr_5": _by_kind(rates)}


def doubt(net: nn.Module, pixels: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """One less the probability of each image's label (N,)."""
    with torch.no_grad():
        said = F.softmax(net(pixels).double(), dim=1)
    return 1 - said.gather(1, labels[:, None])[:, 0].numpy()


def _by_kind(pairs: Sequence[tuple[bool, float]]) -> dict[str, float | None]:
    """Means of pairs of one kind, and of two."""
    each = {"one_kind": [value for same, value in pairs if same], "two_kinds": [v for same, v in pairs if not same]}
    return {name: fmean(values) if values else None for name, values in each.items()}


if __name__ == "__main__":
    main()
