"""What adaptive attackers reached, as data: adaptive.json, and what its Markdown and HTML pages print."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pdtool.artifacts import FileEntry
from pdtool.evaluation.metrics import Mean, Rate

__all__ = [
    "AdaptiveResult",
    "Cell",
    "Check",
    "Curve",
    "Disturbance",
    "Goal",
    "Target",
    "Threat",
    "half_point",
]

Threat = Literal["oblivious", "surrogates", "stolen", "full", "decision", "noise"]
Goal = Literal["alarm", "delay"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attacker at one epsilon. `attacked`: images that torch's original classified correctly; each is attacked
    `attempts` times, and counts once: as the attempt that evades, else one that fools the original, else the first.

    Everything is judged by the exported bundle and the runtime's own screener on the stored images.
    """

    threat: Threat
    surrogates: int | None  # members of the attacker's own
    epsilon: float  # most change of a pixel, pixels in [0, 1]
    steps: int  # gradient steps, or most queries an image
    again: bool  # one more restart alone, to check the others by
    attempts: int
    attacked: int
    fooled: Rate  # the exported original's label is wrong
    evasion: Rate  # ... and the verdict is `clean`
    flagged: Rate  # of those that fool the original
    unscreened: int
    models_used: Mean  # of those that fool the original
    linf: Mean  # of those that evade
    spent: Mean  # decision-only: queries an image
    queries: Mean  # decision-only: queries until it evaded, of those that did
    evaded: tuple[int, ...]  # which images of the data evade
    file: FileEntry  # the attacked images


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """Clean frames changed within epsilon so that they raise an `alarm` or `delay` the verdict, their label kept.

    Epsilon 0: the clean frames themselves. `flagged` counts those with the label kept, out of all; `models_used` is of
    the frames whose label was kept.
    """

    goal: Goal | None
    share: float | None  # of the members that should change the label
    epsilon: float
    steps: int  # 0: the clean frames
    attacked: int
    kept: Rate  # the exported original's label is still the right one
    flagged: Rate  # kept and flagged
    models_used: Mean
    file: FileEntry | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Evasion against epsilon of one attacker: at each epsilon alone, and within it (that or a smaller one)."""

    threat: Threat
    surrogates: int | None
    epsilons: tuple[float, ...]
    fooled: tuple[Rate, ...]
    evasion: tuple[Rate, ...]
    within: tuple[Rate, ...]
    half: (
        float | None
    )  # smallest epsilon with 50 % evasion, between two measured ones by interpolation; None: above all


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that must be so if the attacks work, and whether it is."""

    name: str
    holds: bool
    empty: Literal["saturated", "no success"] | None  # it holds, but tells nothing: all, or none, on either side
    says: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was attacked: pool, bundle and calibration."""

    model: str
    method: str
    recipe: str
    members: int
    bundle_digest: str
    precision: str
    rule: str
    evidence: str
    target_fpr: float
    max_models: int
    surrogates: str | None  # digest of the attacker's own pool
    order: tuple[str, ...]  # members as they were asked


@dataclass(frozen=True, kw_only=True)
class AdaptiveResult:
    """`adaptive.json`. The same seed on the same machine gives the same bytes, in one run or in several."""

    FORMAT: ClassVar[str] = "pdtool.adaptive/1"
    pdtool: str
    command: str
    target: Target
    data: str
    data_fingerprint: str
    images: int
    attacked: int
    seed: int
    steps: int
    targets: int
    restarts: int
    at_once: int
    queries: int
    curves: tuple[Curve, ...]
    disturbances: tuple[Disturbance, ...]
    checks: tuple[Check, ...]
    cells: tuple[Cell, ...]
    fewer: tuple[Disturbance, ...]  # with a fifth of the steps, to check the others by


def half_point(epsilons: tuple[float, ...], shares: tuple[float, ...]) -> float | None:
    """The smallest epsilon with a share of one half, by linear interpolation from (0, 0); None where none reaches it.

    >>> half_point((0.1, 0.2), (0.25, 0.75)), half_point((0.1, 0.2), (0.0, 0.4))
    (0.15, None)
    """
    before = (0.0, 0.0)
    for here in zip(epsilons, shares, strict=True):
        if here[1] >= 0.5:
            part = (0.5 - before[1]) / (here[1] - before[1])
            return round(before[0] + part * (here[0] - before[0]), 6)
        before = here
    return None
