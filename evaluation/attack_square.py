"""Square attack: random squares at the edge of the bound, kept where they help. It asks for answers alone.

Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search", 2020,
Algorithms 1 and 2 (L-inf) with the margin as loss and the schedule of their program.
"""

import math

import torch

from pdtool.evaluation.attack_common import frozen, logits_of, margin

__all__ = ["share_at", "square"]

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries; the paper's schedule


def square(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float, queries: int, share: float
) -> torch.Tensor:
    """Random squares at +-`epsilon` in each colour, a square for each image and query, kept where the margin rises.

    Starts from vertical stripes. `share`: of the image, the first square; it is halved as the `queries` run out.
    Squares lie anywhere in the image, its last row and column included. An image is done when it fools the net; one
    that the net gets wrong already comes back unchanged. All others come back with the highest margin found.
    """
    n, colours, height, width = images.shape

    def signs(*shape: int) -> torch.Tensor:
        return (2 * torch.randint(2, shape) - 1).to(images)

    with frozen(net):
        highest = margin(logits_of(net, images), labels)
        left = (highest <= 0).nonzero()[:, 0]
        found = images.clone()
        for query in range(queries):
            if not len(left):
                break
            given, count = images[left], len(left)
            if query == 0:
                trial = (given + epsilon * signs(count, colours, 1, width)).clamp(0, 1)
                highest[left] = -torch.inf  # of the image itself: the stripes come first, whatever they do
            else:
                side = round(math.sqrt(share_at(query / queries, share) * height * width))
                side = min(max(side, 1), height, width)
                inside = _span(height, side, count)[:, None, :, None] & _span(width, side, count)[:, None, None, :]
                painted, inside = epsilon * signs(count, colours, 1, 1), inside.to(images.device)
                trial = torch.where(inside, (given + painted).clamp(0, 1), found[left])
                # a square that is there already is tried the other way round, so that no query is lost
                same = (trial == found[left]).flatten(1).all(dim=1)[:, None, None, None]
                trial = torch.where(same & inside, (given - painted).clamp(0, 1), trial)
            led = margin(logits_of(net, trial), labels[left])
            better = led > highest[left]
            found[left[better]], highest[left[better]] = trial[better], led[better]
            left = left[highest[left] <= 0]
    return found


def share_at(spent: float, first: float) -> float:
    """The share of the image that a square covers when the part `spent` (0 to 1) of the queries is used up."""
    return first / 2.0 ** sum(int(10_000 * spent) > after for after in HALVED_AFTER)


def _span(size: int, side: int, count: int) -> torch.Tensor:
    """Marks (`count`, `size`) of `side` neighbours in a row each, anywhere from the first place to the last."""
    first, place = torch.randint(size - side + 1, (count, 1)), torch.arange(size)
    return (place >= first) & (place < first + side)
