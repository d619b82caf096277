"""What decides and what was decided: the calibration of a bundle and the verdict on a frame, as frozen data.

Calibration  calibration -> runtime              calibration.json
Verdict      runtime -> cli, evaluation          one JSON object a line
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pdtool.artifacts import BACKENDS, Kind, check_rate

__all__ = ["AtCap", "Calibration", "Decision", "EvidenceKind", "Grading", "Rule", "Verdict"]

AtCap = Literal["adversarial", "clean", "threshold"]
Decision = Literal["clean", "adversarial", "unscreened"]
EvidenceKind = Literal["label", "graded"]
Rule = Literal["optimal", "wald", "fixed", "mmt"]


@dataclass(frozen=True, kw_only=True)
class Grading:
    """How logits become graded evidence: the members' temperatures (M,), and what the original's own margin adds.

    A member's log-odds against the original's label, its logits divided by its temperature, plus `weight` x what the
    margin exceeds `knee` by, as a probability. The margin is the original's: by how many logits its label leads. With
    weight 0 the evidence is 1 - the member's probability of the label.
    """

    temperatures: tuple[float, ...]
    weight: float = 0.0
    knee: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`calibration.json`: the sequential test as a table, and what was measured of it on clean data.

    Entry n-1 is for n members asked, None where that many cannot decide. With `label` evidence `flag_at` is the
    smallest number of label changes that flags, `clear_at` the largest that clears. With `graded` evidence a mean
    evidence above `flag_above` flags, one of at most `clear_below` clears. In a mixed pool that is the largest of the
    kinds' means (`kinds`). The last entry always decides.
    """

    FORMAT: ClassVar[str] = "pdtool.calibration/1"
    rule: Rule
    evidence: EvidenceKind
    target_fpr: float
    confidence: float
    p0: float | None  # `wald` and `mmt`: label change rates of clean and of adversarial frames
    p1: float | None
    alpha: float | None  # `wald` and `mmt`: nominal errors
    beta: float | None
    at_cap: AtCap | None  # `wald`: what decides frames that the last member leaves open
    after_change: bool  # `mmt`: entries before the last count only when the last member changed the label
    max_models: int
    flag_at: tuple[int | None, ...] | None
    clear_at: tuple[int | None, ...] | None
    flag_above: tuple[float | None, ...] | None
    clear_below: tuple[float | None, ...] | None
    temperatures: tuple[float, ...] | None  # of the members, in the bundle's order, for graded evidence
    margin_weight: float = 0.0  # of the original's margin in graded evidence (`Grading`)
    margin_knee: float = 0.0
    kinds: tuple[Kind, ...] | None = None  # of a mixed pool, graded evidence: entry n-1 of the n-th member asked
    adversarial: Literal["assumed", "measured"]  # what the test was designed against, and `power` belongs to
    power: float  # share of those adversarial frames that it flags
    clean_lcr: float  # mean label change rate of the clean images it was fitted on (zeta_h)
    realised_fpr: float  # share of clean check frames flagged, wrongly classified ones included
    fpr_upper: float  # one-sided upper bound at `confidence` (`pdtool.calibration.bounds.rate_bound`)
    expected_models_clean: float  # mean members asked for a clean check frame
    p99_models_clean: int  # 99 of 100 clean check frames need at most that many
    models_clean: tuple[float, ...]  # entry n-1: share of clean check frames that ask exactly n members
    fit_images: int
    check_images: int
    check_groups: int  # independent sources (tracks, stretches of a video) that the check images come from
    check_flagged: int
    check_wrong: int | None  # check frames the original classifies wrongly (None: unlabelled data)
    check_wrong_flagged: int | None  # how many of those were flagged
    data: str
    seen: str  # base64 of the `pixel_hashes` of the images used, so that an evaluation on them is noticed
    models_sha256: str  # the files it was measured on (`pdtool.runtime.bundle.models_digest`)
    engines: str  # what ran them (`pdtool.runtime.providers.Provider.engines`)

    def __post_init__(self) -> None:
        for name in ("target_fpr", "confidence", "realised_fpr", "fpr_upper", "clean_lcr", "power"):
            check_rate(name, getattr(self, name))
        if self.engines.split(" ")[0] not in BACKENDS:
            raise ValueError(f"engines should begin with one of {', '.join(BACKENDS)}, is {self.engines!r}")
        for name in ("p0", "p1", "alpha", "beta"):
            if getattr(self, name) is not None:
                check_rate(name, getattr(self, name))
        if self.p0 is not None and self.p1 is not None and not self.p0 < self.p1:
            raise ValueError(f"p0 should lie below p1, they are {self.p0} and {self.p1}")
        if self.after_change and self.evidence != "label":
            raise ValueError("after_change belongs to label evidence")
        if self.evidence == "label":
            _check_absent(self.flag_above, self.clear_below, self.temperatures)
            _check_absent(self.kinds)
            if self.margin_weight or self.margin_knee:
                raise ValueError("a margin belongs to graded evidence")
            _check_counts(self.max_models, *_given(self.flag_at, self.clear_at, "flag_at and clear_at"))
        else:
            _check_absent(self.flag_at, self.clear_at)
            _check_means(self.max_models, *_given(self.flag_above, self.clear_below, "flag_above and clear_below"))
            scales = self.temperatures or ()
            if len(scales) < self.max_models or not all(1e-3 <= scale <= 1e3 for scale in scales):
                raise ValueError("graded evidence needs a temperature from 0.001 to 1000 for every member")
            if not 0 <= self.margin_weight <= 1e3 or not 0 <= self.margin_knee <= 1e6:
                raise ValueError("margin_weight should lie in 0..1000 and margin_knee in 0..1e6")
            if self.kinds is not None and len(self.kinds) != self.max_models:
                raise ValueError(f"kinds should be those of max_models = {self.max_models} members")
        if len(self.models_clean) != self.max_models or abs(sum(self.models_clean) - 1) > 1e-3:
            raise ValueError(f"models_clean should be max_models = {self.max_models} shares that sum to 1")

    @property
    def counts(self) -> str:
        """What a member says, in a word: label, graded, or margin (graded, with the original's margin weighed in)."""
        return "margin" if self.margin_weight else self.evidence

    @property
    def grading(self) -> Grading | None:
        """How members' logits become graded evidence; None for label evidence."""
        if self.temperatures is None:
            return None
        return Grading(temperatures=self.temperatures, weight=self.margin_weight, knee=self.margin_knee)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was decided about one frame.

    `label` is the original's class name (None when no model ran); `changes` of the `models_used` members asked
    disagreed; `evidence` is the mean of what they said (label change rate, or graded evidence; in a mixed pool the
    largest of the kinds' means); `corrected_label` is the most frequent label among them for a flagged frame. An
    `unscreened` frame carries a `reason` and promises nothing; so does one that was decided early because its time ran
    out.
    """

    frame: int
    source: str
    time: float  # Unix seconds at which the frame was taken in
    label: str | None
    verdict: Decision
    models_used: int
    changes: int
    evidence: float | None
    corrected_label: str | None
    latency_ms: float
    reason: str | None = None


def _given(
    flag: Sequence[float | None] | None, clear: Sequence[float | None] | None, names: str
) -> tuple[Sequence[float | None], Sequence[float | None]]:
    if flag is None or clear is None:
        raise ValueError(f"this evidence needs {names}")
    return flag, clear


def _check_absent(*fields: object) -> None:
    if any(field is not None for field in fields):
        raise ValueError("a field of the other kind of evidence is given")


def _check_counts(most: int, flags: Sequence[float | None], clears: Sequence[float | None]) -> None:
    if not (1 <= most == len(flags) == len(clears)):
        raise ValueError(f"flag_at and clear_at should have max_models = {most} entries each")
    for n, (flag, clear) in enumerate(zip(flags, clears, strict=True), start=1):
        if (flag is not None and not 0 <= flag <= n) or (clear is not None and not 0 <= clear <= n):
            raise ValueError(f"flag_at and clear_at for {n} models should lie in 0..{n}")
        if flag is not None and clear is not None and clear >= flag:
            raise ValueError(f"clear_at should lie below flag_at for {n} models")
    flag, clear = flags[-1], clears[-1]
    if (most + 1 if flag is None else flag) != (-1 if clear is None else clear) + 1:
        raise ValueError("the last entries of flag_at and clear_at should decide every count")


def _check_means(most: int, flags: Sequence[float | None], clears: Sequence[float | None]) -> None:
    if not (1 <= most == len(flags) == len(clears)):
        raise ValueError(f"flag_above and clear_below should have max_models = {most} entries each")
    for n, (flag, clear) in enumerate(zip(flags, clears, strict=True), start=1):
        for value in (flag, clear):
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"flag_above and clear_below for {n} models should lie in -1..1")
        if flag is not None and clear is not None and clear > flag:
            raise ValueError(f"clear_below should not exceed flag_above for {n} models")
    if flags[-1] is None or flags[-1] != clears[-1]:
        raise ValueError("the last entries of flag_above and clear_below should be the same number")
