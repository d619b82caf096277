"""Signed gradient steps in an L-inf ball with momentum and shrinking steps: what the gradient attackers share."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Look", "descend", "margins", "within"]

# Where the step is halved, as shares of the run: the checkpoints of APGD (Croce and Hein 2020, section 3)
HALVED = (0.22, 0.41, 0.57, 0.7, 0.8, 0.87, 0.93)
MOMENTUM = 0.75  # APGD's alpha
# Batches come in few sizes, filled up with repeated images: oneDNN compiles every layer anew for each size
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
LARGEST = 0.1  # first step in a ball of any size: half of the whole range would jump from corner to corner


# What an attacker sees of images (n, C, H, W) in [0, 1], `rows` (n,) of the attacked ones, at a step, the last or not:
# the direction (n, C, H, W) that makes things worse for the attacker, and how bad they are (n,). 0 and below: the image
# needs no more work; None: not judged at this step.
Look = Callable[[Tensor, Tensor, int, bool], tuple[Tensor, Tensor | None]]


def descend(
    images: Tensor, look: Look, *, epsilon: float, steps: int, generator: torch.Generator, random_start: bool = False
) -> Tensor:
    """The best images found within `epsilon` of images (N, C, H, W), all in [0, 1], after `steps` steps against `look`.

    The step begins at epsilon / 2 and is halved seven times; momentum as in APGD. Where `look` judges, the iterate it
    judged best is returned; where it never does, the last one.
    """
    low, high = (images - epsilon).clamp(min=0.0), (images + epsilon).clamp(max=1.0)
    x = images.clone()
    if random_start:
        x = within(x + epsilon * (2 * torch.rand(x.shape, generator=generator) - 1), low, high)
    before, best = x.clone(), x.clone()
    least = torch.full((len(images),), torch.inf)
    open_rows = torch.arange(len(images))
    size = min(epsilon / 2, LARGEST)
    halvings = {max(1, round(share * steps)) for share in HALVED}
    for step in range(steps + 1):
        here = x[open_rows]
        asked = _padded(open_rows)
        worse, score = look(x[asked], asked, step, step == steps)
        worse, score = worse[: len(here)], None if score is None else score[: len(here)]
        if score is None:  # what is returned of images that are never judged
            unjudged = torch.isinf(least[open_rows])
            best[open_rows[unjudged]] = here[unjudged]
        else:
            better = score < least[open_rows]
            least[open_rows[better]], best[open_rows[better]] = score[better], here[better]
            going = score > 0
            open_rows, here, worse = open_rows[going], here[going], worse[going]
        if step == steps or len(open_rows) == 0:
            break
        size = size / 2 if step in halvings else size
        bounds = low[open_rows], high[open_rows]
        moved = within(here - size * worse.sign(), *bounds)
        if step > 0:
            moved = within(here + MOMENTUM * (moved - here) + (1 - MOMENTUM) * (here - before[open_rows]), *bounds)
        before[open_rows], x[open_rows] = here, moved
    return best


def _padded(rows: Tensor) -> Tensor:
    """The rows, the first of them repeated up to the next size of a batch."""
    size = next((size for size in SIZES if size >= len(rows)), len(rows))
    return torch.cat([rows, rows[:1].expand(size - len(rows))])


def within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Every pixel moved into its bounds."""
    return torch.minimum(torch.maximum(x, low), high)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the best other class leads the given ones (N,): negative where the net says `labels`. logits (N, C).

    >>> margins(torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0]]), torch.tensor([0, 2])).tolist()
    [-1.0, 3.0]
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(dim=1) - own
