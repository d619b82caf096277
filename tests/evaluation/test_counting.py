"""Counting by hand, frame by frame: an exported original's own mistakes, and the worst attack of each image."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pdtool.artifacts import FileEntry
from pdtool.decisions import Verdict
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.attacks import parse_attack
from pdtool.evaluation.counting import attack_result, count_frames, overall, worst_case
from pdtool.evaluation.results import AttackResult
from pdtool.evaluation.screening import Screened, fooled

IMAGES = 40  # every fifth one is labelled wrongly by the exported original alone
MEMBERS = 5


def _screened(name: str, given: NDArray[np.int64], source: NDArray[np.int64], flagged: NDArray[np.bool_]) -> Screened:
    """The true label of image i is i % 3; members vote at random."""
    count = len(given)
    rng = np.random.default_rng(len(name))
    verdict = Verdict(
        frame=0, source=name, time=0.0, label="0", verdict="clean", models_used=1, changes=0, evidence=0.0,
        corrected_label=None, latency_ms=1.0,
    )  # fmt: skip
    return Screened(
        name=name,
        images=np.zeros((count, 1, 1, 1), dtype=np.float32),
        truth=source % 3,
        source=source,
        verdicts=(verdict,) * count,
        given=given,
        order=tuple(f"m{i}" for i in range(MEMBERS)),
        kinds=None,
        votes=rng.integers(0, 3, (count, MEMBERS)),
        graded=rng.random((count, MEMBERS)),
        evidence="label",
        costs=1 + 0.5 * np.arange(MEMBERS + 1, dtype=np.float64),
        flagged=flagged,
        screened=np.ones(count, dtype=bool),
        corrected=np.full(count, -1),
        used=rng.integers(1, MEMBERS + 1, count),
    )


@pytest.fixture
def clean() -> Screened:
    source = np.arange(IMAGES)
    return _screened("clean", (source + (source % 5 == 0)) % 3, source, np.zeros(IMAGES, dtype=bool))


def _attack(name: str, seed: int, source: NDArray[np.int64], wins: float, seen: float) -> Screened:
    rng = np.random.default_rng(seed)
    given = (source + (rng.random(len(source)) < wins)) % 3
    return _screened(name, given, source, rng.random(len(source)) < seen)


def _result(of: Screened, clean: Screened) -> AttackResult:
    found = Attacked(
        images=np.zeros((len(of), 1, 1, 1), dtype=np.float32),
        labels=of.truth,
        given=of.given,
        success=of.wrong,
        source=of.source,
        linf=np.ones(len(of)),
        l2=np.ones(len(of)),
        provenance={},
    )
    file = FileEntry(path="a.npz", bytes=1, sha256="a" * 64)
    return attack_result(of.name, parse_attack(of.name), file, IMAGES, found, of, clean)


def test_what_the_export_gets_wrong_by_itself_is_no_success(clean: Screened) -> None:
    unchanged = _result(replace(clean, name="fgsm"), clean)  # an attack that does nothing at all
    assert unchanged.wrong_before == 8 and unchanged.frames.count == 0
    assert (unchanged.evaded.events, unchanged.evaded.count) == (0, 32)
    assert unchanged.failed_flagged.count == 32
    of = _attack("pgd", 1, np.arange(0, IMAGES, 2), 0.8, 0.3)
    won = [of.given[k] != i % 3 and i % 5 != 0 for k, i in enumerate(of.source)]
    assert fooled(of, clean).tolist() == won and sum(won) < of.wrong.sum()
    result = _result(of, clean)
    assert result.frames.count == sum(won) and result.wrong_before == 4
    evaded = [wins and not flag for wins, flag in zip(won, of.flagged, strict=True)]
    assert (result.evaded.events, result.evaded.count) == (sum(evaded), 16)


def test_the_worst_case_is_never_better_than_one_attack(clean: Screened) -> None:
    """One attack fools seldom and is never seen; a second one fools always and always is."""
    everything = np.arange(IMAGES)
    unseen, seen = _attack("pgd", 2, everything, 0.3, 0.0), _attack("fgsm", 3, everything, 1.0, 1.0)
    both, alone = worst_case(clean, [unseen, seen]), worst_case(clean, [unseen])
    assert both.inputs == 32 and both.caught.share is not None and alone.caught.share == 0.0
    assert both.caught.share > 0.5  # looks better than `alone`, though the attacker lost nothing
    assert both.evaded == alone.evaded == _result(unseen, clean).evaded and both.evaded.count == 32


@pytest.mark.parametrize("seed", range(4))
def test_the_worst_attack_of_each_image_by_hand(clean: Screened, seed: int) -> None:
    sources = (np.arange(IMAGES), np.arange(0, 30, 2), np.arange(20, 40, 3))
    sets = [_attack(name, 10 * seed + k, s, 0.5, 0.5) for k, (name, s) in enumerate(zip("abc", sources, strict=True))]
    past: dict[int, bool] = {}
    scores: dict[int, float] = {}
    caught: dict[int, bool] = {}
    for of in sets:
        for k, i in enumerate(of.source.tolist()):
            if i % 5 == 0:
                continue
            wins = bool(of.given[k] != i % 3)
            past[i] = past.get(i, False) or (wins and not of.flagged[k])
            if wins:
                scores[i] = min(scores.get(i, 1.0), float((of.votes[k] != of.given[k]).mean()))
                caught[i] = caught.get(i, True) and bool(of.flagged[k])
    worst = worst_case(clean, sets)
    assert (worst.evaded.events, worst.evaded.count) == (sum(past.values()), len(past))
    assert (worst.caught.events, worst.inputs) == (sum(caught.values()), len(caught))
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in scores.values() for y in clean.lcr()]
    assert worst.lcr.auroc.value == pytest.approx(np.mean(pairs))


def test_what_evades_most_is_sought_among_attacks_that_were_given_enough(clean: Screened) -> None:
    everything = np.arange(IMAGES)
    weak, strong = _attack("fgsm", 5, everything, 0.4, 0.0), _attack("pgd", 6, everything, 1.0, 0.1)
    few = _attack("deepfool", 7, np.arange(1, 5), 1.0, 0.0)
    results = [_result(of, clean) for of in (weak, strong, few)]
    found = overall(results, "label")
    assert found.most_evading == "pgd" and found.most_evaded == results[1].evaded
    assert overall([results[2]], "label").most_evading is None
    failed = overall([_result(replace(clean, name="bim"), clean)], "label")  # fooled nothing: no mean, yet it evaded 0
    assert failed.attacks == 0 and failed.most_evaded is not None and failed.most_evaded.share == 0.0


def test_unscreened_frames_are_counted_apart(clean: Screened) -> None:
    lost = np.arange(IMAGES) < 10
    partly = replace(clean, screened=~lost, used=np.where(lost, 0, clean.used))
    frames = count_frames(partly, np.arange(IMAGES) < 20)
    assert (frames.count, frames.unscreened, frames.models_used.count, frames.cost.count) == (20, 10, 10, 10)
    assert frames.models_used.value == clean.used[10:20].mean() and frames.flagged.count == 20
    nothing = count_frames(partly, lost)
    assert nothing.models_used.value is None and nothing.most_models_used == 0
