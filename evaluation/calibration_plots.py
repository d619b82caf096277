"""The plots of a calibration's report."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.evidence import Evidence
from pdtool.calibration.kinds import levels
from pdtool.calibration.response import Response
from pdtool.calibration.table import DecisionTable, table_of
from pdtool.decisions import Calibration
from pdtool.evaluation.calibration_study import Study
from pdtool.evaluation.curves import Panel, curves, panels, staircase
from pdtool.evaluation.pictures import histogram
from pdtool.wording import percent

__all__ = ["orders", "plots", "rules"]

NARROW = 40  # bins of a histogram of means
CUT = 4  # times the target: longer bars of false alarms are cut


def plots(c: Calibration, s: Study) -> Iterator[tuple[str, str]]:
    """Pictures with the sentence that belongs to each."""
    adversarial = f"adversarial, {'assumed' if c.adversarial == 'assumed' else 'given'}"
    members = s.clean.changed.shape[1]
    marks = {name: p for name, p in (("p0", c.p0), ("p1", c.p1)) if p is not None}
    yield (
        histogram(
            f"Label change rate over all {members} members",
            {"clean": s.clean.changed.mean(axis=1), adversarial: s.adversarial.changed.mean(axis=1)},
            xlabel="share of the members that change the label",
            bins=list((np.arange(members + 2) - 0.5) / members),
            lines=marks,
            expected={"clean, estimated": (np.arange(members + 1) / members, s.expected)},
            log=True,
        ),
        f"Shares on a logarithmic scale. The test can tell apart what does not overlap. Points: what the estimate from "
        f"the {c.fit_images} images of the design expects.",
    )
    if s.clean.graded is not None:
        means = {"clean": _heard(s.clean), adversarial: _heard(s.adversarial)}
        yield (
            histogram(
                f"Mean graded evidence over all {members} members",
                means,
                xlabel="mean of 1 - the members' probability of the original's label",
                bins=NARROW,
                span=(0.0, 1.0),
                log=True,
            ),
            "Graded evidence: how little a member believes in the original's label, even where it does not change it. "
            + ("Of a mixed pool: the largest of the kinds' means. " if s.clean.kinds is not None else "")
            + ("This test uses it." if c.evidence == "graded" else "This test counts label changes only."),
        )
    yield _stairs(c, s)
    asked = list(np.arange(s.most_models + 1) + 0.5)
    yield (
        histogram(
            "Members asked until the test decides",
            {"clean": s.clean_used, adversarial: s.adversarial_used},
            xlabel="members asked",
            bins=asked,
        ),
        "Clean: the check images, each in an order of its own.",
    )
    r = s.response
    how = (
        "Exact, for members that change the label independently of each other."
        if r.frames is None
        else f"Not exact: {r.frames:,} simulated frames a rate. Each member changes the label with that chance, "
        "independently, and brings the evidence of a random clean vote that did, or did not, change it, on a frame "
        "with about as many changes. Members of one pool do hang together on real frames."
    )
    known = {"mean clean rate": c.clean_lcr, **marks}
    at = "chance p that a member changes the label"
    yield (
        curves(
            "Chance to be flagged",
            r.p,
            {"flagged": r.flag},
            xlabel=at,
            ylabel="share of frames",
            marks=known,
            line=("promised for clean frames", c.target_fpr),
            top=1.02,
        ),
        f"{how} The promise is about clean frames as they come, of many rates, not about frames that all have their "
        "mean rate.",
    )
    yield (
        curves(
            "Members asked",
            r.p,
            {"mean": r.mean_models, "99 of 100 frames, at most": r.p99_models},
            xlabel=at,
            ylabel="members",
            marks=known,
            top=1.08 * float(r.p99_models.max()),
            counts=True,
        ),
        _dearest(r),
    )


def _dearest(r: Response) -> str:
    if np.ptp(r.mean_models) == 0:
        return f"Every frame asks {r.mean_models[0]:.0f} members."
    worst = int(r.mean_models.argmax())
    return (
        f"Frames whose label {percent(float(r.p[worst]))} of the members change ask most: {r.mean_models[worst]:.1f} "
        f"on average. {'Exact' if r.frames is None else 'Not exact'}, as beside."
    )


def _heard(evidence: Evidence) -> NDArray[np.float64]:
    """What graded evidence comes to once all members were asked, (N,)."""
    return levels(evidence.known(), evidence.kinds)[:, -1]


def _stairs(c: Calibration, s: Study) -> tuple[str, str]:
    bounds = (s.reach.low, s.reach.clear_to, s.reach.flag_from, s.reach.high)
    label = isinstance(table_of(c), DecisionTable)
    picture = staircase(
        "What is decided after n members",
        bounds,
        ylabel="label changes z" if label else "mean evidence (square-root scale)",
        counts=label,
    )
    text = "Only what a frame can reach is painted."
    if s.most_models < c.max_models:
        text += f" After {s.most_models} members every frame is decided; {c.max_models} would be allowed."
    if c.after_change:
        text += (
            " This rule decides only when the last member asked changed the label; otherwise it asks the next one, "
            "and clears what the last member leaves open."
        )
    return picture, text


def rules(c: Calibration, s: Study) -> str:
    """Every rule side by side."""
    rows = s.compared

    def share(values: list[float | None]) -> list[float]:
        return [float("nan") if value is None else 100 * value for value in values]

    target = 100 * c.target_fpr
    return panels(
        "Every rule, calibrated to the same promise on the same votes",
        [f"▸ {row.name}" if row.name == s.own else row.name for row in rows],
        [
            Panel(
                "Members asked for a clean frame, mean",
                [float("nan") if row.mean_models is None else row.mean_models for row in rows],
            ),
            Panel(
                f"Adversarial frames flagged, % ({'assumed' if c.adversarial == 'assumed' else 'given'})",
                share([row.power for row in rows]),
            ),
            Panel(
                "Clean frames flagged, %, and bound",
                share([row.realised_fpr for row in rows]),
                upper=share([row.fpr_upper for row in rows]),
                line=(f"promised, {percent(c.target_fpr)}", target),
                most=CUT * target,
            ),
        ],
    )


def orders(c: Calibration, s: Study) -> str:
    """The false alarms of many sessions."""
    flagged = np.rint(s.sessions.fpr * c.check_images).astype(int)
    step = max(1, int(np.ceil((np.ptp(flagged) + 1) / 20)))
    edges = np.arange(flagged.min(), flagged.max() + step + 1, step) - 0.5
    return histogram(
        f"Check frames flagged, in {len(flagged)} sessions",
        {"sessions": 100 * flagged / c.check_images},
        xlabel="% of the check frames",
        bins=list(100 * edges / c.check_images),
        lines={"promised": 100 * c.target_fpr, "measured, mean over orders": 100 * c.realised_fpr},
    )
