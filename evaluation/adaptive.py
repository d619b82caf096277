"""Attackers who know the defence: how often they evade it, against epsilon and against what they know.

    oblivious   attacks the original alone: the reference                                      T0
    surrogates  knows the recipe and attacks the original and K members of their own           T1
    stolen      has the pool, but not the order in which members are asked                     T2
    full        knows members, order and decision table                                        T3
    decision    sees label and verdict alone                                                   T4
    availability    wants no wrong label, but false alarms, or as many members asked as can be     T5

Success is a wrong label AND the verdict `clean`, by the exported bundle and the runtime's own screener.
"""

import os
from dataclasses import replace
from pathlib import Path

import pdtool
from pdtool.compress.watch import Watch, silent
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.adaptive_cells import Work, drop_unused
from pdtool.evaluation.adaptive_checks import check_attacks, check_disturbances, curves_of
from pdtool.evaluation.adaptive_disturbed import disturbances
from pdtool.evaluation.adaptive_plan import LIMIT, THREATS, Plan
from pdtool.evaluation.adaptive_report import html_page, markdown_page
from pdtool.evaluation.adaptive_results import AdaptiveResult
from pdtool.evaluation.adaptive_stage import open_stage
from pdtool.evaluation.adaptive_threats import check_cells, curve_cells
from pdtool.extras import require
from pdtool.files import write_atomic, write_error
from pdtool.runtime.bundle import pretty

__all__ = ["adaptive_study"]

KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
OWN = ("adaptive.json", "adaptive.md", "adaptive.html", "cells")


def adaptive_study(
    bundle: Path,
    pool: Path,
    data: str,
    plan: Plan,
    *,
    out: Path,
    surrogates: Path | None = None,
    limit: int | None = LIMIT,
    seed: int = 0,
    batch: int = 128,
    memory_budget: str | None = None,
    model: str | None = None,
    force: bool = False,
    drop: bool = False,
    command: str = "",
    watch: Watch = silent,
) -> AdaptiveResult:
    """Attack a calibrated bundle in every way of `plan` and write adaptive.json, .md, .html and cells/ to `out`.

    `surrogates`: a pool folder of the attacker's own, made of the same original with another seed. `seed` draws the
    members' order, random targets and starts. Every finished cell stays in `out`/cells: a run that was stopped goes
    on, and ends with the same bytes; with `drop`, cells that this run did not use are deleted. Raises UsageError for a
    plan that cannot be tried, InputError for an `out` that holds something else, and what `open_stage` raises.
    """
    if surrogates is None and plan.threats == THREATS:
        plan = _without_surrogates(plan)
    if ("surrogates" in plan.threats) != (surrogates is not None):
        raise UsageError(
            "the attacker with surrogates needs a pool of their own; add --surrogates POOL, made of the same weights "
            "with another --seed"
            if surrogates is None
            else "--surrogates is given, but the threats leave out surrogates; add --threat surrogates"
        )
    _check_out(out, force)
    _keep_many_kernels()
    with open_stage(
        bundle, pool, data,
        surrogates=surrogates, targets=plan.targets, limit=limit, seed=seed, memory_budget=memory_budget, model=model,
    ) as stage:  # fmt: skip
        try:
            (out / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(out, error) from error
        work = Work(stage, out / "cells", seed, batch, watch)
        cells = curve_cells(work, plan)
        checked = check_cells(work, plan)
        disturbed, fewer = disturbances(work, plan) if "availability" in plan.threats else ((), ())
        curves = curves_of(cells)
        result = AdaptiveResult(
            pdtool=pdtool.__version__,
            command=command,
            target=stage.target,
            data=data,
            data_fingerprint=stage.data.fingerprint,
            images=len(stage.data.images),
            attacked=len(stage.images),
            seed=seed,
            steps=plan.steps,
            targets=len(stage.aims),
            restarts=plan.restarts,
            at_once=min(plan.at_once, len(stage.members)),
            queries=plan.queries,
            curves=curves,
            disturbances=disturbed,
            checks=(
                *check_attacks(curves, cells, checked, plan.middle),
                *check_disturbances(disturbed, fewer, plan.middle, stage.target.max_models),
            ),
            cells=(*cells, *checked),
            fewer=fewer,
        )
    write_atomic(out / "adaptive.md", markdown_page(result).encode())
    write_atomic(out / "adaptive.html", html_page(result).encode())
    if drop:
        drop_unused(work)
    write_atomic(out / "adaptive.json", pretty(result))  # last: without it the study is not finished
    return result


def _without_surrogates(plan: Plan) -> Plan:
    threats = tuple(threat for threat in plan.threats if threat != "surrogates")
    return replace(plan, threats=threats)


def _keep_many_kernels() -> None:
    """Have oneDNN keep what it compiles for every layer of some 40 nets: fewer, and each step compiles them anew.

    The command line sets 256 for processes that make pools (`keep_few_kernels`); no other setting is touched.
    """
    if os.environ.get(KERNELS, "256") == "256":
        os.environ[KERNELS] = "16384"


def _check_out(out: Path, force: bool) -> None:
    """Refuse a folder with anything but this command's files, and a finished report without `force`.

    What the reports need is looked for too, before hours are spent. Raises InputError or MissingError.
    """
    require("jinja2", "write an HTML report")
    require("matplotlib", "draw the plots of a report")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out}: expected a folder or nothing; choose another --out")
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()}
    foreign = sorted(name for name in names if name not in OWN and not name.startswith(".adaptive."))
    if foreign:
        raise InputError(f"{out}: holds {foreign[0]!r}, which this command did not write; choose another --out")
    if "adaptive.json" in names and not force:
        raise InputError(f"{out}: exists already; choose another --out or add --force to replace it")
