"""Ask the original and then the members in waves: each runs once on all frames that are still undecided."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import graded
from pdtool.calibration.table import CONTINUE, Table
from pdtool.errors import UsageError
from pdtool.runtime.residency import Residency

__all__ = ["Answer", "Late", "TimeBudget", "ask"]

Late = Literal["unscreened", "decide"]


@dataclass(frozen=True)
class TimeBudget:
    """Most milliseconds between a frame's start and its verdict, and what becomes of a frame that needs more members:
    `unscreened`, or `decide`: the test's answer at that point (`Table.cut`), which no calibration vouches for.

    Members are not interrupted: the next one is not asked when it would end too late if it took as long as the slowest
    so far. A budget below what the original takes is exceeded by the original alone.
    """

    ms: float
    late: Late = "unscreened"

    def __post_init__(self) -> None:
        """Raise UsageError for what is no time or no answer."""
        if not 0 < self.ms < float("inf"):
            raise UsageError(f"the time budget should be a number of ms above 0, is {self.ms}")
        if self.late not in ("unscreened", "decide"):
            raise UsageError(f"a late frame should be unscreened or decide, is {self.late!r}")


@dataclass
class Answer:
    """One frame while it is being decided; `label` -1: the original's logits were not finite.

    `late`: the time budget ran out after `used` members.
    """

    label: int
    votes: NDArray[np.int64]  # (classes,): how many members gave each label
    decision: int = CONTINUE
    used: int = 0
    changes: int = 0
    evidence: float = 0.0
    latency_ms: float = 0.0
    late: bool = False


def ask(
    batch: NDArray[np.float32],
    residency: Residency,
    table: Table,
    *,
    classes: int,
    scales: Mapping[str, float] | None,
    started: float,
    budget: TimeBudget | None = None,
) -> list[Answer]:
    """Answers to pixels (N, C, H, W) in [0, 1], in their order; `started`: when work on them began (perf_counter).

    `scales`: the members' temperatures for graded evidence, None for label changes.
    """
    wave = time.perf_counter()
    logits = residency.engine(residency.original).run(batch)
    labels = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
    answers = [Answer(int(label), np.zeros(classes, dtype=np.int64)) for label in labels]
    changes, total = np.zeros(len(batch), dtype=np.int64), np.zeros(len(batch))
    undecided, slowest = np.flatnonzero(labels >= 0), 0.0
    for n, member in enumerate(residency.order[: table.max_models], start=1):
        if len(undecided) == 0:
            break
        now = time.perf_counter()
        slowest, wave = max(slowest, now - wave), now
        if budget is not None and 1e3 * (now - started + slowest) > budget.ms:
            for i in undecided:
                answers[i].late, answers[i].used = True, n - 1
            if budget.late == "decide" and n > 1:
                decisions = table.cut(n - 1, total[undecided])
                _settle(answers, undecided, decisions, n - 1, changes, total, 1e3 * (now - started))
            break
        logits = residency.engine(member).run(batch[undecided])
        finite = np.isfinite(logits).all(axis=1)
        votes = np.where(finite, logits.argmax(axis=1), -1)  # a broken answer counts as a change
        changed = votes != labels[undecided]
        changes[undecided] += changed
        said = changed.astype(np.float64)
        if scales is not None:
            said[finite] = graded(logits[finite], labels[undecided[finite]], scales[member.id])
        total[undecided] += said
        for i, vote in zip(undecided[finite], votes[finite], strict=True):
            answers[i].votes[vote] += 1
        decisions = table.decide(n, total[undecided], said)
        _settle(answers, undecided, decisions, n, changes, total, 1e3 * (time.perf_counter() - started))
        undecided = undecided[decisions == CONTINUE]
    return answers


def _settle(
    answers: list[Answer],
    rows: NDArray[np.int64],
    decisions: NDArray[np.int8],
    asked: int,
    changes: NDArray[np.int64],
    total: NDArray[np.float64],
    elapsed: float,
) -> None:
    """Write down what was decided after `asked` members."""
    for i, decision in zip(rows, decisions, strict=True):
        if decision != CONTINUE:
            answer = answers[i]
            answer.decision, answer.used, answer.changes = int(decision), asked, int(changes[i])
            answer.evidence = float(total[i]) / asked
            answer.latency_ms = elapsed
