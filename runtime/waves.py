"""Ask the original and then the members in waves: each runs once on all frames that are still undecided."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import BundleModel
from pdtool.calibration.evidence import graded, margins, shift_of
from pdtool.calibration.table import CONTINUE, Table
from pdtool.decisions import Grading
from pdtool.errors import InputError, IntegrityError, UsageError
from pdtool.runtime.residency import Residency
from pdtool.runtime.workers import Workers

__all__ = ["Answer", "Late", "TimeBudget", "ask", "part_of"]

Late = Literal["unscreened", "decide"]
TICK = 1e-6  # ms; what is equal but for a rounding of the clock is in time
UNAVAILABLE = (InputError, IntegrityError, MemoryError)  # file gone, file changed, no memory: screening goes on


@dataclass(frozen=True)
class TimeBudget:
    """Most milliseconds between a frame's start and its verdict, and what becomes of a frame that needs more members:
    `unscreened`, or `decide`: the test's answer at that point (`Table.cut`), which no calibration vouches for.

    Members are not interrupted: the next one is not asked when it would end too late if it took as long as the slowest
    so far; a frame whose last member took longer, because it had to be loaded for instance, is late, too. A budget
    below what the original takes is exceeded by the original alone.
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
    """One frame while it is being decided; `label` -1: the original's logits were not finite, or it did not run.

    `late`: the time budget ran out after `used` members; `failed`: why the next model could not be asked.
    """

    label: int
    votes: NDArray[np.int64]  # (classes,): how many members gave each label
    decision: int = CONTINUE
    used: int = 0
    changes: int = 0
    evidence: float = 0.0
    latency_ms: float = 0.0
    late: bool = False
    failed: str | None = None


def ask(
    batch: NDArray[np.float32],
    residency: Residency,
    table: Table,
    *,
    classes: int,
    scales: Mapping[str, float] | None,
    grading: Grading | None = None,
    started: float,
    budget: TimeBudget | None = None,
    workers: Workers | None = None,
    spare: NDArray[np.float32] | None = None,
) -> list[Answer]:
    """Answers to pixels (N, C, H, W) in [0, 1], in their order; `started`: when work on them began (perf_counter).

    `scales`: the members' temperatures for graded evidence, None for label changes; `grading` says what the original's
    margin adds. `workers` run what is needed in any
    case at once; `spare` (at least N, C, H, W) is written to instead of new memory. A model whose file is gone or
    changed, or for which there is no memory, leaves the frames that need it open (`Answer.failed`).
    """
    wave = time.perf_counter()
    models = _Models(residency, workers or Workers(1, 1), batch, classes, spare)
    everything = np.arange(len(batch))
    try:
        with suppress(*UNAVAILABLE):  # then one after another, to see whose fault it is
            models.run_at_once(residency.order[: table.earliest])
        logits = models.logits(residency.original, everything)
    except UNAVAILABLE as error:
        failed = f"the original could not be asked ({error})"
        return [Answer(-1, np.zeros(classes, dtype=np.int64), failed=failed) for _ in batch]
    labels = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
    shift = None if grading is None else shift_of(grading, margins(np.where(np.isfinite(logits), logits, 0.0)))
    answers = [Answer(int(label), np.zeros(classes, dtype=np.int64)) for label in labels]
    changes, value = np.zeros(len(batch), dtype=np.int64), np.zeros(len(batch))
    heard = np.zeros((len(batch), table.max_models))  # evidence (N, M), members in the order in which they were asked
    undecided, slowest = np.flatnonzero(labels >= 0), 0.0
    for n, member in enumerate(residency.order[: table.max_models], start=1):
        if len(undecided) == 0:
            break
        now = time.perf_counter()
        slowest, wave = max(slowest, now - wave), now
        takes = 0.0 if models.know(member) else slowest
        if budget is not None and 1e3 * (now - started + takes) > budget.ms + TICK:
            for i in undecided:
                answers[i].late, answers[i].used = True, n - 1
            if budget.late == "decide" and n > 1:
                decisions = table.cut(n - 1, value[undecided])
                _settle(answers, undecided, decisions, n - 1, table, changes, value, 1e3 * (now - started))
            break
        try:
            logits = models.logits(member, undecided)
        except UNAVAILABLE as error:
            for i in undecided:
                answers[i].failed, answers[i].used = f"member {member.id} could not be asked ({error})", n - 1
            break
        finite = np.isfinite(logits).all(axis=1)
        votes = np.where(finite, logits.argmax(axis=1), -1)  # a broken answer counts as a change
        changed = votes != labels[undecided]
        changes[undecided] += changed
        said = changed.astype(np.float64)
        if scales is not None:
            rows = undecided[finite]
            more = None if shift is None else shift[rows]
            said[finite] = graded(logits[finite], labels[rows], scales[member.id], more)
        heard[undecided, n - 1] = said
        value[undecided] = table.running(heard[undecided, :n])[:, -1]
        for i, vote in zip(undecided[finite], votes[finite], strict=True):
            answers[i].votes[vote] += 1
        decisions = table.decide(n, value[undecided], said)
        elapsed = 1e3 * (time.perf_counter() - started)
        if budget is not None and elapsed > budget.ms + TICK:  # the member took longer than was foreseen
            for i in undecided[decisions != CONTINUE]:
                answers[i].late, answers[i].used = True, n
            if budget.late == "unscreened":
                undecided = undecided[decisions == CONTINUE]
                continue
        _settle(answers, undecided, decisions, n, table, changes, value, elapsed)
        undecided = undecided[decisions == CONTINUE]
    residency.prefetch(0)
    return answers


class _Models:
    """What the models say of one batch, each file run once on the frames that were open when its turn came."""

    def __init__(
        self,
        residency: Residency,
        workers: Workers,
        batch: NDArray[np.float32],
        classes: int,
        spare: NDArray[np.float32] | None,
    ) -> None:
        self._residency, self._workers, self._batch, self._classes = residency, workers, batch, classes
        self._spare = np.empty_like(batch) if spare is None else spare
        self._said: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}  # file -> frames and its answers

    def run_at_once(self, first: Sequence[BundleModel]) -> None:
        """The original beside the members that every frame needs, where they fit into memory together.

        A frame alone keeps one core busy; this gives the others something to do.
        """
        if self._workers.count == 1 or len(first) == 0 or self._residency.stays() < len(first):
            return
        models = {model.file.path: model for model in (self._residency.original, *first)}
        engines = [self._residency.engine(model) for model in models.values()]
        if self._residency.stays() < len(first):  # they take more than was known: one may be gone again
            return
        rows = np.arange(len(self._batch))
        for file, logits in zip(models, self._workers.run(engines, self._batch), strict=True):
            self._said[file] = rows, logits

    def know(self, model: BundleModel) -> bool:
        """Its file has run already."""
        return model.file.path in self._said

    def logits(self, model: BundleModel, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (len(rows), classes) of the batch's frames `rows`, in ascending order."""
        said = self._said.get(model.file.path)
        if said is None:
            engine = self._residency.engine(model)
            self._residency.prefetch(self._residency.rank(model) + 1)
            frames = self._batch
            if len(rows) < len(frames):
                frames = np.take(frames, rows, axis=0, out=self._spare[: len(rows)])
            said = self._said[model.file.path] = rows, self._workers.run([engine], frames)[0]
        asked, logits = said
        if len(asked) > len(rows):
            logits = logits[np.searchsorted(asked, rows)]
        return part_of(logits, model, self._classes, self._residency.sharing(model))


def part_of(logits: NDArray[np.float32], model: BundleModel, classes: int, sharing: int) -> NDArray[np.float32]:
    """The model's logits (N, classes) among its file's (N, sharing x classes), those of a pack's members side by side.

    Raises InputError where the file gives another number of answers.
    """
    if logits.ndim != 2 or logits.shape[1] != sharing * classes:
        raise InputError(f"{model.id}: its file gives {logits.shape[1:]} answers, expected ({sharing * classes},)")
    return logits[:, model.part * classes : (model.part + 1) * classes]


def _settle(
    answers: list[Answer],
    rows: NDArray[np.int64],
    decisions: NDArray[np.int8],
    asked: int,
    table: Table,
    changes: NDArray[np.int64],
    value: NDArray[np.float64],
    elapsed: float,
) -> None:
    """Write down what was decided after `asked` members."""
    for i, decision in zip(rows, decisions, strict=True):
        if decision != CONTINUE:
            answer = answers[i]
            answer.decision, answer.used, answer.changes = int(decision), asked, int(changes[i])
            answer.evidence = table.evidence(asked, float(value[i]))
            answer.latency_ms = elapsed
