"""How alike the gradients of a pool's members are: what an attack on one has to offer against another.

    python benchmarks/recipes/gradients.py POOL DATA --out gradients.json

The cosine between two nets' gradients of the cross-entropy of the original's label with respect to an image (the term
of Bian et al. 2021, equation 6, before it is squared), mean over images and pairs: of members and the original, of two
members of one kind, of two kinds.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.folder import open_pool
from pdtool.data import load_data
from pdtool.images import as_input, size_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pool", type=Path)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300, help="images")
    options = parser.parse_args(arguments)
    of = open_pool(options.pool)
    images = load_data(options.data, size_of(of.pool.preprocessing), role="test", limit=options.limit).images
    pixels, original = torch.from_numpy(as_input(images)), of.original()
    with torch.no_grad():
        labels = original(pixels).argmax(1)
    used = [member for member in of.pool.members if member.used]
    own = [gradients(of.member(member.id), pixels, labels) for member in used]
    first = gradients(original, pixels, labels)
    pairs = [(used[i].kind == used[j].kind, cosine(own[i], own[j])) for i, j in combinations(range(len(used)), 2)]
    told = {
        "images": len(pixels),
        "original": fmean(cosine(first, each) for each in own),
        "one_kind": _mean([value for same, value in pairs if same]),
        "two_kinds": _mean([value for same, value in pairs if not same]),
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


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


if __name__ == "__main__":
    main()
