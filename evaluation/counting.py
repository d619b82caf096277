"""From screened frames to the figures of a report: every one a count, a mean or an area with its n and interval."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import FileEntry
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.attacks import Attack
from pdtool.evaluation.chosen import group_of
from pdtool.evaluation.diversity import diversity
from pdtool.evaluation.metrics import auroc_interval, mean_of, rate, threshold_at, tpr_at, worst_per_input
from pdtool.evaluation.results import (
    Asked,
    AttackResult,
    CleanResult,
    Frames,
    Overall,
    Separation,
    WorstCase,
    WrongResult,
)
from pdtool.evaluation.screening import Screened, fooled

__all__ = [
    "FEW",
    "asked_curve",
    "attack_result",
    "clean_result",
    "count_frames",
    "overall",
    "separate",
    "steps_asked",
    "worst_case",
    "wrong_result",
]

FEW = 10  # frames: an attack that fooled the original on fewer is in no mean and is not the worst
Chosen = NDArray[np.bool_]
Floats = NDArray[np.float64]


def count_frames(screened: Screened, chosen: Chosen) -> Frames:
    """What screening made of the chosen frames (N,). What they asked and cost is that of the screened ones alone."""
    judged = chosen & screened.screened
    used = screened.used[judged]
    return Frames(
        count=int(chosen.sum()),
        cleared=rate((screened.screened & ~screened.flagged)[chosen]),
        flagged=rate(screened.flagged[chosen]),
        unscreened=int((~screened.screened[chosen]).sum()),
        models_used=mean_of(used),
        most_models_used=int(used.max(initial=0)),
        cost=mean_of(screened.cost[judged], least=1.0),
        label_change_rate=mean_of(screened.lcr()[chosen], most=1.0),
    )


def separate(clean: Floats, others: Floats) -> Separation:
    """How well scores tell `others` from `clean` frames."""
    passing = [rate(np.asarray(clean > threshold_at(clean, share))) for share in (0.01, 0.05)]
    return Separation(
        auroc=auroc_interval(clean, others),
        tpr_1=tpr_at(clean, others, 0.01),
        tpr_5=tpr_at(clean, others, 0.05),
        fpr_1=passing[0],
        fpr_5=passing[1],
    )


def steps_asked(members: int) -> list[int]:
    """1, 2, 4, 8, ... and all members.

    >>> steps_asked(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({2**k for k in range(members.bit_length()) if 2**k <= members} | {members})


def asked_curve(clean: Screened, attacked: Screened, chosen: Chosen) -> tuple[Asked, ...]:
    """What the first 1, 2, 4, ... members of this session tell the chosen attacked frames from all clean ones."""
    return tuple(
        Asked(
            members=n,
            cost=float(clean.costs[n]),
            lcr=separate(clean.lcr(n), attacked.lcr(n)[chosen]),
            graded=separate(clean.mean_graded(n), attacked.mean_graded(n)[chosen]),
        )
        for n in steps_asked(len(clean.order))
    )


def clean_result(clean: Screened) -> CleanResult:
    """The clean images, wrongly classified ones apart as well."""
    return CleanResult(
        accuracy=rate(~clean.wrong),
        majority=rate(clean.majority == clean.truth),
        every=count_frames(clean, np.ones(len(clean), dtype=bool)),
        right=count_frames(clean, ~clean.wrong),
        wrong=count_frames(clean, clean.wrong),
        diversity=diversity(clean.changed),
    )


def attack_result(
    name: str, attack: Attack, file: FileEntry, given: int, found: Attacked, screened: Screened, clean: Screened
) -> AttackResult:
    """One attack's images, in the torch net (`found`) and through the bundle; `given`: images that it was given."""
    won, right = fooled(screened, clean), ~clean.wrong[screened.source]
    caught = won & screened.flagged
    lcr, graded = screened.lcr()[won], screened.mean_graded()[won]
    return AttackResult(
        name=name,
        spec=attack.spec,
        group=group_of(attack),
        description=attack.description,
        source=attack.source,
        settings=dict(attack.settings),
        file=file,
        given=given,
        attacked=len(found),
        success=rate(found.success),
        lost=int((found.success & ~screened.wrong).sum()),
        wrong_before=int((~right).sum()),
        evaded=rate((won & ~screened.flagged)[right]),
        linf=mean_of(found.linf[won]),
        l2=mean_of(found.l2[won]),
        frames=count_frames(screened, won),
        lcr=separate(clean.lcr(), lcr),
        graded=separate(clean.mean_graded(), graded),
        lcr_right=separate(clean.lcr()[~clean.wrong], lcr),
        asked=asked_curve(clean, screened, won),
        corrected=rate(screened.corrected[caught] == screened.truth[caught]),
        majority=rate((screened.majority == screened.truth)[won]),
        failed_flagged=rate(screened.flagged[right & ~won]),
        diversity=diversity(screened.changed[won]),
    )


def wrong_result(clean: Screened) -> WrongResult:
    """Clean images that the original gets wrong against those that it gets right."""
    lcr, graded, wrong = clean.lcr(), clean.mean_graded(), clean.wrong
    return WrongResult(
        frames=count_frames(clean, wrong),
        lcr=separate(lcr[~wrong], lcr[wrong]),
        graded=separate(graded[~wrong], graded[wrong]),
    )


def worst_case(clean: Screened, attacked: Sequence[Screened]) -> WorstCase:
    """For every image the attack that does best: of all that were attacked, and of those that some attack fooled."""
    right = [~clean.wrong[each.source] for each in attacked]
    won = [fooled(each, clean) for each in attacked]
    stopped = [~(wins & ~each.flagged) for wins, each in zip(won, attacked, strict=True)]
    _, safe = worst_per_input(
        [each.source[of] for each, of in zip(attacked, right, strict=True)],
        [each[of].astype(np.float64) for each, of in zip(stopped, right, strict=True)],
    )
    sources = [each.source[wins] for each, wins in zip(attacked, won, strict=True)]

    def lowest(values: Sequence[Floats]) -> Floats:
        return worst_per_input(sources, [of[wins] for of, wins in zip(values, won, strict=True)])[1]

    caught = lowest([each.flagged.astype(np.float64) for each in attacked])
    lcr, graded = lowest([each.lcr() for each in attacked]), lowest([each.mean_graded() for each in attacked])
    return WorstCase(
        evaded=rate(safe == 0),
        inputs=len(caught),
        caught=rate(caught == 1),
        lcr=separate(clean.lcr(), lcr),
        graded=separate(clean.mean_graded(), graded),
    )


def overall(results: Sequence[AttackResult], evidence: str) -> Overall:
    """Means and the worst over the attacks that fooled the original on at least `FEW` images.

    What evades most is sought among those that were given as many, whether or not they fooled the original.
    """
    enough = [a for a in results if a.frames.count >= FEW]
    tried = [a for a in results if a.evaded.count >= FEW]
    most = max(tried, key=lambda a: a.evaded.share or 0.0, default=None)
    most_evading, most_evaded = (most.name, most.evaded) if most is not None else (None, None)
    if not enough:
        return Overall(
            most_evading=most_evading,
            most_evaded=most_evaded,
            attacks=0,
            too_few=tuple(a.name for a in results),
            mean_auroc=None,
            mean_auroc_graded=None,
            worst=None,
            worst_flagged=None,
            worst_auroc=None,
            worst_area=None,
        )
    areas: Mapping[str, Separation] = {a.name: a.lcr if evidence == "label" else a.graded for a in enough}
    worst = min(enough, key=lambda a: a.frames.flagged.share or 0.0)
    lowest = min(areas, key=lambda name: areas[name].auroc.value or 0.0)
    return Overall(
        most_evading=most_evading,
        most_evaded=most_evaded,
        attacks=len(enough),
        too_few=tuple(a.name for a in results if a not in enough),
        mean_auroc=mean_of(np.array([a.lcr.auroc.value for a in enough], dtype=float)).value,
        mean_auroc_graded=mean_of(np.array([a.graded.auroc.value for a in enough], dtype=float)).value,
        worst=worst.name,
        worst_flagged=worst.frames.flagged,
        worst_auroc=lowest,
        worst_area=areas[lowest].auroc,
    )
