"""What attackers who know the defence reach, pool beside pool: evasion against epsilon; and whether attacks work."""

from collections.abc import Iterator, Mapping, Sequence

from cells import figure, markdown
from documents import Found
from goals import NAMES

from pdtool.evaluation.adaptive_report import curve_name
from pdtool.evaluation.adaptive_results import AdaptiveResult, Curve
from pdtool.wording import NOTHING, number

__all__ = ["adaptive_tables", "curves"]


def adaptive_tables(every: Sequence[Found]) -> Iterator[str]:
    """The tables as Markdown, each with its title; none where nobody who knows was tried."""
    for found in every:
        if found.adaptive:
            yield "\n\n".join([f"### {found.title}: attackers who know the defence", *curves(found.adaptive, NAMES)])


def curves(results: Mapping[str, AdaptiveResult], names: Mapping[str, str]) -> Iterator[str]:
    """The tables of one set of images; `names` are the pools' titles."""
    epsilons = sorted({epsilon for result in results.values() for curve in result.curves for epsilon in curve.epsilons})
    yield (
        "`pdtool evaluate --adaptive` (`docs/evaluation.md`): share of images, %, that are labelled wrongly *and* "
        "cleared, within each epsilon (largest change of a pixel, of 255); half at: the epsilon with 50 %."
    )
    yield "\n".join(f"- {_about(names[name], result)}" for name, result in results.items())
    curves = {(curve.threat, curve.surrogates): curve_name(curve) for r in results.values() for curve in r.curves}
    rows = [
        (title, names[name], *_cells(curve, epsilons), NOTHING if curve.half is None else number(255 * curve.half, 1))
        for key, title in curves.items()
        for name, result in results.items()
        for curve in result.curves
        if (curve.threat, curve.surrogates) == key
    ]
    yield markdown(("attacker", "pool", *(f"{255 * e:.4g}" for e in epsilons), "half at"), rows, left=2)
    rows = [
        (
            f"T5 {d.goal}" if d.goal else "clean frames",
            names[name],
            f"{255 * d.epsilon:.4g}",
            figure(d.flagged),
            figure(d.models_used, 2),
            figure(d.kept),
        )
        for goal in (None, "alarm", "delay")
        for name, result in results.items()
        for d in result.disturbances
        if d.goal == goal
    ]
    if rows:
        yield "Who keeps the label right and wants false alarms, or as many members asked as can be:"
        yield markdown(
            ("goal", "pool", "epsilon", "flagged, label kept, %", "members asked", "label kept, %"), rows, left=2
        )
    yield (
        "Whether the attacks themselves work: "
        + "; ".join(
            f"{names[name]} {sum(check.holds for check in result.checks)} of {len(result.checks)} checks hold"
            + "".join(f", not: {check.name} ({check.says})" for check in result.checks if not check.holds)
            for name, result in results.items()
        )
        + "."
    )


def _about(title: str, result: AdaptiveResult) -> str:
    t = result.target
    return (
        f"{title}: {t.members} members, rule {t.rule} on {t.evidence} evidence, at most {t.max_models} asked, at "
        f"most {100 * t.target_fpr:g} % false alarms asked for; n = {result.attacked} images, {result.steps} steps, "
        f"{result.targets} targets, {result.restarts} start(s), {result.queries} queries, seed {result.seed}."
    )


def _cells(curve: Curve, epsilons: Sequence[float]) -> Iterator[str]:
    within = dict(zip(curve.epsilons, curve.within, strict=True))
    return (figure(within.get(epsilon), 0) for epsilon in epsilons)
