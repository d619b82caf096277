"""An evaluation as one self-contained HTML page, and as Markdown for a pull request."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from pdtool.evaluation.metrics import Rate
from pdtool.evaluation.pictures import histogram, png_data_uri
from pdtool.evaluation.results import Evaluation
from pdtool.evaluation.screening import Screened
from pdtool.extras import require
from pdtool.images import Images, as_input
from pdtool.wording import NOTHING, counted, number, percent

__all__ = ["Evidence", "LIMITS", "html_report", "markdown_report"]

SHOWN = 4  # attacked frames a gallery
SHOWN_CLEAN = 5

LIMITS = (
    "The attacks of this report know the original alone. Whoever knows of the screener and prunes copies of his own "
    "can aim at those as well.",
    "Strong attacks with a larger change, such as PGD with 8/255 on colour images, transfer to plainly pruned copies: "
    "the members make the original's mistake, nothing disagrees, and the frame is cleared. Where the label change "
    "rate of an attack lies near that of the clean images, this test cannot see it, however many members it asks.",
    "A rate holds for this data, these settings and this bundle. Intervals show what the number of frames leaves "
    "open; they say nothing about other cameras, other weather or other attacks.",
    "The cost counts multiply-accumulates, not milliseconds: measure those on the device.",
)


@dataclass(frozen=True)
class Evidence:
    """The frames behind the numbers: the clean set and one set an attack, and the class names."""

    clean: Screened
    attacked: tuple[Screened, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Card:
    """One frame as it is drawn; `clean` and `change` are absent for a clean frame."""

    picture: str
    clean: str | None
    change: str | None
    enlarged: float | None
    index: int
    truth: str
    label: str
    verdict: str
    error: str  # "missed" or "false alarm", "" where the verdict is right
    corrected: str | None
    right: bool
    changes: int
    used: int


@dataclass(frozen=True)
class _Gallery:
    title: str
    note: str
    cards: tuple[_Card, ...]


def html_report(evaluation: Evaluation, evidence: Evidence) -> str:
    """The page: no scripts, no links to elsewhere, light and dark. Raises MissingError without jinja2 or matplotlib."""
    jinja2 = require("jinja2", "write the report")
    markup = require("markupsafe", "write the report").Markup
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, counted=_counted, interval=_interval, number=number)
    template = environment.from_string(files("pdtool.evaluation").joinpath("report.html").read_text("utf-8"))
    plots = [
        markup(draw(evaluation, evidence.clean, frames))
        for frames in evidence.attacked
        for draw in (_change_rates, _models_used)
    ]
    page: str = template.render(
        e=evaluation, s=evaluation.subject, plots=plots, galleries=list(_galleries(evidence)), limits=LIMITS
    )
    return page


def markdown_report(evaluation: Evaluation) -> str:
    """The numbers as a Markdown table with their n."""
    e, clean = evaluation, evaluation.clean
    lines = [
        f"# Evaluation of {e.subject.model} with {e.subject.members} members ({e.subject.method})",
        "",
        f"Data `{e.data}`, {clean.images} images, seed {e.seed}, pdtool {e.pdtool}, "
        f"bundle `{e.subject.bundle_digest}`.",
        "",
        "| frames | n | flagged | 95 % interval | AUROC | corrected right | members asked | runs of the original |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        f"| clean | {clean.images} | {_counted(clean.flagged)} | {_interval(clean.flagged)} | | | "
        f"{number(clean.models_used)} | {number(clean.cost)} |",
    ]
    lines += [
        f"| {a.spec} | {a.flagged.count} | {_counted(a.flagged)} | {_interval(a.flagged)} | {number(a.auroc, 3)} | "
        f"{_counted(a.corrected)} | {number(a.models_used)} | {number(a.cost)} |"
        for a in e.attacks
    ]
    lines += [
        "",
        f"| frames | label change rate | correlation of two members | effective votes of {e.subject.members} |",
        "|---|--:|--:|--:|",
    ]
    votes = [("clean", clean.label_change_rate, clean.diversity)]
    votes += [(a.spec, a.label_change_rate, a.diversity) for a in e.attacks]
    lines += [
        f"| {name} | {percent(lcr)} | {number(d.correlation, 2)} | {number(d.effective_votes)} |"
        for name, lcr, d in votes
    ]
    lines += [
        "",
        f"Clean images that the original classifies wrongly: {_counted(clean.wrong_flagged)} flagged. "
        "Attacked frames are counted where they fool the exported original.",
        "",
        "| attack | success | mean L-inf | mean L2 | file | SHA-256 |",
        "|---|--:|--:|--:|---|---|",
    ]
    lines += [
        f"| {a.spec} ({a.source}) | {_counted(a.success)} | {number(a.linf, 3)} | {number(a.l2, 3)} | "
        f"{a.file.path} | `{a.file.sha256}` |"
        for a in e.attacks
    ]
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in LIMITS), ""])


def _change_rates(evaluation: Evaluation, clean: Screened, attacked: Screened) -> str:
    members = evaluation.subject.members
    hypotheses = {"p0, clean below": evaluation.subject.p0, "p1, attacked above": evaluation.subject.p1}
    return histogram(
        f"Label change rate: clean and {attacked.name}",
        {"clean": clean.lcr, attacked.name: attacked.lcr[attacked.wrong]},
        xlabel=f"share of the {members} members that disagree with the original",
        bins=list((np.arange(members + 2) - 0.5) / members),
        lines={name: p for name, p in hypotheses.items() if p is not None},
    )


def _models_used(evaluation: Evaluation, clean: Screened, attacked: Screened) -> str:
    most = evaluation.subject.max_models
    return histogram(
        f"Members asked until the test decided: clean and {attacked.name}",
        {"clean": clean.used, attacked.name: attacked.used[attacked.wrong]},
        xlabel=f"members asked (at most {most})",
        bins=list(np.arange(most + 1) + 0.5),
    )


def _galleries(evidence: Evidence) -> Iterator[_Gallery]:
    clean, classes = evidence.clean, evidence.classes
    clean_at = {int(source): i for i, source in enumerate(clean.source)}
    for a in evidence.attacked:
        fooled = a.wrong
        for title, chosen in (
            (f"{a.name}: flagged", fooled & a.flagged),
            (f"{a.name}: missed", fooled & ~a.flagged),
        ):
            cards = [_card(a, i, classes, clean.images[clean_at[int(a.source[i])]]) for i in _first(chosen, SHOWN)]
            note = f"{int(chosen.sum())} of the {int(fooled.sum())} attacked frames that fool the original"
            yield _Gallery(title, note, tuple(cards))
    right, wrong = ~clean.wrong, clean.wrong
    for title, chosen, among, what in (
        ("Clean: cleared", right & ~clean.flagged, right, "clean frames that the original classifies correctly"),
        ("Clean: false alarms", right & clean.flagged, right, "clean frames that the original classifies correctly"),
        (
            "Clean, but misclassified: flagged",
            wrong & clean.flagged,
            wrong,
            "clean frames that the original gets wrong",
        ),
    ):
        cards = [_card(clean, i, classes, None) for i in _first(chosen, SHOWN_CLEAN)]
        yield _Gallery(title, f"{int(chosen.sum())} of the {int(among.sum())} {what}", tuple(cards))


def _first(chosen: NDArray[np.bool_], most: int) -> list[int]:
    return [int(i) for i in np.flatnonzero(chosen)[:most]]


def _card(frames: Screened, i: int, classes: tuple[str, ...], clean: Images | None) -> _Card:
    verdict = frames.verdicts[i]
    cleared, flagged = verdict.verdict == "clean", verdict.verdict == "adversarial"
    image = _unit(frames.images[i])
    before = change = None
    enlarged = None
    if clean is not None:
        difference = image - _unit(clean)
        enlarged = 0.5 / max(float(np.abs(difference).max()), 1e-9)
        before, change = _picture(_unit(clean)), _picture(0.5 + enlarged * difference)
    return _Card(
        picture=_picture(image),
        clean=before,
        change=change,
        enlarged=enlarged,
        index=int(frames.source[i]),
        truth=classes[int(frames.truth[i])],
        label=verdict.label or "-",
        verdict=verdict.verdict,
        error="missed" if frames.wrong[i] and cleared else "false alarm" if not frames.wrong[i] and flagged else "",
        corrected=verdict.corrected_label,
        right=verdict.corrected_label == classes[int(frames.truth[i])],
        changes=verdict.changes,
        used=verdict.models_used,
    )


def _unit(image: Images) -> NDArray[np.float32]:
    """A picture (H, W, C) as float32 in [0, 1], as the models see it."""
    return np.moveaxis(as_input(image[None])[0], 0, 2)


def _picture(image: NDArray[np.float32]) -> str:
    return png_data_uri(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _counted(rate: Rate) -> str:
    return counted(rate.events, rate.count)


def _interval(rate: Rate) -> str:
    return NOTHING if rate.low is None or rate.high is None else f"{100 * rate.low:.1f}–{100 * rate.high:.1f} %"
