"""All rules side by side, each calibrated to the same promise on the same frames."""

from dataclasses import dataclass

import numpy as np

from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import CleanFrames, design
from pdtool.calibration.rules import PAPER, Settings
from pdtool.decisions import AtCap, EvidenceKind, Rule
from pdtool.errors import GateError

__all__ = ["Compared", "compare", "every_rule"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One rule on the clean check frames; `why` where it has no test for these frames (the numbers are then None)."""

    name: str
    evidence: EvidenceKind
    realised_fpr: float | None = None
    fpr_upper: float | None = None
    kept: bool = False  # the bound lies within the target
    power: float | None = None
    mean_models: float | None = None
    p99_models: int | None = None
    most_models: int | None = None
    why: str = ""


def every_rule(max_models: int, *, margin: bool) -> dict[str, Settings]:
    """The rules to compare by name, all with as many members at most; `margin`: what graded evidence weighs in."""
    graded = "margin" if margin else "graded"
    named: dict[str, tuple[Rule, EvidenceKind, float | None, AtCap]] = {
        "papers' test, exhausted is adversarial": ("wald", "label", PAPER.sigma, "adversarial"),
        "papers' test, exhausted is clean": ("wald", "label", PAPER.sigma, "clean"),
        "mmt": ("mmt", "label", None, "threshold"),
        "wald": ("wald", "label", None, "threshold"),
        "fixed": ("fixed", "label", None, "threshold"),
        f"fixed, {graded}": ("fixed", "graded", None, "threshold"),
        "optimal": ("optimal", "label", None, "threshold"),
        f"optimal, {graded}": ("optimal", "graded", None, "threshold"),
    }
    return {
        name: Settings(
            rule=rule,
            evidence=evidence,
            margin=margin and evidence == "graded",
            sigma=sigma,
            at_cap=at_cap,
            max_models=max_models,
        )
        for name, (rule, evidence, sigma, at_cap) in named.items()
    }


def compare(
    frames: CleanFrames,
    *,
    max_models: int,
    target_fpr: float,
    confidence: float,
    seed: int,
    attacked: Evidence | None = None,
) -> tuple[Compared, ...]:
    """Every rule calibrated on the frames; graded evidence only where it was recorded. Raises what `design` does."""
    rows = []
    for name, settings in every_rule(max_models, margin=frames.evidence.shift is not None).items():
        if settings.evidence == "graded" and frames.evidence.graded is None:
            continue
        try:
            checked, power = design(
                frames, settings, target_fpr=target_fpr, confidence=confidence, seed=seed, attacked=attacked
            )
        except GateError as error:
            rows.append(Compared(name=name, evidence=settings.evidence, why=str(error)))
            continue
        rows.append(
            Compared(
                name=name,
                evidence=settings.evidence,
                realised_fpr=checked.realised,
                fpr_upper=checked.upper,
                kept=checked.upper <= target_fpr,
                power=power,
                mean_models=float(checked.used.mean()),
                p99_models=int(np.quantile(checked.used, 0.99, method="higher")),
                most_models=int(checked.used.max()),
            )
        )
    return tuple(rows)
