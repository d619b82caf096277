"""The words of an evaluation's reports: figures with their n and interval, the summary, the limits."""

from collections.abc import Sequence

from pdtool.evaluation.benign import SAME_NORM
from pdtool.evaluation.counting import FEW
from pdtool.evaluation.metrics import Area, Mean, Rate
from pdtool.evaluation.results import AttackResult, Evaluation
from pdtool.wording import NOTHING, counted, number, percent

__all__ = ["GROUPS", "LIMITS", "area", "average", "interval", "labels", "share", "span", "summary"]

GROUPS = {
    "minimal-norm": "smallest change that fools",
    "weak": "one step, or a small bounded change",
    "strong": "several steps within 0.03 or more, or far over the boundary",
    "black-box": "answers alone, no gradients",
}

LIMITS = (
    "The attacks of this report know the original alone. Whoever knows of the screener and prunes copies of his own "
    "can aim at those as well.",
    "Strong attacks with a larger change, such as PGD with 8/255 on colour images, transfer to plainly pruned copies: "
    "the members make the original's mistake, nothing disagrees, and the frame is cleared. Where the label change "
    "rate of an attack lies near that of the clean images, this test cannot see it, however many members it asks.",
    "A rate holds for this data, these settings and this bundle. Intervals show what the number of frames leaves "
    "open; they say nothing about other cameras, other weather or other attacks. Frames of one scene or track hang "
    "together, which intervals do not see.",
    "The interval of a TPR is that of the attacked frames: the threshold, which comes from these clean images, is "
    "taken as given. With fewer than 100 clean images 1 % of them is none.",
    "The cost counts multiply-accumulates, not milliseconds: measure those on the device.",
)


def interval(of: Rate | Mean | Area, digits: int = 1) -> str:
    """The 95 % interval, a rate's in percent."""
    if of.low is None or of.high is None:
        return NOTHING
    if isinstance(of, Rate):
        return f"{100 * of.low:.1f}–{100 * of.high:.1f} %"
    return f"{of.low:.{digits}f}–{of.high:.{digits}f}"


def span(of: Rate | Mean | Area, digits: int = 1) -> str:
    """The interval in brackets behind a figure, nothing where there is none."""
    return "" if of.low is None else f"({interval(of, digits)})"


def share(rate: Rate) -> tuple[str, str]:
    """A share, and beside it its count and interval."""
    if rate.share is None:
        return NOTHING, "0 frames"
    return percent(rate.share), f"{rate.events} of {rate.count}; {interval(rate)}"


def average(of: Mean, digits: int = 1) -> tuple[str, str]:
    """A mean, and beside it its interval."""
    return number(of.value, digits), interval(of, digits) if of.low is not None else ""


def area(of: Area) -> tuple[str, str]:
    """An AUROC, and beside it its interval."""
    return number(of.value, 3), interval(of, 3) if of.low is not None else ""


def labels(attacks: Sequence[AttackResult]) -> dict[str, str]:
    """Name -> what it is called in tables and plots: several of one kind are told apart by the settings that differ.

    No more settings than it takes: where epsilon alone does, it stands alone.
    """
    said = {}
    for a in attacks:
        kind = a.spec.partition(":")[0]
        alike = [b for b in attacks if b.spec.partition(":")[0] == kind and b.name != a.name]
        words = [kind]
        for key, value in a.settings.items():
            if any(b.settings.get(key) != value for b in alike):
                words.append(f"{key}={_setting(value)}")
                alike = [b for b in alike if b.settings.get(key) == value]
        said[a.name] = " ".join(words)
    return said


def _setting(value: float) -> str:
    """A setting as people write it: grey levels as a fraction where the number itself is long."""
    levels = round(value * 255)
    if len(f"{value:g}") > 6 and levels and abs(value * 255 - levels) < 1e-6:
        return f"{levels}/255"
    return f"{value:g}"


def summary(e: Evaluation) -> tuple[str, ...]:
    """What a reader should take along, what the worst attack of each image gets first, a sentence a line."""
    o, w, clean = e.overall, e.worst_case, e.clean.every
    lines, called = [], labels(e.attacks)
    if w.evaded.count:
        who = "who tries every attack on each image" if len(e.attacks) > 1 else f"with {e.attacks[0].spec}"
        lines.append(
            f"An attacker {who} gets {counted(w.evaded.events, w.evaded.count)} of the images attacked past the "
            f"screener, labelled wrongly and not flagged {span(w.evaded)}."
        )
    if o.most_evaded is not None and len(e.attacks) > 1:
        spec = next(a.spec for a in e.attacks if a.name == o.most_evading)
        lines.append(
            f"Of the attacks alone {spec} gets most past it: {counted(o.most_evaded.events, o.most_evaded.count)} of "
            f"the images that it attacked {span(o.most_evaded)}."
        )
    if o.worst is not None and o.worst_flagged is not None and o.worst_area is not None:
        spec = next(a.spec for a in e.attacks if a.name == o.worst)
        lines.append(
            f"Of the frames that {spec} fooled the original with, "
            f"{counted(o.worst_flagged.events, o.worst_flagged.count)} were flagged {span(o.worst_flagged)}"
            + (f", the fewest of {o.attacks} attacks; the lowest AUROC is " if o.attacks > 1 else "; the AUROC is ")
            + f"{number(o.worst_area.value, 3)} {span(o.worst_area, 3)}"
            + (f", of {called[o.worst_auroc or o.worst]}." if o.attacks > 1 else ".")
        )
    if o.attacks > 1:
        mean = o.mean_auroc_graded if e.subject.evidence != "label" else o.mean_auroc
        lines.append(f"Mean AUROC over the attacks: {number(mean, 3)} ({_evidence(e)}).")
    if o.too_few:
        few = ", ".join(called[name] for name in o.too_few)
        lines.append(f"In no mean, since they fooled the original on too few images: {few}.")
    lines.append(
        f"Of the clean frames {counted(clean.cleared.events, clean.count)} were cleared {span(clean.cleared)}. "
        f"One asked {number(clean.models_used.value)} of at most {e.subject.max_models} members on average and cost "
        f"{number(clean.cost.value)} forward passes of the original."
    )
    controls = [b for b in e.benign if b.kind == "control" and b.frames.count >= FEW]
    noisy = [b for b in controls if b.name.startswith(SAME_NORM)]
    harmed = [b for b in controls if b not in noisy]
    spoilt = sum(a.wrong_before for a in e.attacks)
    if spoilt:
        lines.append(
            f"The exported original gets some images wrong before anything is done to them, {spoilt} over all attacks: "
            "they count neither as fooled nor as withstood."
        )
    if harmed:
        most = max(harmed, key=lambda b: b.frames.flagged.share or 0.0)
        lines.append(
            f"Of the benign changes {most.spec} raises most false alarms: "
            f"{counted(most.frames.flagged.events, most.frames.flagged.count)} flagged {span(most.frames.flagged)}."
        )
    if noisy:
        most = max(noisy, key=lambda b: b.frames.flagged.share or 0.0)
        lines.append(
            f"Of noise as long as an attack's change most is flagged for {most.spec.removeprefix(SAME_NORM + ': ')}: "
            f"{counted(most.frames.flagged.events, most.frames.flagged.count)} {span(most.frames.flagged)}."
        )
    return tuple(lines)


def _evidence(e: Evaluation) -> str:
    said = {"label": "label change rate", "margin": "mean graded evidence, the original's margin weighed in"}
    return said.get(e.subject.evidence, "mean graded evidence")
