"""The plots of an evaluation's report: ROC, label change rates, what more members buy. Readable with many attacks."""

from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.evaluation.canvas import COLOURS, DASHES, INK, colour, log_scale, svg_of
from pdtool.evaluation.metrics import roc_curve, worst_per_input
from pdtool.evaluation.report_gallery import Evidence
from pdtool.evaluation.report_words import labels
from pdtool.evaluation.results import Evaluation
from pdtool.evaluation.screening import fooled

__all__ = ["cost_curves", "histograms", "roc_curves"]

ACROSS = 4  # panels side by side
WIDE = 11.0  # inches
LONGEST = 26  # letters of a panel's title
Floats = NDArray[np.float64]


def roc_curves(evaluation: Evaluation, evidence: Evidence) -> str:
    """Every attack's ROC by label change rate and by mean graded evidence, the axis of false alarms logarithmic.

    Steps: between two thresholds nothing is interpolated, so that a curve's height is the TPR at that FPR or below. A
    thick line is the worst attack of each image that any attack fooled.
    """
    clean, called = evidence.clean, labels(evaluation.attacks)
    attacked = [(each, won) for each in evidence.attacked if (won := fooled(each, clean)).any()]
    lcr, graded = [s.lcr()[won] for s, won in attacked], [s.mean_graded()[won] for s, won in attacked]
    # Left of any curve's first step and of the 1 % line: a share of none has no place on a logarithmic axis
    least = min(0.5 / max(len(clean), 2), 0.01)

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, title, below, above in (
            (panels[0], "Label change rate of all members", clean.lcr(), lcr),
            (panels[1], "Mean graded evidence", clean.mean_graded(), graded),
        ):
            if len(attacked) > 1:
                _, worst = worst_per_input([s.source[won] for s, won in attacked], above)
                name = f"worst of each image that any attack fooled (n = {len(worst)})"
                _step(axes, below, worst, least, color=INK, linewidth=3, alpha=0.55, label=name)
            for i, ((frames, _), scores) in enumerate(zip(attacked, above, strict=True)):
                label = f"{called[frames.name]} (n = {len(scores)})"
                _step(axes, below, scores, least, color=colour(i), linestyle=_dash(i), linewidth=1.8, label=label)
            for at in (0.01, 0.05):
                axes.axvline(at, color=INK, linestyle=":", linewidth=0.8)
            log_scale(axes, "x")
            axes.set_xlim(least, 1)
            axes.set_ylim(0, 1.01)
            axes.set_xlabel(f"share of clean frames flagged (n = {len(clean)}); dotted: 1 % and 5 %")
            axes.set_title(title, loc="left", fontsize=10)
            axes.grid()
        panels[0].set_ylabel("share of attacked frames flagged")
        _legend(figure, panels[0])

    return svg_of("ROC curves", draw, size=(WIDE, 4.2 + 0.22 * (len(attacked) // ACROSS)))


def cost_curves(evaluation: Evaluation) -> str:
    """AUROC and TPR at 5 % FPR of every attack against the members asked."""
    attacks, called = [a for a in evaluation.attacks if a.frames.count], labels(evaluation.attacks)
    areas = [s.auroc.value or 0.0 for a in attacks for point in a.asked for s in (point.lcr, point.graded)]
    lowest = min(0.5, *(np.floor(10 * area) / 10 for area in areas)) if areas else 0.5

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, ACROSS)
        for k, (axes, title) in enumerate(
            zip(panels, ("AUROC, LCR", "AUROC, graded", "TPR at 5 % FPR, LCR", "TPR at 5 % FPR, graded"), strict=True)
        ):
            for i, a in enumerate(attacks):
                points = [point.graded if k % 2 else point.lcr for point in a.asked]
                heights = [(s.auroc.value if k < 2 else s.tpr_5.share) for s in points]
                asked = [point.members for point in a.asked]
                axes.plot(
                    asked, np.array(heights, dtype=float), color=colour(i), linestyle=_dash(i), linewidth=1.8,
                    marker="o", markersize=3, label=f"{called[a.name]} (n = {a.frames.count})",
                )  # fmt: skip
            log_scale(axes, "x")
            steps = [point.members for point in attacks[0].asked] if attacks else [1]
            axes.set_xticks(steps, [str(step) for step in steps])
            axes.minorticks_off()
            axes.set_ylim(lowest if k < 2 else 0, 1.02)
            axes.set_xlabel("members asked")
            axes.set_title(title, loc="left", fontsize=10)
            axes.grid()
        _legend(figure, panels[0])

    return svg_of("What asking more members buys", draw, size=(WIDE, 3.6 + 0.22 * (len(attacks) // ACROSS)))


def histograms(evaluation: Evaluation, evidence: Evidence) -> str:
    """Label change rates of clean frames and of each attack's, a panel an attack over common bins."""
    members = len(evidence.clean.order)
    bins = list((np.arange(members + 2) - 0.5) / members) if members <= 40 else list(np.linspace(0, 1, 41))
    wrong = evidence.clean.wrong
    called = labels(evaluation.attacks)
    sets = [(called[s.name], s.lcr()[won]) for s in evidence.attacked if (won := fooled(s, evidence.clean)).any()]
    if wrong.any():
        sets.append(("wrongly labelled", evidence.clean.lcr()[wrong]))

    def draw(figure: Any) -> None:
        rows = max(1, -(-len(sets) // ACROSS))
        panels = figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).reshape(-1)
        below = evidence.clean.lcr()
        for axes in panels[len(sets) :]:
            axes.set_axis_off()
        for i, (axes, (name, values)) in enumerate(zip(panels, sets, strict=False)):
            for of, shade, edge in ((below, "#8a949e", INK), (values, colour(i), colour(i))):
                shares = np.histogram(of, bins=bins)[0] / len(of)
                axes.stairs(shares, bins, fill=True, color=shade, alpha=0.4)
                axes.stairs(shares, bins, color=edge, linewidth=0.9)
            axes.axvline(float(values.mean()), color=INK, linestyle="--", linewidth=1)
            axes.set_title(f"{shorten(name, LONGEST, placeholder='…')} (n = {len(values)})", loc="left", fontsize=9)
            axes.set_xlim(bins[0], bins[-1])
            axes.grid(axis="y")
            if i + ACROSS >= len(sets):
                axes.set_xlabel("label change rate", fontsize=9)
                axes.tick_params(labelbottom=True)
            if i % ACROSS == 0:
                axes.set_ylabel("share", fontsize=9)

    rows = max(1, -(-len(sets) // ACROSS))
    return svg_of("Label change rates, clean frames in grey", draw, size=(WIDE, 0.5 + 2.1 * rows))


def _step(axes: Any, clean: Floats, attacked: Floats, least: float, **style: Any) -> None:
    fpr, tpr = roc_curve(clean, attacked)
    highest: Floats = np.maximum.accumulate(tpr)
    axes.plot(np.maximum(fpr, least), highest, drawstyle="steps-post", **style)


def _dash(i: int) -> str:
    return DASHES[i // len(COLOURS) % len(DASHES)]


def _legend(figure: Any, axes: Any) -> None:
    handles, said = axes.get_legend_handles_labels()
    if said:
        ncols = max(1, min(ACROSS, 110 // max(map(len, said))))
        figure.legend(
            handles, said, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9, handlelength=3.2
        )
