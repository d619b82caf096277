"""The attacker who wants no wrong label: clean frames that look adversarial, or that ask as many members as can be.

False alarms make a stream useless, and a frame that many members are asked for takes longer and heats the device. The
label stays right, so that nothing else shows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.calibration.table import GradedTable, Table, replay
from pdtool.evaluation.adaptive_descent import descend, margins

__all__ = ["costliest_share", "disturb"]

LEAD = 1.0  # logits by which the label is kept, and by which members are won over
ORDERS = 200  # random orders of members in which the costliest share is looked for


def costliest_share(table: Table, members: int, rng: np.random.Generator) -> float:
    """The share of members that should disagree so that the test, members in random order, asks most of them."""
    asked = []
    for changes in range(members + 1):
        row = np.arange(members) < changes
        votes = rng.permuted(np.broadcast_to(row, (ORDERS, members)), axis=1)
        evidence = votes.astype(np.float64) if isinstance(table, GradedTable) else votes
        asked.append(replay(table, evidence)[1].mean())
    return int(np.argmax(asked)) / members


def disturb(
    original: nn.Module,
    members: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    share: float,
    epsilon: float,
    steps: int,
    at_once: int,
    generator: torch.Generator,
) -> Tensor:
    """Images within `epsilon` that the original still labels `labels` (N,) and that `share` of the members do not.

    The members nearest to changing their minds are won over, the others are held; `at_once` of them are asked a step.
    Of the original's label nothing is risked: where it leads by too little a step is for it alone. The clean image
    comes back where nothing better was found.
    """
    wanted = _nearest(members, images, labels, share)
    looks = {round(part * steps) for part in (0.0, 0.4, 0.7)}
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))

    def look(x: Tensor, rows: Tensor, step: int, last: bool) -> tuple[Tensor, Tensor | None]:
        aims, won = labels[rows], wanted[rows]
        drawn = rng.permutation(len(members))[:at_once]
        moving = x.clone().requires_grad_(True)
        risk = F.relu(margins(original(moving), aims) + LEAD)
        cost = torch.zeros(len(x))
        for i in drawn:
            lead = margins(members[i](moving), aims)
            cost = cost + F.relu(LEAD + torch.where(won[:, i], -lead, lead)) / len(drawn)
        total = torch.where(risk > 0, risk, cost)  # one or the other an image
        (gradient,) = torch.autograd.grad(total.sum(), moving)
        score = _undone(original, members, x, aims, won) if last or step in looks else None
        return gradient, score

    return descend(images, look, epsilon=epsilon, steps=steps, generator=generator)


def _nearest(members: Sequence[nn.Module], images: Tensor, labels: Tensor, share: float) -> Tensor:
    """Which members (N, M) are to change their label: those whose lead is smallest."""
    with torch.no_grad():
        leads = torch.stack([margins(net(images), labels) for net in members], dim=1)
    rank = (-leads).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < round(share * len(members))


def _undone(original: nn.Module, members: Sequence[nn.Module], x: Tensor, aims: Tensor, won: Tensor) -> Tensor:
    """The share of members that do not do as wanted (N,), or 2 where the label is not kept with some lead."""
    with torch.no_grad():
        kept = margins(original(x), aims) < -0.1 * LEAD
        changed = torch.stack([net(x).argmax(1) != aims for net in members], dim=1)
    undone = (changed != won).double().mean(dim=1)
    return torch.where(kept, undone, 2.0).float()
