"""Frames that nobody attacked, screened beside the attacked ones: changed, foreign, or run at another precision."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.table import replay, table_of
from pdtool.data import Dataset
from pdtool.decisions import Calibration, Grading
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attacks import Attack
from pdtool.evaluation.controls import CONTROLS, Control, parse_control, run_control, same_norm
from pdtool.evaluation.counting import count_frames, separate
from pdtool.evaluation.metrics import mean_of, rate
from pdtool.evaluation.results import BenignResult, CompareResult
from pdtool.evaluation.screening import Screened, fooled
from pdtool.images import Images
from pdtool.runtime.bundle import OpenBundle, open_bundle
from pdtool.runtime.votes import collect_votes

__all__ = [
    "SAME_NORM",
    "Screen",
    "choose_controls",
    "compare",
    "open_other",
    "screen_control",
    "screen_foreign",
    "screen_same_norm",
]

SAME_NORM = "same-norm"  # the control that is made of what attacks did

Screen = Callable[[str, Images, NDArray[np.int64], NDArray[np.int64]], Screened]  # name, images, truth, source


def choose_controls(texts: Sequence[str]) -> dict[str, Control]:
    """Each control under a name of its own, as attacks have them; "all" is every one with its usual settings.

    `SAME_NORM` is not among them: it needs what attacks made.
    Raises UsageError for an unknown control or one given twice.
    """
    named: dict[str, Control] = {}
    if list(texts).count(SAME_NORM) > 1:
        raise UsageError(f"control {SAME_NORM!r} is given twice; give it once")
    for text in texts:
        if text == SAME_NORM:
            continue
        if text.partition(":")[0] == SAME_NORM:
            raise UsageError(f"control {text!r}: {SAME_NORM} takes no settings, its size is that of each attack")
        for control in map(parse_control, CONTROLS if text == "all" else (text,)):
            if control in named.values():
                if text == "all":
                    continue
                raise UsageError(f"control {text!r} is given twice with the same settings; give it once")
            times = 1 + sum(other.name == control.name for other in named.values())
            named[control.name if times == 1 else f"{control.name}-{times}"] = control
    return named


def screen_control(name: str, control: Control, clean: Screened, screen: Screen, *, seed: int) -> BenignResult:
    """Change the clean images that the exported original gets right as `control` does, and screen them."""
    right = np.flatnonzero(~clean.wrong)
    if len(right) == 0:
        raise InputError("the exported original gets none of the clean images right: nothing to change harmlessly")
    found = screen(name, run_control(clean.images[right], control, seed=seed), clean.truth[right], right)
    return BenignResult(
        name=name,
        kind="control",
        spec=control.spec,
        description=control.description,
        relabelled=rate(found.given != clean.given[right]),
        frames=count_frames(found, np.ones(len(found), dtype=bool)),
        lcr=separate(clean.lcr()[right], found.lcr()),
    )


def screen_same_norm(attack: Attack, attacked: Screened, clean: Screened, screen: Screen, *, seed: int) -> BenignResult:
    """Gaussian noise in place of an attack: on each image that it fooled the original on, as long (L2) as its change.

    Scores are told from those of the same images without noise: an attack may fool the hard ones alone.
    """
    won = fooled(attacked, clean)
    source = attacked.source[won]
    name = f"{SAME_NORM}: {attack.spec}"
    noisy = same_norm(clean.images[source], attacked.images[won], seed=seed)
    found = screen(name, noisy, attacked.truth[won], source)
    return BenignResult(
        name=name,
        kind="control",
        spec=name,
        description="Gaussian noise, on each image as long (L2) as the attack's change",
        relabelled=rate(found.given != clean.given[source]),
        frames=count_frames(found, np.ones(len(found), dtype=bool)),
        lcr=separate(clean.lcr()[source], found.lcr()),
    )


def screen_foreign(data: Dataset, clean: Screened, screen: Screen) -> BenignResult:
    """Screen images of other classes; their labels, if there are any, play no part."""
    nothing = np.full(len(data.images), -1, dtype=np.int64)
    name = f"foreign: {data.spec}"
    found = screen(name, data.images, nothing, np.arange(len(nothing)))
    return BenignResult(
        name=name,
        kind="foreign",
        spec=data.spec,
        description="images of other classes",
        relabelled=None,
        frames=count_frames(found, np.ones(len(found), dtype=bool)),
        lcr=separate(clean.lcr()[~clean.wrong], found.lcr()),
    )


def open_other(folder: Path, opened: OpenBundle) -> OpenBundle:
    """Another export of the same pool. Raises InputError for any other bundle, and what opening it raises."""
    other = open_bundle(folder)
    weights = {model.id: model.weights_sha256 for model in other.models}
    lacks = [model.id for model in opened.models if weights.get(model.id) != model.weights_sha256]
    if lacks or other.bundle.preprocessing != opened.bundle.preprocessing:
        raise InputError(
            f"{folder}: is no other export of the pool of {opened.folder} ({lacks[0] if lacks else 'preprocessing'} "
            f"differs); export that pool again with another --precision"
        )
    return other


def compare(
    other: OpenBundle,
    calibration: Calibration,
    members: Sequence[str],
    clean: Screened,
    advance: Callable[[int], None] = lambda steps: None,
) -> CompareResult:
    """The clean images through another export of the same pool, its members' votes under this bundle's `calibration`.

    `members`: the ids that the calibration's temperatures belong to, in their order.
    """
    ids = [member.id for member in other.bundle.members]
    given = calibration.grading or Grading(temperatures=(1.0,) * len(members))
    scales = dict(zip(members, given.temperatures, strict=True))
    grading = replace(given, temperatures=tuple(scales.get(id, 1.0) for id in ids))
    votes = collect_votes(other, clean.images, grading=grading, advance=advance)
    order = [ids.index(id) for id in clean.order]
    evidence = votes.evidence.of(calibration.evidence)[:, order]
    flagged, _ = replay(table_of(calibration), evidence)
    return CompareResult(
        bundle=str(other.folder),
        digest=other.bundle.digest,
        precision=other.bundle.precision,
        relabelled=rate(votes.original != clean.given),
        members_relabelled=float((votes.members[:, order] != clean.votes).mean()),
        flagged=rate(flagged),
        label_change_rate=mean_of((votes.members[:, order] != votes.original[:, None]).mean(axis=1), most=1.0),
    )
