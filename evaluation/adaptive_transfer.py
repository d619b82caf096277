"""Attackers who push the original and members together: none, members of their own, or the stolen pool.

Without members: the oblivious attacker. With members of the same recipe and another seed: the one who knows the
recipe. With the pool's own: the one who stole it but does not know in which order members are asked; a random few of
them a step are an expectation over members and order (Athalye et al. 2018, EoT).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.calibration.kinds import Kinds, orders
from pdtool.evaluation.adaptive_descent import descend

__all__ = ["push_together"]

SURE = 0.05  # mean cross-entropy at which a thief stops: every model gives the target about 95 %
LOOKS = (0.2, 0.4, 0.6, 0.8)  # shares of the run after which a thief asks every member, as well as at its end


def push_together(
    original: nn.Module,
    members: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    steps: int,
    at_once: int,
    judge: bool,
    generator: torch.Generator,
    random_start: bool = False,
    kinds: Kinds | None = None,
) -> Tensor:
    """Images within `epsilon` that the original and the members label as `targets` (N,).

    Loss: the original's cross-entropy towards the target plus the mean of `at_once` members', drawn anew every step.
    With `judge` all members are asked now and then, the iterate that most of them follow is kept, and work on an
    image stops where all are sure. `kinds` of the members of a mixed pool: they are drawn by turns, and the kind of
    which fewest follow counts, as in the test.
    """
    looks = {round(share * steps) for share in LOOKS}
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))

    def look(x: Tensor, rows: Tensor, step: int, last: bool) -> tuple[Tensor, Tensor | None]:
        aims = targets[rows]
        drawn = rng.permutation(len(members)) if kinds is None else orders(len(members), kinds, 1, rng)[0]
        drawn = drawn[:at_once]
        moving = x.clone().requires_grad_(True)
        loss = F.cross_entropy(original(moving), aims, reduction="none")
        for i in drawn:
            loss = loss + F.cross_entropy(members[i](moving), aims, reduction="none") / len(drawn)
        (gradient,) = torch.autograd.grad(loss.sum(), moving)
        score = _all(original, members, x, aims, kinds) if judge and (last or step in looks) else None
        return gradient, score

    return descend(images, look, epsilon=epsilon, steps=steps, generator=generator, random_start=random_start)


def _all(original: nn.Module, members: Sequence[nn.Module], x: Tensor, aims: Tensor, kinds: Kinds | None) -> Tensor:
    """How far from done (N,): the share of members that do not follow, of the kind of which fewest do, or everything
    where the original does not, and the mean cross-entropy; 0 where all are sure."""
    with torch.no_grad():
        logits = [net(x) for net in (original, *members)]
    loss = torch.stack([F.cross_entropy(said, aims, reduction="none") for said in logits]).mean(dim=0)
    apart = torch.stack([said.argmax(1) != aims for said in logits]).double()
    own = [[1 + i for i in range(len(members)) if kinds is None or kinds[i] == kind] for kind in set(kinds or "*")]
    shares = torch.stack([apart[rows].mean(dim=0) for rows in own if rows] or [apart[0]])
    share = torch.where(apart[0] > 0, 1.0, shares.amax(dim=0))
    sure = (share == 0) & (loss <= SURE)
    return torch.where(sure, 0.0, 1000 * share + loss.clamp(max=999)).float()
