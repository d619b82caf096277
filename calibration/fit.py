"""From clean votes to a calibration whose false-alarm promise was tested on other clean images.

The test is designed on one clean split and run, whole, on a disjoint one. Wrongly classified clean images count.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import AtCap, Calibration
from pdtool.calibration.bounds import rate_bound, sources_needed
from pdtool.calibration.search import Candidate, search_candidates
from pdtool.calibration.table import replay
from pdtool.calibration.wald import compile_wald
from pdtool.errors import GateError, InputError, UsageError

__all__ = ["PAPER", "WaldSettings", "calibrate_wald", "paper_candidate", "split"]

FEWEST_IMAGES = 20
FIT_SHARE = 0.4  # of the sources; the bound is made of the others
Z_99 = 2.5758293035489004  # two-sided 99 % point of the normal distribution


@dataclass(frozen=True, kw_only=True)
class WaldSettings:
    """What the user may fix of the `wald` rule; None: found from clean data.

    `sigma` is relative: p0, p1 = zeta_h (1 -+ sigma), zeta_h the mean clean label change rate plus its 99 %
    confidence half-width (the papers' construction, sigma = 0.1).
    """

    p0: float | None = None
    p1: float | None = None
    sigma: float | None = None
    alpha: float = 0.05
    beta: float = 0.05
    max_models: int = 100
    at_cap: AtCap = "threshold"

    def __post_init__(self) -> None:
        if self.sigma is not None and not 0 < self.sigma < 1:
            raise UsageError(f"sigma should lie between 0 and 1 (a share of the clean rate), is {self.sigma}")
        if (self.p0 is None) != (self.p1 is None):
            raise UsageError("give both --p0 and --p1, or neither")
        if self.p0 is not None and self.sigma is not None:
            raise UsageError("give either --p0 and --p1 or --sigma, not both")


PAPER = WaldSettings(sigma=0.1, at_cap="adversarial")  # Algorithm 1 line 16: an exhausted pool means adversarial


def split(groups: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two disjoint parts of the images (indices), to fit and to check; a group (track, video) is on one side."""
    names = np.unique(groups)
    first = np.random.default_rng(seed).permutation(names)[: int(FIT_SHARE * len(names))]
    inside = np.isin(groups, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def paper_candidate(changed: NDArray[np.bool_], settings: WaldSettings, max_models: int) -> Candidate:
    """The papers' test: p0, p1 = zeta_h (1 -+ sigma) from clean votes (N, M).

    zeta_h = mean LCR + 99 % half-width of that mean. Raises GateError where no member ever changed a clean label
    (zeta_h = 0 makes the ratio log 0) or p1 reaches 1.
    """
    if settings.sigma is None:
        raise ValueError("sigma is needed")
    rates = changed.mean(axis=1)
    zeta = float(rates.mean() + Z_99 * rates.std(ddof=1) / np.sqrt(len(rates)))
    p0, p1 = zeta * (1 - settings.sigma), zeta * (1 + settings.sigma)
    if not 0 < p0 < p1 < 1:
        raise GateError(
            f"the clean label change rate is {zeta:.4f}: sigma = {settings.sigma} gives p0 = {p0:.4f}, p1 = {p1:.4f}, "
            f"outside 0..1; give --p0 and --p1 instead"
        )
    return Candidate(p0, p1, compile_wald(p0, p1, settings.alpha, settings.beta, max_models, settings.at_cap))


def calibrate_wald(
    changed: NDArray[np.bool_],
    *,
    wrong: NDArray[np.bool_] | None,
    groups: NDArray[np.int64],
    settings: WaldSettings,
    target_fpr: float,
    confidence: float,
    seed: int,
    data: str,
    seen: str,
    models_sha256: str,
    accept_miss: bool = False,
) -> Calibration:
    """Fit on a part of the clean votes, test the promise on the rest.

    `changed` (N, M): member m changed the original's label of clean image i; `wrong` (N,): the original is wrong
    about it (None: unlabelled); `groups` (N,): images of one source share a number and stay on one side.

    With `sigma` or `p0`/`p1` given there is one test; otherwise the sharpest of a sequence, by fixed-sequence testing:
    `search_candidates` orders tests on the fit part, strictest first, and the sequence is walked on the check part
    while the one-sided bound (`rate_bound`: over sources, not frames) at `confidence` stays within `target_fpr`; the
    last that passed is taken. Walking an order fixed beforehand and stopping at the first failure keeps the stated
    confidence for the one chosen (Angelopoulos et al. 2021, Learn then Test).

    Members are asked in a new random order for every image, so the rates are means over the orders that sessions
    draw; a single session keeps one order.

    Raises InputError for too few images, UsageError for rates outside (0, 1), GateError where the promise cannot be
    kept (with `accept_miss`: the calibration says so instead).
    """
    images, members = changed.shape
    if not (0 < target_fpr < 1 and 0 < confidence < 1):
        raise UsageError(f"expected --target-fpr and --confidence between 0 and 1, got {target_fpr} and {confidence}")
    if images < FEWEST_IMAGES:
        raise InputError(f"expected at least {FEWEST_IMAGES} clean images to calibrate on, got {images}")
    fit, check = split(groups, seed)
    rng = np.random.default_rng(seed)
    if min(len(fit), len(check)) < FEWEST_IMAGES // 4:
        raise InputError(
            f"the images come from {len(np.unique(groups))} sources, too few to split: add other recordings"
        )
    max_models = min(settings.max_models, members)
    if settings.sigma is not None:
        candidates = [paper_candidate(changed[fit], settings, max_models)]
    elif settings.p0 is not None and settings.p1 is not None:
        table = compile_wald(settings.p0, settings.p1, settings.alpha, settings.beta, max_models, settings.at_cap)
        candidates = [Candidate(settings.p0, settings.p1, table)]
    else:
        candidates = search_candidates(
            rng.permuted(changed[fit], axis=1),
            target_fpr=target_fpr,
            alpha=settings.alpha,
            beta=settings.beta,
            max_models=max_models,
            at_cap=settings.at_cap,
        )
    shuffled = rng.permuted(changed[check], axis=1)
    chosen, flagged, used = _walk(candidates, shuffled, groups[check], target_fpr, confidence)
    realised, upper = float(flagged.mean()), rate_bound(flagged, groups[check], confidence)
    sources = len(np.unique(groups[check]))
    if upper > target_fpr and not accept_miss:
        raise GateError(_miss(realised, upper, len(check), sources, target_fpr, confidence))
    wrong_check = None if wrong is None else wrong[check]
    return Calibration(
        rule="wald",
        evidence="label",
        target_fpr=target_fpr,
        confidence=confidence,
        p0=chosen.p0,
        p1=chosen.p1,
        alpha=settings.alpha,
        beta=settings.beta,
        max_models=max_models,
        at_cap=settings.at_cap,
        flag_at=chosen.table.flag_at,
        clear_at=chosen.table.clear_at,
        clean_lcr=float(changed[fit].mean()),
        realised_fpr=realised,
        fpr_upper=upper,
        expected_models_clean=float(used.mean()),
        fit_images=len(fit),
        check_images=len(check),
        check_groups=sources,
        check_flagged=int(flagged.sum()),
        check_wrong=None if wrong_check is None else int(wrong_check.sum()),
        check_wrong_flagged=None if wrong_check is None else int(flagged[wrong_check].sum()),
        data=data,
        seen=seen,
        models_sha256=models_sha256,
    )


def _walk(
    candidates: list[Candidate],
    changed: NDArray[np.bool_],
    groups: NDArray[np.int64],
    target: float,
    confidence: float,
) -> tuple[Candidate, NDArray[np.bool_], NDArray[np.int64]]:
    """The last candidate before the first whose bound exceeds the target (the first one where even that fails)."""
    best: tuple[Candidate, NDArray[np.bool_], NDArray[np.int64]] | None = None
    for candidate in candidates:
        flagged, used = replay(candidate.table, changed)
        if rate_bound(flagged, groups, confidence) > target:
            return best or (candidate, flagged, used)
        best = candidate, flagged, used
    if best is None:
        raise ValueError("no candidates")
    return best


def _miss(realised: float, upper: float, images: int, sources: int, target: float, confidence: float) -> str:
    needed = sources_needed(realised, target, confidence, single=sources == images)
    what = "clean images" if sources == images else "tracks or stretches of video"
    cure = (
        f"at this rate about {ceil(needed / (1 - FIT_SHARE))} {what} in all would show it"
        if needed is not None
        else "more images cannot help: raise --target-fpr or make a pool that changes fewer clean labels"
    )
    return (
        f"{realised:.2%} of {images} clean check images (from {sources} independent sources) were flagged, at most "
        f"{upper:.2%} with {confidence:.0%} confidence; the target is {target:.2%}; {cure}"
    )
