"""Every attacker who wants a wrong label at every epsilon, made and counted."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdtool.artifacts import FileEntry
from pdtool.evaluation.adaptive_cells import Attempt, Kept, Work, attack_all, keep, pictures, store, unit
from pdtool.evaluation.adaptive_decision import Found, search
from pdtool.evaluation.adaptive_features import FEATURES, SETTINGS, Features, push_features
from pdtool.evaluation.adaptive_full import WAYS, Way, evade
from pdtool.evaluation.adaptive_plan import GRADIENT, Plan
from pdtool.evaluation.adaptive_results import Cell, Threat
from pdtool.evaluation.adaptive_stage import Judged, Stage, judge
from pdtool.evaluation.adaptive_transfer import push_together
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.metrics import mean_of, rate
from pdtool.jsonform import JsonValue

__all__ = ["check_cells", "curve_cells"]

SURROGATES = (1, 5, 20)  # members of the attacker's own, as far as there are so many


def curve_cells(work: Work, plan: Plan) -> tuple[Cell, ...]:
    """Each attacker of the plan that wants a wrong label, at each epsilon."""
    cells: list[Cell] = []
    for threat in GRADIENT:
        if threat in plan.threats:
            for count in _counts(work.stage) if threat == "surrogates" else (None,):
                cells += [_gradient_cell(work, plan, threat, count, each, plan.steps) for each in plan.epsilons]
    if "decision" in plan.threats:
        cells += _decision(work, plan)
    return tuple(cells)


def check_cells(work: Work, plan: Plan) -> tuple[Cell, ...]:
    """Random noise, the same attacks with a fifth of the steps, and another restart alone of those with the pool, at
    the middle epsilon. None for a plan without attackers of gradients."""
    cells = []
    if "oblivious" in plan.threats:
        cells.append(_gradient_cell(work, plan, "noise", None, plan.middle, 1))
    for threat in GRADIENT:
        if threat in plan.threats:
            count = _counts(work.stage)[-1] if threat == "surrogates" else None
            cells.append(_gradient_cell(work, plan, threat, count, plan.middle, plan.fewer))
            if threat in ("stolen", "full"):
                cells.append(_gradient_cell(work, plan, threat, count, plan.middle, plan.steps, again=True))
    return tuple(cells)


def _counts(stage: Stage) -> tuple[int, ...]:
    """How many of their own members attackers have: 1, 5 and 20, or all there are."""
    return tuple(sorted({min(count, len(stage.surrogates)) for count in SURROGATES}))


def _gradient_cell(
    work: Work, plan: Plan, threat: Threat, count: int | None, epsilon: float, steps: int, *, again: bool = False
) -> Cell:
    """One attacker at one epsilon; `again`: one more restart than the plan's, alone."""
    starts = range(plan.restarts, plan.restarts + 1) if again else range(plan.restarts)
    settings: dict[str, JsonValue] = {"threat": threat, "surrogates": count, "epsilon": epsilon, "steps": steps}
    settings |= {"targets": len(work.stage.aims), "starts": list(starts), "at_once": plan.at_once}
    if threat == "surrogates":
        settings["pool"], settings["features"] = work.stage.target.surrogates, SETTINGS
    attempts = _attempts(work.stage, plan, threat, count, epsilon, steps, starts)
    own = "" if count is None else f" of {count}"
    label = f"{threat}{own} at {unit(epsilon)}, {steps} steps" if threat != "noise" else f"noise of {unit(epsilon)}"
    label += ", another restart" if again else ""

    def make(path: Path, key: str) -> Kept:
        images, said = attack_all(work, label, attempts, settings)
        attacked, file = store(work, path, threat, settings, images)
        nothing = mean_of(np.zeros(0))
        cell = Cell(
            threat=threat,
            surrogates=count,
            epsilon=epsilon,
            steps=steps,
            again=again,
            attempts=len(attempts),
            attacked=len(attacked),
            fooled=rate(said.wrong),
            evasion=rate(said.evades),
            flagged=rate(said.flagged[said.wrong]),
            unscreened=int((said.given < 0).sum()),
            models_used=mean_of(said.used[said.wrong]),
            linf=mean_of(attacked.linf[said.evades]),
            spent=nothing,
            queries=nothing,
            evaded=tuple(int(i) for i in attacked.source[said.evades]),
            file=file,
        )
        return Kept(key=key, cells=(cell,), disturbances=())

    name = threat if count is None else f"{threat}{count}"
    name += "-again" if again else ""
    return keep(work, f"{name}-{255 * epsilon:.4g}-{steps}", settings, make).cells[0]


def _attempts(
    stage: Stage, plan: Plan, threat: Threat, count: int | None, epsilon: float, steps: int, starts: range
) -> tuple[Attempt, ...]:
    """The attempts on one image, each another target, way or start."""
    if threat == "noise":
        return tuple(partial(_noise, stage, epsilon) for _ in range(len(stage.aims) * len(starts)))
    attempts: list[Attempt] = []
    for restart in starts:
        for aims in stage.aims:
            common = {"epsilon": epsilon, "steps": steps, "random_start": restart > 0}
            if threat == "full":
                attempts += [partial(_evade, stage, aims, way, common) for way in WAYS]
                continue
            members = {"oblivious": (), "surrogates": stage.surrogates[:count], "stolen": stage.members}[threat]
            stolen = threat == "stolen"
            of = {"at_once": plan.at_once, "judge": stolen, "kinds": stage.kinds if stolen else None}
            attempts.append(partial(_push, stage, members, aims, {**common, **of}))
        if threat == "surrogates":
            common = {"epsilon": epsilon, "steps": steps, "random_start": restart > 0, "at_once": plan.at_once}
            attempts += [partial(_push_features, stage, stage.surrogates[:count], way, common) for way in FEATURES]
    return tuple(attempts)


def _push(
    stage: Stage,
    members: tuple[torch.nn.Module, ...],
    aims: torch.Tensor,
    common: dict[str, Any],
    rows: NDArray[np.int64],
    generator: torch.Generator,
) -> torch.Tensor:
    chosen = torch.from_numpy(rows)
    return push_together(stage.original, members, stage.images[chosen], aims[chosen], generator=generator, **common)


def _push_features(
    stage: Stage,
    members: tuple[torch.nn.Module, ...],
    way: Features,
    common: dict[str, Any],
    rows: NDArray[np.int64],
    generator: torch.Generator,
) -> torch.Tensor:
    chosen = torch.from_numpy(rows)
    return push_features(
        stage.original, members, stage.images[chosen], stage.labels[chosen], way=way, generator=generator,
        base=partial(_push, stage, members, stage.aims[0], {**common, "judge": False}, rows, generator), **common,
    )  # fmt: skip


def _evade(
    stage: Stage,
    aims: torch.Tensor,
    way: Way,
    common: dict[str, Any],
    rows: NDArray[np.int64],
    generator: torch.Generator,
) -> torch.Tensor:
    chosen = torch.from_numpy(rows)
    return evade(
        stage.original, stage.members, stage.table, stage.grading, stage.images[chosen], aims[chosen],
        way=way, generator=generator, **common,
    )  # fmt: skip


def _noise(stage: Stage, epsilon: float, rows: NDArray[np.int64], generator: torch.Generator) -> torch.Tensor:
    """Random signs of the size, as strong as noise of that bound can be."""
    images = stage.images[torch.from_numpy(rows)]
    signs = 2.0 * torch.randint(2, images.shape, generator=generator) - 1.0
    return (images + epsilon * signs).clamp(0.0, 1.0)


def _decision(work: Work, plan: Plan) -> tuple[Cell, ...]:
    """One search an image; every epsilon counts the images that evade within it."""
    stage = work.stage
    settings: dict[str, JsonValue] = {"threat": "decision", "queries": plan.queries, "epsilons": list(plan.epsilons)}

    def make(path: Path, key: str) -> Kept:
        clean = pictures(stage.images)
        with work.watch(f"decision-only, {plan.queries} queries an image", plan.queries) as task:
            found = search(
                clean,
                lambda images, rows: judge(stage, images, rows).evades,
                plan.epsilons,
                queries=plan.queries,
                rng=np.random.default_rng(work.seed),
                advance=task.advance,
            )
            said = judge(stage, found.images)
            near = int((said.evades & (found.radius <= plan.middle)).sum())
            task.say(f"decision-only: {near} of {len(clean)} evade within {unit(plan.middle)}")
        attacked, file = store(work, path, "decision", settings, torch.from_numpy(np.moveaxis(found.images, 3, 1)))
        cells = tuple(
            _decision_cell(epsilon, plan.queries, said, attacked, found, found.first[:, i], file)
            for i, epsilon in enumerate(plan.epsilons)
        )
        return Kept(key=key, cells=cells, disturbances=())

    return keep(work, f"decision-{plan.queries}", settings, make).cells


def _decision_cell(
    epsilon: float,
    queries: int,
    said: Judged,
    attacked: Attacked,
    found: Found,
    first: NDArray[np.int64],
    file: FileEntry,
) -> Cell:
    inside = found.radius <= epsilon
    evades = said.evades & inside
    wrong = said.wrong & inside
    return Cell(
        threat="decision",
        surrogates=None,
        epsilon=epsilon,
        steps=queries,
        again=False,
        attempts=1,
        attacked=len(attacked),
        fooled=rate(wrong),
        evasion=rate(evades),
        flagged=rate(said.flagged[wrong]),
        unscreened=int((said.given < 0).sum()),
        models_used=mean_of(said.used[wrong]),
        linf=mean_of(attacked.linf[evades]),
        spent=mean_of(found.spent),
        queries=mean_of(first[evades]),
        evaded=tuple(int(i) for i in attacked.source[evades]),
        file=file,
    )
