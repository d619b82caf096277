"""The attacker who knows everything: original, members, their order and the decision table.

A frame is cleared by the first members asked, so only those matter, and of those only as many as must agree. Besides
steps down both costs together there are two ways of Bryniarski et al. 2021, "Evading adversarial example detection
defenses with orthogonal projected gradient descent", Selective and Orthogonal PGD: while the original is not fooled, a
step fools it; once it is, a step lowers the detector's cost; the orthogonal way leaves out what would undo the other.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.calibration.table import CLEAR, CONTINUE, DecisionTable, GradedTable, Table
from pdtool.decisions import Grading
from pdtool.evaluation.adaptive_descent import descend, margins

__all__ = ["WAYS", "Way", "evade", "members_that_matter", "soft_cost", "weighed"]

Way = Literal["together", "selective", "orthogonal"]
WAYS: tuple[Way, ...] = ("together", "selective", "orthogonal")
LEAD = 1.0  # logits by which the target should lead: exported engines round differently
MATTER = 6  # members looked at, where the test clears before


def members_that_matter(table: Table) -> int:
    """How many of the first members an attacker looks at: 6, or more where the table clears none so early."""
    if isinstance(table, DecisionTable) and table.after_change:
        return table.max_models  # agreement alone decides nothing before the last one
    clears = table.clear_at if isinstance(table, DecisionTable) else getattr(table, "clear_below", ())
    first = next((n for n, entry in enumerate(clears, start=1) if entry is not None), table.max_models)
    return min(table.max_models, max(MATTER, 2 * first))


def evade(
    original: nn.Module,
    members: Sequence[nn.Module],
    table: Table,
    grading: Grading | None,
    images: Tensor,
    targets: Tensor,
    *,
    way: Way,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    random_start: bool = False,
) -> Tensor:
    """Images within `epsilon` labelled `targets` (N,) by the original and cleared by the table.

    `members` in the order in which they are asked, at least `members_that_matter`; `grading` theirs, for graded
    evidence. The iterate that the verdict would clear with the most to spare is kept.
    """
    count = members_that_matter(table)
    asked = members[:count]
    scales = [1.0] * count if grading is None else grading.temperatures[:count]

    def look(x: Tensor, rows: Tensor, step: int, last: bool) -> tuple[Tensor, Tensor | None]:
        aims = targets[rows]
        moving = x.clone().requires_grad_(True)
        said = original(moving)
        votes = [net(moving) for net in asked]
        lead = margins(said, aims)
        against = torch.stack([margins(logits, aims) for logits in votes], dim=1)
        entropy = torch.stack(
            [F.cross_entropy(logits / scales[i], aims, reduction="none") for i, logits in enumerate(votes)], dim=1
        )
        entropy = weighed(entropy, -lead, grading)
        label = F.cross_entropy(said, aims, reduction="none")
        fool = torch.where(lead > -LEAD, label, 0.0)
        hide = soft_cost(against, entropy, table)
        if way == "together":
            (gradient,) = torch.autograd.grad((fool + hide).sum(), moving)
        else:
            # of the whole loss: where the original is fooled, its label still has to be kept
            (of_label,) = torch.autograd.grad(label.sum(), moving, retain_graph=True)
            (of_verdict,) = torch.autograd.grad(hide.sum(), moving)
            if way == "orthogonal":
                of_label, of_verdict = _across(of_label, of_verdict), _across(of_verdict, of_label)
            gradient = torch.where((lead <= -LEAD)[:, None, None, None], of_verdict, of_label)
        with torch.no_grad():
            cleared = torch.from_numpy(_cleared(against, entropy, table))
            cost = fool + hide
            score = torch.where((lead < 0) & cleared, cost, 1000 + cost)
        return gradient, score

    return descend(images, look, epsilon=epsilon, steps=steps, generator=generator, random_start=random_start)


def soft_cost(against: Tensor, entropy: Tensor, table: Table) -> Tensor:
    """How far the first members (N, M) are from clearing a frame (N,), differentiable; 0 where they clear it well.

    `against`: by how many logits each is against the target; `entropy`: its cross-entropy towards the target, scaled
    by its temperature. For every n after which the table clears: the mean cross-entropy of those of the first n that
    must still be won, and the most that it takes not to be flagged before. With label evidence these are as many as
    must agree, the nearest first, without those won by `LEAD` logits; with graded evidence all n while their mean
    evidence is too high, in a mixed pool those of every kind whose is. The cheapest n counts.
    """
    costs = []
    before = torch.zeros_like(entropy[:, 0])
    left = torch.where(against > -LEAD, entropy, 0.0)
    evidence = 1 - torch.exp(-entropy)
    for n, (clears, flags) in enumerate(_bounds(table)[: entropy.shape[1]], start=1):
        if isinstance(table, GradedTable):
            parts = [(evidence[:, own].mean(dim=1), entropy[:, own].mean(dim=1)) for own in _kinds(table, n)]
            clearing = None if clears is None else _above(parts, 0.9 * clears)
            staying = None if flags is None else _above(parts, flags)
        else:
            ranked = left[:, :n].sort(dim=1).values
            clearing = None if clears is None else _mean(ranked[:, : n - int(clears)])
            staying = None if flags is None else _mean(ranked[:, : n - int(flags) + 1])
        if clearing is not None:
            costs.append(before + clearing)
        if staying is not None:
            before = torch.maximum(before, staying)
    return torch.stack(costs).amin(dim=0)


def weighed(entropy: Tensor, margin: Tensor, grading: Grading | None) -> Tensor:
    """Cross-entropies (N, M) whose evidence, 1 - exp(-entropy), is that with the original's margin (N,) weighed in.

    Differentiable in both: who attacks this evidence gains by making the original less sure.
    """
    if grading is None or grading.weight == 0:
        return entropy
    entropy = entropy.clamp(min=1e-6)
    odds = entropy + torch.log(-torch.expm1(-entropy))
    return F.softplus(odds + grading.weight * F.relu(margin - grading.knee)[:, None])


def _kinds(table: GradedTable, asked: int) -> list[list[int]]:
    """The members asked whose means are compared, one list a kind."""
    if table.kinds is None:
        return [list(range(asked))]
    return [[i for i in range(asked) if table.kinds[i] == kind] for kind in dict.fromkeys(table.kinds[:asked])]


def _above(parts: Sequence[tuple[Tensor, Tensor]], bound: float) -> Tensor:
    """The mean entropy (N,) of those parts whose mean evidence is above the bound, summed."""
    return torch.stack([torch.where(mean > bound, whole, 0.0) for mean, whole in parts]).sum(dim=0)


def _mean(values: Tensor) -> Tensor:
    """Of each row; 0 of none."""
    return values.sum(dim=1) / max(1, values.shape[1])


def _bounds(table: Table) -> list[tuple[float | None, float | None]]:
    """What clears and what flags after each number of members. Where only a change decides: the last one alone."""
    if isinstance(table, GradedTable):
        return list(zip(table.clear_below, table.flag_above, strict=True))
    assert isinstance(table, DecisionTable)
    if not table.after_change:
        return list(zip(table.clear_at, table.flag_at, strict=True))
    flag = table.flag_at[-1]
    most = table.max_models if flag is None else flag - 1
    return [*((None, None),) * (table.max_models - 1), (most, None)]


def _across(gradient: Tensor, other: Tensor) -> Tensor:
    """The part of each gradient that is orthogonal to the other one, at another scale; all of it where that is 0."""
    gradient, other = _scaled(gradient), _scaled(other)
    along = (gradient * other).flatten(1).sum(dim=1) / (other * other).flatten(1).sum(dim=1).clamp(min=1.0)
    return gradient - along[:, None, None, None] * other


def _scaled(gradient: Tensor) -> Tensor:
    """With the largest entry of each at 1: gradients of nets that are sure are too small to be squared."""
    largest = gradient.flatten(1).abs().amax(dim=1)
    return gradient / torch.where(largest > 0, largest, 1.0)[:, None, None, None]


def _cleared(against: Tensor, entropy: Tensor, table: Table) -> NDArray[np.bool_]:
    """Whether the members given (N, M), asked in turn, clear the frame."""
    said = 1 - torch.exp(-entropy) if isinstance(table, GradedTable) else (against >= 0)
    evidence = said.double().numpy()
    decided = np.full(len(evidence), CONTINUE, dtype=np.int8)
    values = table.running(evidence[:, : table.max_models])
    for n in range(values.shape[1]):
        now = table.decide(n + 1, values[:, n], evidence[:, n])
        decided = np.where(decided == CONTINUE, now, decided)
    cleared: NDArray[np.bool_] = decided == CLEAR
    return cleared
