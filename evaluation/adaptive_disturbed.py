"""Disturbed clean frames at every epsilon, made and counted: what they cost whoever relies on the screener."""

from pathlib import Path

import numpy as np
import torch

from pdtool.artifacts import FileEntry
from pdtool.evaluation.adaptive_availability import costliest_share, disturb
from pdtool.evaluation.adaptive_cells import Kept, Work, keep, pictures, store, unit
from pdtool.evaluation.adaptive_plan import Plan
from pdtool.evaluation.adaptive_results import Disturbance, Goal
from pdtool.evaluation.adaptive_stage import Judged, judge
from pdtool.evaluation.metrics import mean_of, rate
from pdtool.jsonform import JsonValue
from pdtool.wording import number

__all__ = ["disturbances"]


def disturbances(work: Work, plan: Plan) -> tuple[tuple[Disturbance, ...], tuple[Disturbance, ...]]:
    """Clean frames as they are, then changed so that they raise alarms, and so that they ask many members; and the
    latter two with fewer steps at the middle epsilon, to check the attack by."""
    stage = work.stage
    rng = np.random.default_rng(work.seed)
    shares: dict[Goal, float] = {"alarm": 1.0, "delay": costliest_share(stage.table, len(stage.members), rng)}
    clean = judge(stage, pictures(stage.images))
    made = [_disturbance(None, None, 0.0, 0, clean, None)]
    for goal, share in shares.items():
        for epsilon in (e for e in plan.epsilons if e < 1):
            made.append(_disturbed(work, plan, goal, share, epsilon, plan.steps))
    few = []
    if plan.middle < 1:
        few = [_disturbed(work, plan, goal, share, plan.middle, plan.fewer) for goal, share in shares.items()]
    return tuple(made), tuple(few)


def _disturbed(work: Work, plan: Plan, goal: Goal, share: float, epsilon: float, steps: int) -> Disturbance:
    stage = work.stage
    settings: dict[str, JsonValue] = {"goal": goal, "share": share, "epsilon": epsilon, "steps": steps}
    settings |= {"at_once": plan.at_once}

    def make(path: Path, key: str) -> Kept:
        label = f"{goal} at {unit(epsilon)}, {steps} steps"
        generator = torch.Generator().manual_seed(work.seed)
        pieces = []
        with work.watch(label, len(stage.images)) as task:
            for start in range(0, len(stage.images), work.batch):
                rows = slice(start, start + work.batch)
                pieces.append(
                    disturb(
                        stage.original, stage.members, stage.table, stage.grading, stage.images[rows],
                        stage.labels[rows], kinds=stage.kinds, goal=goal, share=share, epsilon=epsilon,
                        steps=steps, at_once=plan.at_once, generator=generator,
                    )
                )  # fmt: skip
                task.advance(len(pieces[-1]))
            images = torch.cat(pieces)
            said = judge(stage, pictures(images))
            file = store(work, path, goal, settings, images)[1]
            done = _disturbance(goal, share, epsilon, steps, said, file)
            task.say(
                f"{label}: {done.flagged.events} of {done.attacked} flagged with the label kept, "
                f"{number(done.models_used.value)} members asked"
            )
        return Kept(key=key, cells=(), disturbances=(done,))

    return keep(work, f"{goal}-{255 * epsilon:.4g}-{steps}", settings, make).disturbances[0]


def _disturbance(
    goal: Goal | None, share: float | None, epsilon: float, steps: int, said: Judged, file: FileEntry | None
) -> Disturbance:
    kept = ~said.wrong & (said.given >= 0)
    return Disturbance(
        goal=goal,
        share=share,
        epsilon=epsilon,
        steps=steps,
        attacked=len(kept),
        kept=rate(kept),
        flagged=rate(said.flagged & kept),
        models_used=mean_of(said.used[kept]),
        file=file,
    )
