"""From clean frames to a calibration whose false-alarm promise was tested on other clean frames.

Wrongly classified clean frames count. Members are asked in a new random order for every frame, in a mixed pool by turns
(`kinds.orders`), so the rates are means over the orders that sessions draw; a single session keeps one order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.bounds import reachable
from pdtool.calibration.evidence import Evidence, assumed
from pdtool.calibration.promise import Checked, check_promise, split, walk
from pdtool.calibration.rules import Settings, candidates
from pdtool.calibration.table import DecisionTable, GradedTable, replay
from pdtool.decisions import Calibration, Grading
from pdtool.errors import GateError, InputError

__all__ = ["CleanFrames", "calibrate", "design", "parts"]

FEWEST_IMAGES = 20
ASSUMED_FRAMES = 4000
MARGIN = 1.5  # the check part may flag fewer frames than the design expects


@dataclass(frozen=True, kw_only=True)
class CleanFrames:
    """Clean frames (N,): what the members (M) say of them, and where they come from.

    `wrong` (N,): the original is wrong about it (None: unlabelled); `groups` (N,): frames of one source share a number
    and stay on one side of the split; `grading`: how the graded evidence was made of logits.
    """

    evidence: Evidence
    groups: NDArray[np.int64]
    wrong: NDArray[np.bool_] | None = None
    grading: Grading | None = None


def design(
    frames: CleanFrames,
    settings: Settings,
    *,
    target_fpr: float,
    confidence: float,
    seed: int,
    attacked: Evidence | None = None,
) -> tuple[Checked, float]:
    """The test for these frames, run on the check part of them, and the share of adversarial frames that it flags.

    Designed on the fit part; of the rule's sequence of tests the last one whose bound on the check part stays within
    `target_fpr` (`promise.walk`). The adversarial frames are `attacked`, or assumed (`evidence.assumed`).

    Raises InputError for too few frames or votes that do not fit together, UsageError for rates outside (0, 1),
    GateError where the rule has no test.
    """
    images = len(frames.evidence)
    check_promise(target_fpr, confidence)
    if images < FEWEST_IMAGES:
        raise InputError(f"expected at least {FEWEST_IMAGES} clean images to calibrate on, got {images}")
    members = frames.evidence.changed.shape[1]
    if members == 0:
        raise InputError("expected votes of at least 1 member, got none; compress a pool with members")
    if attacked is not None and (len(attacked) == 0 or attacked.changed.shape[1] != members):
        raise InputError(
            f"expected adversarial frames with votes of the same {members} members, got {attacked.changed.shape} votes"
        )
    fit, check = split(frames.groups, seed)
    if min(len(fit), len(check)) < FEWEST_IMAGES // 4:
        raise InputError(
            f"the images come from {len(np.unique(frames.groups))} sources, too few to split: add other recordings"
        )
    reach = reachable(target_fpr, frames.groups[check], confidence)
    top = min(target_fpr, MARGIN * reach) or target_fpr  # what lies far above cannot pass: no need to design it
    rng = np.random.default_rng(seed)
    clean, adversarial, shuffled = parts(frames, attacked, fit, check, rng)
    tests = candidates(settings, clean, adversarial, measured=attacked is not None, target_fpr=top, rng=rng)
    checked = walk(tests, shuffled, settings.evidence, frames.groups[check], target=target_fpr, confidence=confidence)
    flagged, _ = replay(checked.candidate.table, adversarial.of(settings.evidence))
    return checked, float(flagged.mean())


def parts(
    frames: CleanFrames,
    attacked: Evidence | None,
    fit: NDArray[np.int64],
    check: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[Evidence, Evidence, Evidence]:
    """What a design sees: the clean frames to fit on, adversarial ones, and the clean ones to check on.

    The adversarial frames are `attacked`, or assumed; these and the check frames ask members in random orders. The
    same generator gives the same orders, so that a report speaks about the frames that the design saw.
    """
    clean = frames.evidence.take(fit)
    adversarial = assumed(clean, ASSUMED_FRAMES, rng) if attacked is None else attacked.shuffled(rng)
    return clean, adversarial, frames.evidence.take(check).shuffled(rng)


def calibrate(
    frames: CleanFrames,
    settings: Settings,
    *,
    target_fpr: float,
    confidence: float,
    seed: int,
    data: str,
    seen: str,
    models_sha256: str,
    engines: str = "onnxruntime",
    attacked: Evidence | None = None,
    accept_miss: bool = False,
) -> Calibration:
    """`design` as the artefact that a bundle holds.

    Raises what `design` does, and GateError where the promise cannot be kept (with `accept_miss`: the calibration says
    so instead).
    """
    checked, power = design(
        frames, settings, target_fpr=target_fpr, confidence=confidence, seed=seed, attacked=attacked
    )
    if checked.upper > target_fpr and not accept_miss:
        raise GateError(checked.miss(target_fpr, confidence))
    fit, check = split(frames.groups, seed)
    wrong = None if frames.wrong is None else frames.wrong[check]
    table = checked.candidate.table
    counts = table if isinstance(table, DecisionTable) else None
    means = table if isinstance(table, GradedTable) else None
    grading = frames.grading if settings.evidence == "graded" else None
    bounded = settings.rule in ("wald", "mmt")
    return Calibration(
        rule=settings.rule,
        evidence=settings.evidence,
        target_fpr=target_fpr,
        confidence=confidence,
        p0=checked.candidate.p0,
        p1=checked.candidate.p1,
        alpha=settings.alpha if bounded else None,
        beta=settings.beta if bounded else None,
        at_cap=settings.at_cap if settings.rule == "wald" else None,
        after_change=counts is not None and counts.after_change,
        max_models=table.max_models,
        flag_at=None if counts is None else counts.flag_at,
        clear_at=None if counts is None else counts.clear_at,
        flag_above=None if means is None else means.flag_above,
        clear_below=None if means is None else means.clear_below,
        temperatures=None if grading is None else grading.temperatures,
        margin_weight=0.0 if grading is None else grading.weight,
        margin_knee=0.0 if grading is None else grading.knee,
        kinds=None if means is None else means.kinds,
        adversarial="assumed" if attacked is None else "measured",
        power=power,
        clean_lcr=float(frames.evidence.changed[fit].mean()),
        realised_fpr=checked.realised,
        fpr_upper=checked.upper,
        expected_models_clean=float(checked.used.mean()),
        p99_models_clean=int(np.quantile(checked.used, 0.99, method="higher")),
        models_clean=_shares(checked.used, table.max_models),
        fit_images=len(fit),
        check_images=len(check),
        check_groups=len(np.unique(frames.groups[check])),
        check_flagged=int(checked.flagged.sum()),
        check_wrong=None if wrong is None else int(wrong.sum()),
        check_wrong_flagged=None if wrong is None else int(checked.flagged[wrong].sum()),
        data=data,
        seen=seen,
        models_sha256=models_sha256,
        engines=engines,
    )


def _shares(used: NDArray[np.int64], most: int) -> tuple[float, ...]:
    """The share of the frames that ask exactly 1, 2, ... `most` members."""
    return tuple(round(float(share), 6) for share in np.bincount(used, minlength=most + 1)[1:] / len(used))
