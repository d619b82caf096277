"""The attacker who wants no wrong label: clean frames that look adversarial, or that ask as many members as can be.

False alarms make a stream useless, and a frame that many members are asked for takes longer and heats the device. The
label stays right, so that nothing else shows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.calibration.evidence import graded, shift_of
from pdtool.calibration.kinds import Kinds, orders
from pdtool.calibration.table import GradedTable, Table, replay
from pdtool.decisions import Grading
from pdtool.evaluation.adaptive_descent import descend, margins
from pdtool.evaluation.adaptive_results import Goal

__all__ = ["costliest_share", "disturb", "outcome"]

LEAD = 1.0  # logits by which the label is kept, and by which members are won over
ORDERS = 200  # random orders of members in which the costliest share is looked for
JUDGED = 24  # random orders in which images are judged: the attacker does not know the real one
LOOKS = (0.0, 0.2, 0.4, 0.6, 0.8)  # shares of the run after which images are judged, as well as at its end
LOST = 1e6  # how bad it is to lose the label: worse than any outcome


def costliest_share(table: Table, members: int, rng: np.random.Generator) -> float:
    """The share of members that should disagree so that the test, members in random order, asks most of them."""
    asked = []
    for changes in range(members + 1):
        row = np.arange(members) < changes
        votes = rng.permuted(np.broadcast_to(row, (ORDERS, members)), axis=1)
        evidence = votes.astype(np.float64) if isinstance(table, GradedTable) else votes
        asked.append(replay(table, evidence)[1].mean())
    return int(np.argmax(asked)) / members


def outcome(table: Table, evidence: NDArray[np.float64], orders: NDArray[np.int64], goal: Goal) -> NDArray[np.float64]:
    """What the table makes of evidence (N, M), mean over `orders` (K, M) of the members (N,): the share of them that
    flag (`alarm`), or the members asked as a share of the most (`delay`)."""
    said = evidence[:, orders].reshape(-1, orders.shape[1])  # (N * K, M)
    flagged, used = replay(table, said if isinstance(table, GradedTable) else said > 0.5)
    each = flagged.astype(np.float64) if goal == "alarm" else used / table.max_models
    mean: NDArray[np.float64] = each.reshape(len(evidence), len(orders)).mean(axis=1)
    return mean


def disturb(
    original: nn.Module,
    members: Sequence[nn.Module],
    table: Table,
    grading: Grading | None,
    images: Tensor,
    labels: Tensor,
    *,
    kinds: Kinds | None = None,
    goal: Goal,
    share: float,
    epsilon: float,
    steps: int,
    at_once: int,
    generator: torch.Generator,
) -> Tensor:
    """Images within `epsilon` that the original still labels `labels` (N,) and that the table flags, or asks most of
    the members for.

    Steps make `share` of the members change their label: those nearest to it; the others are held; `at_once` of them
    are asked a step. Of the original's label nothing is risked: where it leads by too little a step is for it alone.
    The iterate that the table, with members in random orders and evidence of its kind (`grading` for graded),
    likes least is kept; the clean image where nothing is worse. `kinds` are those of the members of a mixed pool.
    """
    wanted = _nearest(members, images, labels, share)
    looks = {round(part * steps) for part in LOOKS}
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    judged = orders(len(members), kinds, JUDGED, rng)

    def look(x: Tensor, rows: Tensor, step: int, last: bool) -> tuple[Tensor, Tensor | None]:
        aims, won = labels[rows], wanted[rows]
        drawn = rng.permutation(len(members))[:at_once]
        moving = x.clone().requires_grad_(True)
        risk = F.relu(margins(original(moving), aims) + LEAD)
        cost = torch.zeros(len(x))
        for i in drawn:
            cost = cost + _undecided(margins(members[i](moving), aims), won[:, i]) / len(drawn)
        total = torch.where(risk > 0, risk, cost)  # one or the other an image
        (gradient,) = torch.autograd.grad(total.sum(), moving)
        return gradient, judge(x, aims, won) if last or step in looks else None

    def judge(x: Tensor, aims: Tensor, won: Tensor) -> Tensor:
        """How far from done (N,): first the outcome, then the cost; 0 where there is no more to be had."""
        with torch.no_grad():
            said = [net(x) for net in members]
            lead = margins(original(x), aims)
            cost = torch.stack([_undecided(margins(logits, aims), won[:, i]) for i, logits in enumerate(said)])
        evidence = _evidence(said, aims, -lead, grading, table)
        missing = torch.from_numpy(1 - outcome(table, evidence, judged, goal)).float()
        short = cost.mean(dim=0)  # decides between equal outcomes: less than the least difference of two
        left = JUDGED * table.max_models * missing + short / (1 + short)
        return torch.where(lead < -0.1 * LEAD, left, LOST + (lead + LEAD).clamp(max=LOST))

    return descend(images, look, epsilon=epsilon, steps=steps, generator=generator)


def _undecided(lead: Tensor, won: Tensor) -> Tensor:
    """By how many logits a member falls short of changing its label (N,), or of keeping it where it is not `won`."""
    return F.relu(LEAD + torch.where(won, -lead, lead))


def _evidence(
    said: Sequence[Tensor], labels: Tensor, margin: Tensor, grading: Grading | None, table: Table
) -> NDArray[np.float64]:
    """What each member's logits (N, C) say against the labels, (N, M), as the runtime counts it; `margin` (N,): by how
    many logits the original is for them."""
    if not isinstance(table, GradedTable):
        return torch.stack([logits.argmax(1) != labels for logits in said], dim=1).double().numpy()
    given = grading or Grading(temperatures=(1.0,) * len(said))
    shift = shift_of(given, margin.double().numpy())
    scaled = zip(said, given.temperatures, strict=True)
    return np.stack([graded(logits.numpy(), labels.numpy(), scale, shift) for logits, scale in scaled], axis=1)


def _nearest(members: Sequence[nn.Module], images: Tensor, labels: Tensor, share: float) -> Tensor:
    """Which members (N, M) are to change their label: those whose lead is smallest."""
    with torch.no_grad():
        leads = torch.stack([margins(net(images), labels) for net in members], dim=1)
    rank = (-leads).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < round(share * len(members))
