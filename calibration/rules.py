"""The rules as sequences of tests to try, strictest first, each designed on the fit part of the clean frames alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np

from pdtool.calibration.evidence import Evidence
from pdtool.calibration.graded import graded_sequence
from pdtool.calibration.latent import ASSUMED, estimate
from pdtool.calibration.mmt import compile_mmt
from pdtool.calibration.optimal import problem, sequence
from pdtool.calibration.search import search_wald
from pdtool.calibration.table import DecisionTable, GradedTable, Table
from pdtool.calibration.wald import check_hypotheses, compile_wald
from pdtool.decisions import AtCap, EvidenceKind, Rule
from pdtool.errors import GateError, UsageError

__all__ = ["PAPER", "Candidate", "Settings", "candidates"]

LEVELS = 16  # false-alarm levels tried, evenly up to the target
Z_99 = 2.5758293035489004  # two-sided 99 % point of the normal distribution
WALD_ONLY = ("p0", "p1", "sigma")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user may fix of the test; None: found from clean data. The defaults are this class's: `pdtool calibrate`
    weighs the margin in unless told otherwise.

    `sigma` is relative: p0, p1 = zeta_h (1 -+ sigma), zeta_h the mean clean label change rate plus its 99 %
    confidence half-width (the papers' construction, sigma = 0.1). `mean_models`: most members asked for a clean
    frame, on average (`optimal` only). Raises UsageError for what contradicts.
    """

    rule: Rule = "optimal"
    evidence: EvidenceKind = "label"
    margin: bool = False  # graded evidence weighs the original's own margin, too
    p0: float | None = None
    p1: float | None = None
    sigma: float | None = None
    alpha: float = 0.05
    beta: float = 0.05
    max_models: int = 100
    mean_models: float | None = None
    at_cap: AtCap = "threshold"

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule) or self.evidence not in get_args(EvidenceKind):
            raise UsageError(f"expected a rule and an evidence that exist, got {self.rule!r} and {self.evidence!r}")
        if self.sigma is not None and not 0 < self.sigma < 1:
            raise UsageError(f"sigma should lie between 0 and 1 (a share of the clean rate), is {self.sigma}")
        if (self.p0 is None) != (self.p1 is None):
            raise UsageError("give both --p0 and --p1, or neither")
        if self.p0 is not None and self.sigma is not None:
            raise UsageError("give either --p0 and --p1 or --sigma, not both")
        if self.rule not in ("wald", "mmt") and (self.p0 is not None or self.sigma is not None):
            raise UsageError(f"--p0, --p1 and --sigma belong to the rules wald and mmt, not to {self.rule}")
        if self.evidence == "graded" and self.rule in ("wald", "mmt"):
            raise UsageError(f"the rule {self.rule} counts label changes; use --evidence label, or another rule")
        if self.margin and self.evidence != "graded":
            raise UsageError("the original's margin belongs to graded evidence")
        if self.max_models < 1:
            raise UsageError(f"expected to ask at least 1 model, got {self.max_models}")
        p0, p1 = (0.1, 0.5) if self.p0 is None or self.p1 is None else (self.p0, self.p1)
        check_hypotheses(p0, p1, self.alpha, self.beta, self.max_models)
        if self.mean_models is not None and (self.rule != "optimal" or not self.mean_models >= 1):
            raise UsageError("--mean-models belongs to the rule optimal and is at least 1")


PAPER = Settings(rule="wald", sigma=0.1, at_cap="adversarial")  # Algorithm 1 line 16: an exhausted pool is adversarial


@dataclass(frozen=True)
class Candidate:
    """A test that might be calibrated: its table, and its hypotheses where it has such."""

    table: Table
    p0: float | None = None
    p1: float | None = None


def candidates(
    settings: Settings,
    fit: Evidence,
    adversarial: Evidence,
    *,
    measured: bool,
    target_fpr: float,
    rng: np.random.Generator,
) -> Iterator[Candidate]:
    """Tests from few false alarms on the clean frames `fit` to the target's share of them.

    `adversarial`: frames to be flagged, `measured` or assumed (`evidence.assumed`). Raises GateError where the rule
    has no test for these frames.
    """
    members = min(settings.max_models, fit.changed.shape[1])
    levels = [target_fpr * (k + 1) / LEVELS for k in range(LEVELS)]
    if settings.rule == "optimal" and settings.evidence == "label":
        clean = estimate(fit.changed.sum(axis=1), fit.changed.shape[1])
        other = estimate(adversarial.changed.sum(axis=1), adversarial.changed.shape[1]) if measured else ASSUMED
        for table in sequence(problem(clean, other, members), levels, mean_models=settings.mean_models):
            yield Candidate(table)
    elif settings.rule == "optimal":
        kinds = len(set(fit.kinds or ("one",)))
        if settings.mean_models is not None and settings.mean_models < kinds:
            raise GateError(
                f"a mixed pool asks one member of each of its {kinds} kinds before it clears a frame, --mean-models "
                f"allows {settings.mean_models:g} on average; give at least {kinds}"
            )
        for bounds in graded_sequence(fit, adversarial, members, levels, rng, mean_models=settings.mean_models):
            yield Candidate(bounds)
    elif settings.rule == "fixed":
        yield from _fixed(settings.evidence, fit, members, levels, rng)
    elif settings.sigma is not None or settings.p0 is not None or settings.rule == "mmt":
        yield _hypotheses(settings, fit, members)
    else:
        a, b, at_cap = settings.alpha, settings.beta, settings.at_cap
        for p0, p1, table in search_wald(
            fit.shuffled(rng).changed, target_fpr=target_fpr, alpha=a, beta=b, max_models=members, at_cap=at_cap
        ):
            yield Candidate(table, p0, p1)


def _fixed(
    kind: EvidenceKind, fit: Evidence, members: int, levels: list[float], rng: np.random.Generator
) -> Iterator[Candidate]:
    """Ask all members, flag what has at least k changes (or more mean evidence than a quantile of clean frames)."""
    if kind == "label":
        for k in range(members, 0, -1):
            yield Candidate(DecisionTable((*[None] * (members - 1), k), (*[None] * (members - 1), k - 1)))
        return
    shuffled = fit.shuffled(rng)
    kinds = None if shuffled.kinds is None else shuffled.kinds[:members]
    open_ = GradedTable((None,) * members, (None,) * members, kinds)
    means = open_.running(shuffled.known()[:, :members])[:, -1]  # summed as the test sums: ties hold
    for level in levels:
        bound = float(np.quantile(means, 1 - level, method="higher"))
        bounds = (*[None] * (members - 1), bound)
        yield Candidate(GradedTable(bounds, bounds, kinds))


def _hypotheses(settings: Settings, fit: Evidence, members: int) -> Candidate:
    """The one test of given p0, p1, or of the papers' construction.

    Raises GateError where no member ever changed a clean label (zeta_h = 0 makes the ratio log 0) or p1 reaches 1.
    """
    p0, p1 = settings.p0, settings.p1
    if p0 is None or p1 is None:
        sigma = 0.1 if settings.sigma is None else settings.sigma
        rates = fit.changed.mean(axis=1)
        zeta = float(rates.mean() + Z_99 * rates.std(ddof=1) / np.sqrt(len(rates)))
        p0, p1 = zeta * (1 - sigma), zeta * (1 + sigma)
        if not 0 < p0 < p1 < 1:
            raise GateError(
                f"the clean label change rate is {zeta:.4f}: sigma = {sigma} gives p0 = {p0:.4f}, p1 = {p1:.4f}, "
                f"outside 0..1; give --p0 and --p1 instead"
            )
    if settings.rule == "mmt":
        return Candidate(compile_mmt(p0, p1, settings.alpha, settings.beta, members), p0, p1)
    return Candidate(compile_wald(p0, p1, settings.alpha, settings.beta, members, settings.at_cap), p0, p1)
