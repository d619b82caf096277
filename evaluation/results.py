"""What an evaluation found, as data: report.json, and what the HTML and Markdown reports print."""

from dataclasses import dataclass
from typing import ClassVar

from pdtool.artifacts import FileEntry
from pdtool.evaluation.diversity import Diversity
from pdtool.evaluation.metrics import Rate
from pdtool.jsonform import JsonValue

__all__ = ["AttackResult", "CleanResult", "Evaluation", "Subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was evaluated: the pool, the bundle made of it and its calibration."""

    model: str
    method: str
    rate: float
    members: int
    original_accuracy: float  # on the pool's held-out images
    original_macs: int
    member_macs: float  # mean
    bundle_digest: str
    rule: str
    evidence: str  # what a member says: label or graded
    target_fpr: float
    confidence: float
    fpr_upper: float
    p0: float | None  # hypotheses of the rules that have such
    p1: float | None
    max_models: int
    calibration_data: str
    calibration_images: int


@dataclass(frozen=True, kw_only=True)
class CleanResult:
    """Clean images through the exported bundle. Wrongly classified ones stay in `flagged` and are counted apart."""

    images: int
    accuracy: Rate
    flagged: Rate
    right_flagged: Rate  # of those that the original classifies correctly
    wrong_flagged: Rate  # of those that it does not
    unscreened: int
    models_used: float | None  # mean a frame
    most_models_used: int
    cost: float | None  # mean a frame, in runs of the original (MACs)
    label_change_rate: float | None  # mean, all members asked
    diversity: Diversity  # of the members' label changes


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One attack on the original, and its images through the exported bundle.

    `flagged` and everything below it count the attacked images that fool the exported original: `success` is judged
    on the torch net, `lost` of those no longer fool the exported one. A flagged frame's `corrected` label is right.
    """

    name: str
    spec: str
    description: str
    source: str
    settings: dict[str, JsonValue]
    file: FileEntry
    attacked: int  # images that the original classified correctly
    success: Rate
    lost: int
    linf: float | None  # mean largest change of a pixel, pixels in [0, 1]
    l2: float | None  # mean Euclidean length of the change
    flagged: Rate
    auroc: float | None  # of the mean evidence of all members, against every clean image
    corrected: Rate  # of the flagged ones
    failed_flagged: Rate  # attacked images that do not fool the original, flagged all the same
    unscreened: int
    models_used: float | None
    most_models_used: int
    cost: float | None
    label_change_rate: float | None
    diversity: Diversity


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`report.json`. Everything but `seconds` is the same for the same seed on the same machine."""

    FORMAT: ClassVar[str] = "pdtool.evaluation/1"
    pdtool: str
    subject: Subject
    data: str
    data_fingerprint: str
    seed: int
    clean: CleanResult
    attacks: tuple[AttackResult, ...]
    whole_pool_cost: float  # runs of the original for a frame that asks every member
    seconds: dict[str, float]  # step -> wall time
