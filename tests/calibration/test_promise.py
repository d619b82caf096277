"""The promise: after calibration on a few frames, false alarms in use exceed the target no more often than stated."""

import numpy as np
import pytest
from scipy.stats import binom

from pdtool.calibration.bounds import upper_bound
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import CleanFrames, design
from pdtool.calibration.promise import split, walk
from pdtool.calibration.rules import Candidate, Settings
from pdtool.calibration.table import DecisionTable, replay
from pdtool.errors import GateError

POPULATIONS = {
    "beta": lambda rng, n: rng.beta(0.25, 4, n),
    "mixture": lambda rng, n: np.where(rng.random(n) < 0.1, rng.beta(2, 2, n), rng.beta(0.5, 20, n)),
    "a fifth hard": lambda rng, n: np.where(rng.random(n) < 0.2, rng.beta(2, 4, n), rng.beta(0.3, 15, n)),
    "unlike members": lambda rng, n: rng.beta(0.25, 4, n),
}
TARGET, CONFIDENCE, FRAMES, REPETITIONS = 0.15, 0.9, 200, 75


@pytest.fixture(scope="module")
def draw(votes):
    """Clean frames of a population; members of "unlike members" change more or fewer labels than their neighbours."""

    def make(name, frames, members, rng):
        bias = np.linspace(-1, 1, members) if name == "unlike members" else 0.0
        return votes(POPULATIONS[name](rng, frames), members, rng, bias)

    return make


def repeat(draw, settings, members, repetitions, frames=FRAMES):
    """Calibrate and deploy so many times on each population; how often the true rate exceeded the target, and rates.

    The true rate is that on 40,000 other frames, members in random order. Where no test can be promised there is
    nothing to deploy.
    """
    misses, rates = {}, []
    for name in POPULATIONS:
        deployed = draw(name, 40_000, members, rng := np.random.default_rng(999)).shuffled(rng).of(settings.evidence)
        share = np.full(len(deployed), 1 / len(deployed))
        if settings.evidence == "label":
            deployed, count = np.unique(deployed, axis=0, return_counts=True)
            share = count / count.sum()
        misses[name] = 0
        for seed in range(repetitions):
            clean = CleanFrames(
                evidence=draw(name, frames, members, np.random.default_rng(seed)), groups=np.arange(frames)
            )
            checked, _ = design(clean, settings, target_fpr=TARGET, confidence=CONFIDENCE, seed=seed)
            if checked.upper > TARGET:
                continue
            rates.append(float(share @ replay(checked.candidate.table, deployed)[0]))
            misses[name] += rates[-1] > TARGET
    return misses, rates


def no_more_than_stated(misses, repetitions):
    """Within the binomial noise of the experiment itself: 1 in 1000 for all together and for each population."""
    for name, count in misses.items():
        assert count <= binom.ppf(0.999, repetitions, 1 - CONFIDENCE), name
    assert sum(misses.values()) <= binom.ppf(0.999, repetitions * len(misses), 1 - CONFIDENCE)


CASES = {
    "optimal, label": (Settings(), 4),
    "optimal, graded": (Settings(evidence="graded"), 5),
    "wald": (Settings(rule="wald"), 5),
    "fixed, label": (Settings(rule="fixed"), 5),
    "fixed, graded": (Settings(rule="fixed", evidence="graded"), 5),
}


@pytest.mark.parametrize("name", CASES)
def test_false_alarms_in_use_exceed_the_target_no_more_often_than_stated(name, draw):
    """300 times: calibrate on 200 frames at 90 % confidence, deploy. Almost always there is a test, and it is used."""
    settings, members = CASES[name]
    misses, rates = repeat(draw, settings, members, REPETITIONS)
    no_more_than_stated(misses, REPETITIONS)
    assert len(rates) > 0.9 * REPETITIONS * len(POPULATIONS)
    assert np.mean(rates) > TARGET / 3  # not by never flagging anything


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_with_more_members_and_frames(name, draw):
    settings, _ = CASES[name]
    misses, rates = repeat(draw, settings, 12, repetitions := REPETITIONS // 3, frames=500)
    no_more_than_stated(misses, repetitions)
    assert len(rates) == repetitions * len(POPULATIONS)


@pytest.mark.parametrize("settings", [Settings(rule="fixed"), Settings(evidence="graded")])
def test_the_promise_holds_for_tracks_whose_frames_hang_together(settings, votes):
    """40 calibrations at 90 % confidence on 120 tracks of 15 frames that share their difficulty."""

    def tracks(seed, count=120, length=15, members=6):
        rng = np.random.default_rng(seed)
        p = np.where(rng.random(count) < 0.08, rng.beta(3, 3, count), rng.beta(0.5, 30, count))
        return votes(np.repeat(p, length), members, rng), np.repeat(np.arange(count), length)

    deployed = tracks(999, count=2000)[0].of(settings.evidence)
    misses = kept = 0
    for seed in range(40):
        evidence, groups = tracks(seed)
        frames = CleanFrames(evidence=evidence, groups=groups)
        checked, _ = design(frames, settings, target_fpr=0.1, confidence=0.9, seed=seed)
        assert len(np.unique(checked.groups)) == 72
        assert len(checked.groups) == 72 * 15
        if checked.upper <= 0.1:
            kept += 1
            misses += replay(checked.candidate.table, deployed)[0].mean() > 0.1
    assert kept > 20
    assert misses <= binom.ppf(0.999, 40, 0.1)


def at_least(changes, members=4):
    """Ask all, flag what has so many changes."""
    return Candidate(DecisionTable((*[None] * (members - 1), changes), (*[None] * (members - 1), changes - 1)))


def test_the_walk_stops_at_the_first_test_that_fails():
    """However good those behind it are; nothing is tried after it."""
    changed = np.zeros((200, 4), dtype=bool)
    changed[:40, :2] = True  # a fifth of the frames has 2 changes
    tried = []

    def tests():
        for changes in (4, 3, 2, 4):
            tried.append(changes)
            yield at_least(changes)

    checked = walk(tests(), Evidence(changed), "label", np.arange(200), target=0.1, confidence=0.9)
    assert tried == [4, 3, 2]
    assert checked.candidate == at_least(3)
    assert (checked.realised, checked.upper) == (0.0, upper_bound(0, 200, 0.9))
    assert checked.used.tolist() == [4] * 200


def test_where_the_first_test_fails_it_is_the_answer_and_says_why():
    changed = np.zeros((200, 4), dtype=bool)
    changed[:40] = True
    checked = walk([at_least(4), at_least(3)], Evidence(changed), "label", np.arange(200), target=0.1, confidence=0.9)
    assert checked.candidate == at_least(4)
    assert checked.realised == 0.2
    assert checked.upper == upper_bound(40, 200, 0.9) > 0.1
    assert "20.00% of 200 clean check images" in checked.miss(0.1, 0.9)
    assert "at this rate more images cannot show it" in checked.miss(0.1, 0.9)


def test_no_test_at_all_is_a_promise_that_cannot_be_kept():
    with pytest.raises(GateError, match="no test of this rule"):
        walk([], Evidence(np.zeros((30, 2), dtype=bool)), "label", np.arange(30), target=0.1, confidence=0.9)


def test_so_many_images_as_a_miss_asks_for_would_do():
    """The message counts images to fit on and to check on together."""
    frames = np.zeros((30, 4), dtype=bool)
    checked = walk([at_least(4)], Evidence(frames), "label", np.arange(30), target=0.05, confidence=0.95)
    assert "about 99 clean images in all would show it" in checked.miss(0.05, 0.95)
    _, check = split(np.arange(99), seed=0)
    assert upper_bound(0, len(check), 0.95) <= 0.05


def test_split_keeps_groups_together_and_is_seeded():
    groups = np.repeat(np.arange(30), 10)
    fit, check = split(groups, seed=3)
    assert sorted([*fit, *check]) == list(range(300))
    assert not set(groups[fit]) & set(groups[check])
    assert len(fit) == 120
    assert (split(groups, seed=3)[0] == fit).all()
    assert (split(groups, seed=4)[0] != fit).any()
