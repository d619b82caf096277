"""`pdtool evaluate --adaptive`: attackers who know the defence."""

from collections.abc import Sequence
from pathlib import Path

from pdtool.cli.output import emit, note, progress, table

OUT = Path("pdtool-adaptive")


def run(
    bundle: Path,
    pool: Path,
    data: str,
    *,
    out: Path | None,
    surrogates: Path | None,
    threats: Sequence[str],
    epsilons: Sequence[str],
    steps: int | None,
    queries: int | None,
    targets: int | None,
    restarts: int | None,
    drop: bool,
    limit: int | None,
    seed: int,
    batch: int,
    memory_budget: str | None,
    model: str | None,
    force: bool,
    json: bool,
    command: str,
) -> None:
    """What `evaluate` does with --adaptive; None and nothing: the study's defaults."""
    from pdtool.evaluation.adaptive import adaptive_study
    from pdtool.evaluation.adaptive_plan import EPSILONS, LIMIT, THREATS, Plan, parse_epsilon
    from pdtool.evaluation.adaptive_report import summary, tables

    asked = {"steps": steps, "queries": queries, "targets": targets, "restarts": restarts}
    given = {name: value for name, value in asked.items() if value is not None}
    plan = Plan(
        threats=tuple(dict.fromkeys(threats)) or THREATS,
        epsilons=tuple(sorted({parse_epsilon(text) for text in epsilons})) or EPSILONS,
        **given,
    )
    out = out or OUT
    result = adaptive_study(
        bundle,
        pool,
        data,
        plan,
        out=out,
        surrogates=surrogates,
        limit=limit or LIMIT,
        seed=seed,
        batch=batch,
        memory_budget=memory_budget,
        model=model,
        force=force,
        drop=drop,
        command=command,
        watch=progress,
    )
    if json:
        emit(result)
        return
    first = tables(result)[0]
    table(f"{bundle}: {first.title}, n = {result.attacked}", first.headers, first.rows)
    for line in summary(result):
        note(line)
    note(f"report: {out / 'adaptive.html'}")
