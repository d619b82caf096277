"""The tables that the papers lack: strong attacks, the worst attack, false alarms, cost, and benign changes."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from cells import figure, markdown, mean_figure, plain
from documents import Found, attack_of
from goals import COMPARED, NAMES, goals, papers_attacks, worst_by
from plan import RULES
from published import ACCESS_ATTACKS

from pdtool.evaluation.metrics import Rate
from pdtool.evaluation.report_words import GROUPS
from pdtool.evaluation.results import AttackResult, Evaluation, Frames
from pdtool.wording import NOTHING

__all__ = ["matters"]

Row = tuple[str, ...]


def matters(every: Sequence[Found]) -> Iterator[str]:
    """The tables as Markdown, each with its title."""
    yield "\n\n".join(["### Goals", goals(every)])
    yield "\n\n".join(["### What limits a pool", _limits(every)])
    for found in every:
        yield "\n\n".join([f"### {found.title}: every attack", _attacks(found)])
    yield "\n\n".join(["### Frames that nobody attacked", _benign(every)])
    yield "\n\n".join(["### Pools and rules", _rules(every)])
    yield "\n\n".join(["### Other detectors on the same frames: AUROC, %", _baselines(every)])


def _compared(found: Found) -> dict[str, Evaluation]:
    return {name: found.reports[name] for name in COMPARED if name in found.reports}


def _limits(every: Sequence[Found]) -> str:
    """Where goals are missed: accuracy of the members, alike votes, too few of them, or too coarse evidence?"""
    rows: list[Row] = []
    for found in every:
        for name, report in _compared(found).items():
            pool = found.pools[RULES[name][0] if name in RULES else name]
            accuracies = [member.model.accuracy for member in pool.members if member.used]
            worst = worst_by(report, lambda a: a.graded.auroc.value)
            if worst is None:
                continue
            a, clean = worst[1], report.clean
            steps = {asked.members: asked for asked in a.asked}
            cells = [
                f"{100 * of.auroc.value:.1f} / {100 * (of.tpr_5.share or 0.0):.1f}"
                for members in (1, 4, max(steps))
                if members in steps
                for of in (steps[members].lcr, steps[members].graded)
                if of.auroc.value is not None
            ]
            rows.append((
                found.title, NAMES[name], f"{100 * pool.original.accuracy:.1f}", f"{100 * fmean(accuracies):.1f}",
                figure(clean.right.label_change_rate, 3), figure(clean.wrong.label_change_rate, 3),
                f"{clean.wrong.count} of {clean.every.count}",
                *(plain(d.effective_votes) for d in (clean.diversity, a.diversity)),
                f"`{a.spec}`", *cells,
            ))  # fmt: skip
    headers = (
        "data", "pool", "original, %", "members, %", "clean LCR, original right", "clean LCR, original wrong",
        "clean frames it gets wrong", "effective votes, clean", "effective votes, worst attack", "worst attack",
        "1 member, labels", "1, graded", "4 members, labels", "4, graded", "all, labels", "all, graded",
    )  # fmt: skip
    note = (
        "Accuracies on held-back training images. Last six columns: AUROC / TPR at 5 % FPR of the worst attack by "
        "graded evidence, with the first 1, 4 and all members of the session's order. More members help little where "
        "votes are alike; what they say of clean frames, of the original's mistakes above all, sets the threshold."
    )
    return f"{markdown(headers, rows, left=2)}\n\n{note}"


def _attacks(found: Found) -> str:
    reports = _compared(found)
    groups = {a.spec: a.group for report in reports.values() for a in report.attacks}
    headers = (
        "frames", "pool", "fooled the original", "n", "AUROC", "TPR at 1 % FPR", "TPR at 5 % FPR", "AUROC, graded",
        "TPR at 5 % FPR, graded", "flagged", "corrected label right, of the flagged", "members asked",
        "cost, passes of the original",
    )  # fmt: skip
    rows: list[Row] = []

    def heading(text: str) -> None:
        rows.append((f"*{text}*", *[""] * (len(headers) - 1)))

    for group, what in GROUPS.items():
        inside = [spec for spec, of in groups.items() if of == group]
        if inside:
            heading(f"{group}: {what}")
        for spec in inside:
            for name, report in reports.items():
                rows += [_attack_row(f"`{spec}`", name, a) for a in report.attacks if a.spec == spec]
    heading("together")
    for name, report in reports.items():
        six = papers_attacks(report)
        rows.append((f"mean over {len(six)} of the papers' 6 attacks", NAMES[name], *_means(six)))
    for name, report in reports.items():
        worst = worst_by(report, lambda a: a.lcr.auroc.value)
        if worst is not None:
            rows.append(_attack_row(f"worst attack by AUROC: `{worst[1].spec}`", name, worst[1]))
    for name, report in reports.items():
        w = report.worst_case
        told = map(figure, (w.lcr.auroc, w.lcr.tpr_1, w.lcr.tpr_5, w.graded.auroc, w.graded.tpr_5, w.caught))
        rows.append(("worst attack of each image", NAMES[name], NOTHING, str(w.inputs), *told, *[NOTHING] * 3))
    heading("not attacked")
    for name, report in reports.items():
        clean = report.clean
        for what, frames in (("every", clean.every), ("original right", clean.right), ("original wrong", clean.wrong)):
            rows.append(
                (f"clean, {what}", NAMES[name], NOTHING, str(frames.count), *[NOTHING] * 5, *_spent(frames, None))
            )
    return "\n\n".join([markdown(headers, rows, left=2), *(_about(name, report) for name, report in reports.items())])


def _about(name: str, report: Evaluation) -> str:
    s = report.subject
    return (
        f"{NAMES[name]}: {s.members} members of {s.member_macs / s.original_macs:.2f} of the original's MACs; rule "
        f"{s.rule}, {s.evidence} evidence, at most {100 * s.target_fpr:g} % false alarms asked for, "
        f"{100 * s.fpr_upper:.1f} % promised at {100 * s.confidence:g} % confidence ({s.calibration_images} images)."
    )


def _attack_row(what: str, name: str, a: AttackResult) -> Row:
    told = map(figure, (a.lcr.auroc, a.lcr.tpr_1, a.lcr.tpr_5, a.graded.auroc, a.graded.tpr_5))
    return (what, NAMES[name], figure(a.success), str(a.frames.count), *told, *_spent(a.frames, a.corrected))


def _spent(frames: Frames, corrected: Rate | None) -> Row:
    return figure(frames.flagged), figure(corrected), figure(frames.models_used), figure(frames.cost, 2)


def _means(results: Sequence[AttackResult]) -> Row:
    return (
        mean_figure(a.success for a in results),
        str(sum(a.frames.count for a in results)),
        mean_figure(a.lcr.auroc for a in results),
        mean_figure(a.lcr.tpr_1 for a in results),
        mean_figure(a.lcr.tpr_5 for a in results),
        mean_figure(a.graded.auroc for a in results),
        mean_figure(a.graded.tpr_5 for a in results),
        mean_figure(a.frames.flagged for a in results),
        mean_figure(a.corrected for a in results),
        mean_figure(a.frames.models_used for a in results),
        mean_figure((a.frames.cost for a in results), 2),
    )


def _benign(every: Sequence[Found]) -> str:
    rows = [row for found in every for row in _benign_rows(found)]
    headers = (
        "data",
        "frames",
        "pool",
        "n",
        "flagged, %",
        "AUROC against clean ones, %",
        "original's label changed, %",
    )
    note = (
        "Changes of clean images that the original gets right; 50 % is the AUROC that is wanted. Wrongly labelled and "
        "foreign images are no false alarms in the strict sense: somebody may want to see them."
    )
    return f"{markdown(headers, rows, left=3)}\n\n{note}"


def _benign_rows(found: Found) -> Iterator[Row]:
    reports = _compared(found)

    def row(what: str, name: str, frames: Frames, *cells: str) -> Row:
        return (found.title, what, NAMES[name], str(frames.count), figure(frames.flagged), *cells)

    for name, report in reports.items():
        yield row("clean, original right", name, report.clean.right, NOTHING, NOTHING)
    for spec in dict.fromkeys(b.spec for report in reports.values() for b in report.benign):
        for name, report in reports.items():
            for b in report.benign:
                if b.spec == spec:
                    what = f"{b.description} (`{b.spec}`)" if b.kind == "control" else b.description
                    yield row(what, name, b.frames, figure(b.lcr.auroc), figure(b.relabelled))
    for name, report in reports.items():
        yield row("clean, original wrong", name, report.wrong.frames, figure(report.wrong.lcr.auroc), NOTHING)
        for c in report.compared:
            cells = (str(c.flagged.count), figure(c.flagged), NOTHING, figure(c.relabelled))
            yield (found.title, f"clean, every model in {c.precision}", NAMES[name], *cells)


def _rules(every: Sequence[Found]) -> str:
    titles = {
        "paper": "RC, optimal",
        "paper-wald": "RC, wald as the papers set it",
        "paper-fixed": "RC, fixed",
        "paper-mmt": "RC, mmt",
        "mutation-nai-optimal": "mutants, optimal",
        "mutation-nai": "mutants, mmt",
        "hardened": "hardened, optimal",
        "hardened-graded": "hardened, optimal on graded evidence",
        "hardened-margin": "hardened, optimal on margin evidence",
        "paper-margin": "RC, optimal on margin evidence",
    }
    rows = []
    for found in every:
        for name, title in titles.items():
            report, calibration = found.reports.get(name), found.calibrations.get(name)
            if report is None or calibration is None:
                continue
            six, clean = papers_attacks(report), report.clean.every
            worst = worst_by(report, lambda a: a.frames.flagged.share)
            rows.append((
                found.title, title, str(clean.count), figure(clean.flagged), f"{100 * calibration.fpr_upper:.1f}",
                figure(clean.models_used), figure(clean.cost, 2), str(sum(a.frames.count for a in six)),
                mean_figure(a.frames.flagged for a in six),
                NOTHING if worst is None else f"{figure(worst[1].frames.flagged)} `{worst[1].spec}`",
                mean_figure(a.frames.models_used for a in six),
            ))  # fmt: skip
    headers = (
        "data", "pool, rule", "clean n", "clean flagged, %", "upper bound in the calibration, %", "members, clean",
        "cost, clean", "attacked n", "flagged, mean over the papers' attacks, %", "flagged, worst of all attacks, %",
        "members, attacked",
    )  # fmt: skip
    note = (
        "`wald`: sigma 0.1, an exhausted pool is adversarial. No pool of this size can clear anything by it: at a "
        "clean label change rate of 0.1 that takes 133 members that agree. `mmt`: as MMT's program does it, an "
        "exhausted pool is clean. To flag at that rate takes 15 changes, so that a small pool flags next to nothing."
    )
    return f"{markdown(headers, rows, left=2)}\n\n{note}"


def _baselines(every: Sequence[Found]) -> str:
    rows: list[Row] = []
    for found in every:
        report = found.reports.get("paper")
        if report is None or not report.baselines:
            continue
        six = [attack_of(report, name) for name in ACCESS_ATTACKS]
        strong = [a for a in report.attacks if a.group == "strong" and a.frames.count]
        for name, own in _compared(found).items():
            areas = {a.spec: a.lcr.auroc for a in own.attacks if a.frames.count}
            told = [None if a is None else areas.get(a.spec) for a in six]
            means = (mean_figure(told), mean_figure(areas.get(a.spec) for a in strong))
            title = f"this screener, {NAMES[name]}, every member asked"
            rows.append((found.title, title, plain(own.whole_pool_cost), "0", *map(figure, told), *means))
        for b in report.baselines:
            sets = {s.name: s.auroc for s in b.sets}
            told = [None if a is None else sets.get(a.name) for a in six]
            means = (mean_figure(told), mean_figure(sets.get(a.name) for a in strong))
            what = f"{b.name} ({b.source})"
            rows.append((found.title, what, plain(b.passes), str(b.n_fit), *map(figure, told), *means))
    if not rows:
        return "No evaluation has other detectors in it."
    shorts = tuple(ACCESS_ATTACKS.values())
    headers = ("data", "detector", "passes", "clean images fitted on", *shorts, "mean", "mean of the strong attacks")
    return markdown(headers, rows, left=2)
