"""What an evaluation found, as data: report.json, and what the HTML and Markdown reports print.

Every figure carries its n and its 95 % interval: `Rate` (share of n frames), `Mean` (over n frames), `Area` (AUROC).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pdtool.artifacts import FileEntry
from pdtool.evaluation.baselines import BaselineResult
from pdtool.evaluation.diversity import Diversity
from pdtool.evaluation.metrics import Area, Mean, Rate
from pdtool.jsonform import JsonValue

__all__ = [
    "Asked",
    "AttackResult",
    "BenignResult",
    "CleanResult",
    "CompareResult",
    "Evaluation",
    "Frames",
    "Group",
    "Machine",
    "Overall",
    "Separation",
    "Subject",
    "WorstCase",
    "WrongResult",
]

Group = Literal["minimal-norm", "weak", "strong", "black-box"]


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
    precision: str
    rule: str
    evidence: str  # what a member says: label, graded or margin (graded, the original's margin weighed in)
    temperatures: Literal["calibrated", "1"]  # of the graded evidence in this report
    target_fpr: float
    confidence: float
    fpr_upper: float
    p0: float | None  # hypotheses of the rules that have such
    p1: float | None
    max_models: int
    calibration_data: str
    calibration_images: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What kind of machine measured."""

    cpu: str
    cores: int
    gpus: tuple[str, ...]
    engines: str  # what ran the bundle's models


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A set of frames through the runtime's screener."""

    count: int
    cleared: Rate
    flagged: Rate
    unscreened: int  # in `count`, and in no figure below but the label change rate
    models_used: Mean  # members asked a screened frame
    most_models_used: int
    cost: Mean  # forward passes of the original a screened frame (MACs)
    label_change_rate: Mean  # all members asked


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well a score tells some frames from clean ones, whatever the calibration says.

    `tpr_1` and `tpr_5`: share of them above the lowest threshold that at most 1 % and 5 % of the clean frames pass
    (`metrics.threshold_at`); `fpr_1` and `fpr_5` are what really passes, less where scores tie.
    """

    auroc: Area
    tpr_1: Rate
    tpr_5: Rate
    fpr_1: Rate
    fpr_5: Rate


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What asking the first `members` of this session's order, and no more, buys: a point of the cost curve."""

    members: int
    cost: float  # forward passes of the original (MACs), its own included
    lcr: Separation
    graded: Separation


@dataclass(frozen=True, kw_only=True)
class CleanResult:
    """Clean images through the exported bundle. Wrongly classified ones stay in `every` and are counted apart.

    The share cleared is the detector's clean accuracy.
    """

    accuracy: Rate  # of the exported original
    majority: Rate  # of the label that most members give
    every: Frames
    right: Frames  # those that the original classifies correctly
    wrong: Frames
    diversity: Diversity  # of the members' label changes


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One attack on the original, and its images through the exported bundle.

    `frames` and everything below it count the attacked images that fool the exported original, which gets their clean
    images right: `success` is judged on the torch net, `lost` of those no longer fool the exported one, and
    `wrong_before` of the images attacked it gets wrong unattacked, so that they count neither way. Scores are told from
    those of every clean image, in `lcr_right` from those of the clean images that the original gets right alone, which
    flatters.
    """

    name: str
    spec: str
    group: Group
    description: str
    source: str
    settings: dict[str, JsonValue]
    file: FileEntry  # in the folder `Evaluation.images`
    given: int  # images the attack was given, evenly over the data
    attacked: int  # of those, images that the original classified correctly
    success: Rate
    lost: int
    wrong_before: int
    evaded: Rate  # wrong label and not flagged, of all images attacked but `wrong_before`
    linf: Mean  # largest change of a pixel, pixels in [0, 1]
    l2: Mean  # Euclidean length of the change
    frames: Frames
    lcr: Separation  # of the label change rate, all members asked
    graded: Separation  # of the mean graded evidence, all members asked
    lcr_right: Separation
    asked: tuple[Asked, ...]
    corrected: Rate  # flagged frames whose corrected label is right
    majority: Rate  # all of `frames`, flagged or not, whose label by the majority of all members is right
    failed_flagged: Rate  # attacked images that do not fool the original, flagged all the same
    diversity: Diversity


@dataclass(frozen=True, kw_only=True)
class WrongResult:
    """Clean images that the original gets wrong, judged like an attack against those that it gets right."""

    frames: Frames
    lcr: Separation
    graded: Separation


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """For each image the attack that does best.

    `evaded` is of every image attacked that the exported original gets right unattacked: an attack at least changed its
    label and was not flagged. The rest is of the `inputs`, those that an attack fooled the original on, flagged or not:
    an attack that is weak and seen adds to them, so that their shares may be better than those of one attack. `caught`:
    every attack that fooled the original on the image was flagged. The scores are the lowest of each image.
    """

    evaded: Rate
    inputs: int
    caught: Rate
    lcr: Separation
    graded: Separation


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Over the attacks that fooled the original on enough images to say something; the others are named.

    `most_evading` is the attack with the largest share `evaded`, of those given enough images.
    """

    most_evading: str | None
    most_evaded: Rate | None
    attacks: int
    too_few: tuple[str, ...]
    mean_auroc: float | None  # of the label change rate
    mean_auroc_graded: float | None
    worst: str | None  # the attack with the smallest share flagged
    worst_flagged: Rate | None
    worst_auroc: str | None  # the attack with the lowest AUROC of the evidence that the calibration counts
    worst_area: Area | None


@dataclass(frozen=True, kw_only=True)
class BenignResult:
    """Frames that nobody attacked and that should be cleared, or are at least no attack: changed or foreign ones.

    `relabelled`: changed frames to which the exported original gives another label than before (None for foreign
    ones). `lcr` tells them from the clean images that the original gets right: 0.5 is what is wanted.
    """

    name: str
    kind: Literal["control", "foreign"]
    spec: str
    description: str
    relabelled: Rate | None
    frames: Frames
    lcr: Separation


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """The same pool exported in another way, on the clean images; its members vote under this bundle's table."""

    bundle: str
    digest: str
    precision: str
    relabelled: Rate  # images to which its original gives another label
    members_relabelled: float  # share of the members' labels that differ
    flagged: Rate
    label_change_rate: Mean


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`report.json`. Everything but `seconds` is the same for the same seed on the same machine."""

    FORMAT: ClassVar[str] = "pdtool.evaluation/3"
    pdtool: str
    command: str  # as it was typed; empty from Python
    machine: Machine
    subject: Subject
    data: str
    data_fingerprint: str
    images: str  # the folder of the attacked images: beside this file, or as it was given
    seed: int
    order: tuple[str, ...]  # in which members were asked
    overall: Overall
    worst_case: WorstCase
    clean: CleanResult
    wrong: WrongResult
    attacks: tuple[AttackResult, ...]
    benign: tuple[BenignResult, ...]
    compared: tuple[CompareResult, ...]
    baselines: tuple[BaselineResult, ...]
    baseline_data: str | None  # what they were fitted on
    whole_pool_cost: float  # runs of the original for a frame that asks every member
    seconds: dict[str, float]  # step -> wall time
