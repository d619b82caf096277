"""The adaptive study for people: adaptive.md and adaptive.html say the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from pdtool.evaluation.adaptive_results import AdaptiveResult, Curve, Disturbance
from pdtool.evaluation.curves import curves
from pdtool.evaluation.metrics import Rate
from pdtool.evaluation.page import render
from pdtool.wording import NOTHING, counted, number, percent

__all__ = ["LIMITS", "WHO", "curve_name", "html_page", "markdown_page", "summary", "tables"]

WHO = {
    "oblivious": ("T0", "attacks the original alone and knows of no screener: the reference"),
    "surrogates": ("T1", "knows the recipe; attacks the original and K members of their own, made with another seed"),
    "stolen": ("T2", "has the pool's members, but not the order in which they are asked"),
    "full": ("T3", "knows members, order and decision table"),
    "decision": ("T4", "sees label and verdict of every query, nothing else; no gradients"),
    "availability": ("T5", "has the members, not their order; keeps the label and wants false alarms, or delay"),
}
LIMITS = (
    "An image counts as evading where the exported original labels it wrongly and the runtime's own screener says "
    "`clean`; each image counts once, by the best of all attempts on it. Images that torch's original gets wrong are "
    "left out.",
    "Within epsilon: what was found within a smaller one counts, too. Half: the smallest epsilon with 50 % evasion, "
    "between two measured ones by straight interpolation.",
    "An attack that fails proves nothing: a better one may succeed. What is measured is what these attacks cost, in "
    "epsilon, in members, in queries; an attacker who knows everything is expected to win from some epsilon on.",
    "One session, one order of members. A new order, or a new pool, is a new draw for everyone but full knowledge.",
)


@dataclass(frozen=True)
class Table:
    """A table of ready text; the first column is a name, the others are numbers. `note` stands below it."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def curve_name(curve: Curve) -> str:
    """T1 surrogates, K = 5."""
    own = "" if curve.surrogates is None else f", K = {curve.surrogates}"
    return f"{WHO[curve.threat][0]} {curve.threat}{own}"


def summary(result: AdaptiveResult) -> tuple[str, ...]:
    """What a reader should take along, a sentence a line."""
    lines = []
    for curve in result.curves:
        bounded = [(e, w) for e, w in zip(curve.epsilons, curve.within, strict=True) if e < 1]
        if not bounded:
            continue
        epsilon, most = bounded[-1]
        half = (
            f"half of the images evade at {_grey(curve.half)}"
            if curve.half is not None and curve.half < 1
            else "half of the images evade at none of them"
        )
        lines.append(f"{curve_name(curve)}: within {_grey(epsilon)} {counted(most.events, most.count)} evade; {half}.")
    lines += _disturbed(result)
    failed = [check.name for check in result.checks if not check.holds]
    if failed:  # then the numbers tell of the attacks, not of the screener
        return (f"Checks of the attacks that FAIL: {'; '.join(failed)}.", *lines)
    if not result.checks:
        return (*lines, "No check of the attacks was made.")
    count, empty = len(result.checks), sum(check.empty is not None for check in result.checks)
    hold = f"All {count} checks of the attacks hold" if count > 1 else "The one check of the attacks holds"
    return (*lines, f"{hold}, {empty} of them without telling anything." if empty else f"{hold}.")


def _disturbed(result: AdaptiveResult) -> list[str]:
    clean = next((d for d in result.disturbances if d.goal is None), None)
    lines = []
    for goal, what in (("alarm", "raises false alarms"), ("delay", "makes the screener ask")):
        own = [d for d in result.disturbances if d.goal == goal]
        if not own or clean is None:
            continue
        if goal == "alarm":
            worst = max(own, key=lambda d: d.flagged.events)
            told = f"{counted(worst.flagged.events, worst.attacked)} are flagged with the label kept "
            told += f"instead of {counted(clean.flagged.events, clean.attacked)}"
        else:
            worst = max(own, key=lambda d: d.models_used.value or 0.0)
            told = f"{number(worst.models_used.value)} members asked ({worst.models_used.count} frames with the label "
            told += f"kept) instead of {number(clean.models_used.value)} ({clean.models_used.count} clean ones)"
        lines.append(f"T5 availability, who {what}: {told}, at {_grey(worst.epsilon)}.")
    return lines


def tables(result: AdaptiveResult) -> tuple[Table, ...]:
    """Evasion, success on the original, queries, availability, checks."""
    if not result.curves:
        return (*_availability(result.disturbances), *_checks(result))
    epsilons = result.curves[0].epsilons
    heads = tuple(_grey(epsilon) for epsilon in epsilons)
    made = [
        Table(
            "Evasion within epsilon",
            ("attacker", *heads, "half at"),
            tuple(
                (curve_name(c), *(percent(w.share) for w in c.within), NOTHING if c.half is None else _grey(c.half))
                for c in result.curves
            ),
            f"n = {result.attacked} images; {_widest([w for c in result.curves for w in c.within])}.",
        ),
        Table(
            "At each epsilon alone: original fooled / evasion",
            ("attacker", *heads),
            tuple(
                (
                    curve_name(c),
                    *(f"{percent(f.share)} / {percent(e.share)}" for f, e in zip(c.fooled, c.evasion, strict=True)),
                )
                for c in result.curves
                if c.threat != "decision"
            ),
            "The best attempt on each image.",
        ),
    ]
    asked = [cell for cell in result.cells if cell.threat == "decision"]
    if asked:
        made.append(
            Table(
                "Decision-only: queries",
                ("epsilon", "evade", "queries until then (mean)", "queries an image, all"),
                tuple(
                    (
                        _grey(c.epsilon),
                        counted(c.evasion.events, c.evasion.count),
                        number(c.queries.value, 0),
                        number(c.spent.value, 0),
                    )
                    for c in asked
                ),
                f"At most {result.queries} queries an image.",
            )
        )
    return (*made, *_availability(result.disturbances), *_checks(result))


def _checks(result: AdaptiveResult) -> list[Table]:
    rows = tuple((c.name, (c.empty or "yes") if c.holds else "NO", c.says) for c in result.checks)
    note = "Saturated: everything succeeds on both sides; no success: nothing does. Neither tells which is stronger."
    told = note if any(c.empty for c in result.checks) else ""
    return [Table("Do the attacks work?", ("check", "holds", "measured"), rows, told)] if rows else []


def markdown_page(result: AdaptiveResult) -> str:
    """The study as Markdown."""
    t = result.target
    lines = [f"# Adaptive attacks on {t.model}, {t.members} members ({t.method}, recipe {t.recipe})", "", _by(result)]
    lines += ["", f"`{result.command}`"] if result.command else []
    lines += ["", *(f"- {line}" for line in summary(result)), "", "## Attackers", ""]
    lines += [f"- {number} {name}: {what}." for number, name, what in _present(result)]
    for table in tables(result):
        lines += ["", f"## {table.title}", "", _row(table.headers)]
        lines += ["|---|" + ("---|" if table.headers[0] == "check" else "--:|") * (len(table.headers) - 1)]
        lines += [*(_row(row) for row in table.rows), *(["", table.note] if table.note else [])]
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in LIMITS), ""])


def html_page(result: AdaptiveResult) -> str:
    """The study as a page: no script, nothing fetched. Raises MissingError without jinja2 or matplotlib."""
    return render(
        "adaptive_page.html",
        r=result,
        t=result.target,
        by=_by(result),
        summary=summary(result),
        who=_present(result),
        plots=list(_plots(result)),
        tables=tables(result),
        limits=LIMITS,
    )


def _present(result: AdaptiveResult) -> list[tuple[str, str, str]]:
    """Number, name and knowledge of the attackers that were tried."""
    present: set[str] = {curve.threat for curve in result.curves}
    present |= {"availability"} if result.disturbances else set()
    return [(number, name, what) for name, (number, what) in WHO.items() if name in present]


def _plots(result: AdaptiveResult) -> list[str]:
    """Evasion against epsilon, evasion against K, and what disturbances do."""
    plots = []
    bounded = [i for i, epsilon in enumerate(result.curves[0].epsilons) if epsilon < 1] if result.curves else []
    if bounded:
        at = [0.0, *(255 * result.curves[0].epsilons[i] for i in bounded)]
        series = {curve_name(c): [0.0, *(c.within[i].share or 0.0 for i in bounded)] for c in result.curves}
        plots.append(
            curves(
                f"Evasion within epsilon (n = {result.attacked})",
                at,
                series,
                xlabel="epsilon in grey levels (L-inf)",
                ylabel="share labelled wrongly and cleared",
                line=("half", 0.5),
                bottom=-0.02,
                top=1.02,
            )
        )
    own = sorted((c for c in result.curves if c.surrogates is not None), key=lambda c: c.surrogates or 0)
    if len(own) > 1 and bounded:
        base = [c for c in result.curves if c.threat == "oblivious"]
        known = [0 if c.surrogates is None else c.surrogates for c in (*base, *own)]
        plots.append(
            curves(
                f"Evasion against members of the attacker's own (n = {result.attacked})",
                known,
                {_grey(own[0].epsilons[i]): [c.within[i].share or 0.0 for c in (*base, *own)] for i in bounded},
                xlabel="members of their own, K (0: oblivious)",
                ylabel="share labelled wrongly and cleared",
                bottom=-0.02,
                top=1.02,
            )
        )
    clean = [d for d in result.disturbances if d.goal is None]
    goals = {goal: [*clean, *(d for d in result.disturbances if d.goal == goal)] for goal in ("alarm", "delay")}
    if clean and len(goals["alarm"]) > 1:
        at = [255 * d.epsilon for d in goals["alarm"]]
        plots.append(
            curves(
                f"Frames flagged with the label kept (n = {result.attacked})",
                at,
                {f"to {goal}": [d.flagged.share or 0.0 for d in own_goal] for goal, own_goal in goals.items()},
                xlabel="epsilon in grey levels (L-inf)",
                ylabel="share of clean frames flagged",
                bottom=-0.02,
                top=1.02,
            )
        )
        plots.append(
            curves(
                "Members asked, the label kept",
                at,
                {f"to {goal}": [d.models_used.value or 0.0 for d in own_goal] for goal, own_goal in goals.items()},
                xlabel="epsilon in grey levels (L-inf)",
                ylabel="members asked, mean",
                line=("most", float(result.target.max_models)),
            )
        )
    return plots


def _availability(disturbances: Sequence[Disturbance]) -> list[Table]:
    if not disturbances:
        return []
    return [
        Table(
            "T5 availability: clean frames disturbed, the label kept",
            ("frames", "epsilon", "label kept", "kept and flagged", "members asked", "of frames"),
            tuple(
                (
                    "clean" if d.goal is None else f"to {d.goal}",
                    _grey(d.epsilon),
                    counted(d.kept.events, d.kept.count),
                    counted(d.flagged.events, d.flagged.count),
                    number(d.models_used.value),
                    str(d.models_used.count),
                )
                for d in disturbances
            ),
            "Members asked: mean over the frames whose label was kept. The attacker has the pool, not the order.",
        )
    ]


def _by(result: AdaptiveResult) -> str:
    t = result.target
    return (
        f"Data {result.data}, {result.images} images, {result.attacked} of them classified correctly and attacked; "
        f"rule {t.rule}, {t.evidence} evidence, target {percent(t.target_fpr)} false alarms; {t.precision}; "
        f"{result.steps} steps, wrong classes aimed at: {result.targets}, starts for each: {result.restarts}, "
        f"members a step: {result.at_once}; seed {result.seed}, pdtool {result.pdtool}, bundle {t.bundle_digest}."
    )


def _widest(rates: Sequence[Rate]) -> str:
    """The widest half interval, said once instead of at every number."""
    halves = [(r.high - r.low) / 2 for r in rates if r.low is not None and r.high is not None]
    return f"95 % intervals reach at most {100 * max(halves, default=0.0):.0f} points to either side"


def _grey(epsilon: float) -> str:
    return f"{255 * epsilon:.3g}/255"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
