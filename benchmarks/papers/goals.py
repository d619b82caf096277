"""What was set out to be reached on the small scale, and whether it was."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

from cells import markdown
from documents import Found, attack_of
from published import ACCESS_ATTACKS

from pdtool.evaluation.metrics import Area, Mean, Rate
from pdtool.evaluation.results import AttackResult, Evaluation
from pdtool.wording import NOTHING

__all__ = ["COMPARED", "NAMES", "goals", "goals_of", "papers_attacks", "worst_by"]

COMPARED = ("paper", "hardened", "hardened-margin")
NAMES = {
    "paper": "`--recipe paper`",
    "hardened": "`--recipe hardened`",
    "hardened-margin": "`--recipe hardened`, `--evidence margin`",
}
SCORES = {"lcr": "label change rate", "graded": "graded evidence"}
FEW = 10  # frames: an attack that fooled the original on fewer is not the worst


def papers_attacks(report: Evaluation) -> list[AttackResult]:
    """The papers' six attacks, as far as they are there and fooled the original at all."""
    found = [attack_of(report, name) for name in ACCESS_ATTACKS]
    return [a for a in found if a is not None and a.frames.count]


def worst_by(report: Evaluation, take: Callable[[AttackResult], float | None]) -> tuple[float, AttackResult] | None:
    """The smallest figure and its attack, of those that fooled the original on `FEW` frames or more."""
    given = [(value, a) for a in report.attacks if a.frames.count >= FEW and (value := take(a)) is not None]
    return min(given, key=lambda pair: pair[0]) if given else None


def goals_of(report: Evaluation) -> Iterator[tuple[str, str, float, float | None, str]]:
    """Each goal: title, sign, bound, what the report says (shares, not percent), its interval and of which attack."""
    six = papers_attacks(report)
    for score, name in SCORES.items():
        for what, bound, take in (
            ("AUROC", 0.97, lambda a, score=score: getattr(a, score).auroc.value),
            ("TPR at 5 % FPR", 0.90, lambda a, score=score: getattr(a, score).tpr_5.share),
        ):
            least = 0.93 if what == "AUROC" else bound
            yield f"{what} of the {name}, mean over the papers' attacks", ">=", bound, _mean(map(take, six)), ""
            worst = worst_by(report, take)
            title = f"{what} of the {name}, worst of all attacks"
            if worst is None:
                yield title, ">=", least, None, ""
            else:
                of = getattr(worst[1], score)
                interval = _interval(of.auroc if what == "AUROC" else of.tpr_5)
                yield title, ">=", least, worst[0], f"{interval} `{worst[1].spec}`"
    # of all attacked images, as in the papers' defence: of the flagged alone, a test that flags little looks well
    every = "of all that fooled the original, mean over the papers' attacks"
    flagged = (a.corrected.events / a.frames.count for a in six)
    yield f"flagged and corrected label right, {every}", ">=", 0.70, _mean(flagged), ""
    yield f"label of most members right, {every}", ">=", 0.70, _mean(a.majority.share for a in six), ""
    clean = report.clean.every
    yield "members asked for a clean frame", "<=", 8.0, clean.models_used.value, _interval(clean.models_used, 2)
    yield "cost of a clean frame, passes of the original", "<=", 2.0, clean.cost.value, _interval(clean.cost, 2)


def goals(every: Sequence[Found]) -> str:
    """The table, a column for each set of images and pool."""
    columns = {
        f"{found.title}, {NAMES[name]}": list(goals_of(found.reports[name]))
        for found in every
        for name in COMPARED
        if name in found.reports
    }
    if not columns:
        return "Neither pool was evaluated."
    first = next(iter(columns.values()))
    rows = [
        (title, f"{sign} {bound:g}", *(_judged(column[k]) for column in columns.values()))
        for k, (title, sign, bound, _, _) in enumerate(first)
    ]
    return markdown(("goal", "", *columns), rows)


def _judged(goal: tuple[str, str, float, float | None, str]) -> str:
    _, sign, bound, value, of = goal
    if value is None:
        return NOTHING
    met = value >= bound if sign == ">=" else value <= bound
    return f"{'met' if met else 'missed'}: **{value:.{3 if bound < 1 else 2}f}**{of}"


def _interval(of: Rate | Area | Mean, digits: int = 3) -> str:
    return "" if of.low is None or of.high is None else f" ({of.low:.{digits}f}–{of.high:.{digits}f})"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
