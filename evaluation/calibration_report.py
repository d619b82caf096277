"""A calibration as one self-contained HTML page: what it promises, what it asks, what the other rules would do."""

from pathlib import Path

import numpy as np

import pdtool
from pdtool.calibration.latent import ASSUMED
from pdtool.decisions import Calibration
from pdtool.evaluation.calibration_plots import orders, plots, rules
from pdtool.evaluation.calibration_study import Sessions, Study, study
from pdtool.evaluation.page import check_report, render
from pdtool.files import write_atomic
from pdtool.runtime.calibrate import Calibrated
from pdtool.wording import counted, number, percent

__all__ = ["check_report", "html", "limits", "summary", "write_report"]


def write_report(out: Path, done: Calibrated, *, seed: int, fps: float) -> None:
    """Write the page. `seed`: the calibration's; `fps`: frames a second, to count false alarms an hour.

    Raises as `check_report`, and InputError where the disk refuses.
    """
    check_report(out)
    write_atomic(out, html(done.calibration, study(done, seed=seed), seed=seed, fps=fps).encode())


def html(c: Calibration, s: Study, *, seed: int, fps: float) -> str:
    """The page: no script, nothing fetched, light or dark as the reader's system is; the same input, the same bytes."""
    return render(
        "calibration_page.html",
        c=c,
        s=s,
        seed=seed,
        pdtool=pdtool.__version__,
        tiles=_tiles(c, s, fps),
        confidence=_confidence(c.confidence),
        summary=summary(c, s, fps),
        plots=list(plots(c, s)),
        rules=rules(c, s),
        sessions=orders(c, s),
        order=_order(c, s.sessions),
        limits=limits(c),
    )


def summary(c: Calibration, s: Study, fps: float) -> tuple[str, ...]:
    """What a reader should take along, a sentence a line."""
    hour = 3600 * fps
    kept = c.fpr_upper <= c.target_fpr
    lines = [
        f"Promised: at most {percent(c.target_fpr)} of clean frames are flagged. Measured on {_sources(c)} that the "
        f"test was not designed on: {percent(c.realised_fpr)} ({c.check_flagged} flagged), at most "
        f"{percent(c.fpr_upper)} with {_confidence(c.confidence)} confidence. "
        + ("The promise is kept." if kept else "The promise is NOT kept; the calibration was stored all the same."),
        f"At {fps:g} frames a second, all of them clean, that is {hour * c.realised_fpr:,.0f} flagged frames an hour, "
        f"at most {hour * c.fpr_upper:,.0f}.",
    ]
    if c.check_wrong is None or c.check_wrong_flagged is None:
        lines.append("The images have no labels: those that the original gets wrong are counted in, but not known.")
    else:
        right, flagged = c.check_images - c.check_wrong, c.check_flagged - c.check_wrong_flagged
        lines.append(
            f"Both kinds of clean frames count as false alarms: flagged of those that the original classifies "
            f"correctly {counted(flagged, right)}, of those it gets wrong "
            f"{counted(c.check_wrong_flagged, c.check_wrong)}."
        )
    allowed = "" if s.most_models == c.max_models else f", although {c.max_models} would be allowed"
    lines.append(
        f"A clean frame asks {c.expected_models_clean:.1f} members on average, 99 of 100 frames at most "
        f"{c.p99_models_clean}; no frame asks more than {s.most_models}{allowed}."
    )
    lines.append(
        f"Of the adversarial frames that it was designed against ({_adversarial(c)}), {percent(c.power)} are flagged."
    )
    if c.power < 0.1:
        lines.append(
            "That is hardly any: calibrate on more images, raise --target-fpr, or make a pool that changes fewer clean "
            "labels."
        )
    return (*lines, _order(c, s.sessions))


def limits(c: Calibration) -> tuple[str, ...]:
    """What is promised and what is not, in plain words."""
    if c.adversarial == "assumed":
        against = (
            "Not promised: how many attacked frames are flagged. None were at hand. Adversarial frames are assumed "
            f"here: each member changes the label of such a frame with a chance between {percent(ASSUMED.p.min())} and "
            f"{percent(ASSUMED.p.max())}, on average {percent(ASSUMED.mean)}, and brings the evidence of clean votes. "
            "Attacks that change fewer labels are flagged less often. Give attacked images with --attacked, and read "
            "what pdtool evaluate measures."
        )
    else:
        against = (
            "Not promised: how many attacked frames are flagged. The share above is that of the attacked images given "
            "with --attacked, on which the test was also designed; other attacks, and attacks that know the members, "
            "come out otherwise. Read what pdtool evaluate measures on images of its own."
        )
    lines = [
        f"Promised: of clean frames like those of the data above, at most {percent(c.target_fpr)} are flagged. The "
        f"bound errs in no more than {_confidence(1 - c.confidence)} of calibrations made like this one. Frames that "
        "the original gets wrong count like all others.",
        "The rate is a mean over the orders in which members can be asked. A session keeps one order and lies above or "
        "below; pdtool screen --order rotate:N draws a new one every N frames and comes closer to the mean.",
        against,
        "Not promised: anything about another camera, other light or weather, other classes or a worn lens. Calibrate "
        "again on clean frames of the place where it will run.",
    ]
    if c.check_groups < c.check_images:
        lines.append(
            f"Frames of one track or video hang together: the bound is made of {c.check_groups} independent sources, "
            f"not of {c.check_images} images, and false alarms come in bursts, not evenly over the hour."
        )
    else:
        lines.append(
            "Every image counts as a source of its own. Neighbouring frames of a camera do not: there, false alarms "
            "come in bursts, not evenly over the hour."
        )
    lines.append("It holds for these model files alone; pdtool screen refuses the calibration for others.")
    return tuple(lines)


def _tiles(c: Calibration, s: Study, fps: float) -> list[tuple[str, str]]:
    """The figures of the page's head: (value, what it is)."""
    hour = 3600 * fps
    wrong = "unlabelled" if c.check_wrong is None else f"{c.check_wrong_flagged} of {c.check_wrong}"
    return [
        (f"≤ {percent(c.fpr_upper)}", f"of clean frames flagged ({_confidence(c.confidence)} confidence)"),
        (percent(c.realised_fpr), f"of clean frames flagged as measured; promised: at most {percent(c.target_fpr)}"),
        (
            f"{hour * c.realised_fpr:,.0f}",
            f"flagged clean frames an hour at {fps:g} frames a second; at most {hour * c.fpr_upper:,.0f}",
        ),
        (wrong, "clean check frames that the original gets wrong were flagged"),
        (
            f"{c.expected_models_clean:.1f} · {c.p99_models_clean} · {s.most_models}",
            "members asked for a clean frame: mean, 99 of 100, most",
        ),
        (percent(c.power), f"of adversarial frames flagged ({'assumed' if c.adversarial == 'assumed' else 'given'})"),
    ]


def _confidence(share: float) -> str:
    """As it was asked for: 95 %, 99.9 %."""
    return f"{100 * share:g} %"


def _sources(c: Calibration) -> str:
    images = f"{c.check_images} images"
    return images if c.check_groups == c.check_images else f"{images} of {c.check_groups} independent sources"


def _adversarial(c: Calibration) -> str:
    return "assumed, not measured" if c.adversarial == "assumed" else "the attacked images given"


def _order(c: Calibration, sessions: Sessions) -> str:
    """How much the order of members, drawn once a session, moves the false alarms."""
    low, high = sessions.middle
    least, most = (number(mean) for mean in (sessions.mean_models.min(), sessions.mean_models.max()))
    above = int((sessions.fpr > c.target_fpr).sum())
    asks = f"A clean frame asks {least} to {most} members on average, as the order has it."
    if np.ptp(sessions.fpr) == 0:
        alarms = (
            f"The order of members moves no false alarms: in each of {len(sessions.fpr)} sessions "
            f"{percent(float(sessions.fpr[0]))} of the check frames are flagged."
        )
    else:
        alarms = (
            f"A session keeps one order of members. In 90 of 100 orders between {percent(low)} and {percent(high)} of "
            f"the check frames are flagged, in the extremes {percent(float(sessions.fpr.min()))} and "
            f"{percent(float(sessions.fpr.max()))}; {above} of {len(sessions.fpr)} orders lie above the promised "
            f"{percent(c.target_fpr)}."
        )
    return alarms if least == most else f"{alarms} {asks}"
