"""Calibration on clean votes: the promise, its failure and degenerate input."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from pdtool.calibration.bounds import rate_bound, source_bound, sources_needed, upper_bound
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import CleanFrames
from pdtool.calibration.fit import calibrate as calibrate_frames
from pdtool.calibration.promise import split
from pdtool.calibration.rules import PAPER, Settings, candidates
from pdtool.errors import GateError, InputError, UsageError


def clean_votes(images, members, seed=0, hard=0.1):
    """Synthetic clean votes: most frames hardly ever change, a share of hard ones often does."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(images) < hard, rng.beta(2, 2, images), rng.beta(0.5, 20, images))
    return rng.random((images, members)) < p[:, None]


def calibrate(changed, **changes):
    frames = CleanFrames(
        evidence=Evidence(changed),
        groups=changes.pop("groups", np.arange(len(changed))),
        wrong=changes.pop("wrong", None),
    )
    settings = changes.pop("settings", Settings(rule="wald"))
    arguments: dict[str, Any] = {
        "target_fpr": 0.1,
        "confidence": 0.95,
        "seed": 0,
        "data": "synthetic",
        "seen": "",
        "models_sha256": "0" * 64,
    } | changes
    return calibrate_frames(frames, settings, **arguments)


def test_a_calibration_keeps_its_promise_and_counts_every_image():
    changed = clean_votes(800, 16)
    wrong = changed.mean(axis=1) > 0.5
    c = calibrate(changed, wrong=wrong)
    assert c.fpr_upper <= c.target_fpr
    assert c.realised_fpr <= c.fpr_upper == upper_bound(c.check_flagged, c.check_images, 0.95)
    assert c.fit_images + c.check_images == 800
    assert 0 < c.check_wrong_flagged <= c.check_wrong <= c.check_images
    assert c.expected_models_clean < 8  # the rule decides early, it does not ask everyone
    assert c == calibrate(changed, wrong=wrong)  # same seed, same calibration
    assert c != calibrate(changed, wrong=wrong, seed=1)


def test_deployed_false_alarms_exceed_the_target_no_more_often_than_stated():
    """120 calibrate-then-deploy runs at 90 % confidence: the true rate is above the target in at most 10 % of them."""
    from pdtool.calibration.table import DecisionTable, replay

    deployed = clean_votes(20_000, 12, seed=999)
    misses = kept = 0
    for seed in range(120):
        try:
            c = calibrate(clean_votes(300, 12, seed=seed), confidence=0.9, seed=seed)
        except GateError:
            continue
        kept += 1
        flagged, _ = replay(DecisionTable(c.flag_at, c.clear_at), deployed)
        misses += flagged.mean() > c.target_fpr
    assert kept > 60
    assert misses <= 0.1 * 120 + 3 * np.sqrt(120 * 0.09)  # binomial noise of the experiment itself


def test_the_promise_holds_for_tracks_whose_frames_hang_together():
    """60 calibrations at 90 % confidence on 120 tracks of 15 frames that share their difficulty."""

    def tracks(seed, count=120, length=15, members=12):
        rng = np.random.default_rng(seed)
        p = np.where(rng.random(count) < 0.08, rng.beta(3, 3, count), rng.beta(0.5, 30, count))
        return rng.random((count * length, members)) < np.repeat(p, length)[:, None], np.repeat(
            np.arange(count), length
        )

    from pdtool.calibration.table import DecisionTable, replay

    deployed, _ = tracks(999, count=4000)
    misses = kept = 0
    for seed in range(60):
        changed, groups = tracks(seed)
        try:
            c = calibrate(changed, groups=groups, confidence=0.9, seed=seed)
        except GateError:
            continue
        kept += 1
        assert (c.check_groups, c.check_images) == (72, 72 * 15)
        misses += replay(DecisionTable(c.flag_at, c.clear_at), deployed)[0].mean() > c.target_fpr
    assert kept > 30
    assert misses <= 0.1 * 60 + 3 * np.sqrt(60 * 0.09)


def test_a_target_out_of_reach_says_how_many_images_are_needed():
    with pytest.raises(GateError, match=r"at this rate about \d+ clean images in all would show it"):
        calibrate(np.zeros((60, 8), dtype=bool), target_fpr=0.01)
    with pytest.raises(GateError, match="more images cannot help"):
        calibrate(np.ones((400, 8), dtype=bool))


def test_accept_miss_stores_what_was_measured():
    c = calibrate(np.ones((100, 8), dtype=bool), accept_miss=True)
    assert c.realised_fpr == 1.0 == c.fpr_upper


def test_no_changes_anywhere_is_a_good_pool():
    c = calibrate(np.zeros((200, 8), dtype=bool))
    assert c.realised_fpr == 0
    assert c.clean_lcr == 0


def test_one_member_is_enough_to_decide():
    c = calibrate(clean_votes(400, 1, hard=0.0), target_fpr=0.2)
    assert c.max_models == 1
    assert c.flag_at[0] is not None or c.clear_at[0] == 1


def papers(changed):
    rng = np.random.default_rng(0)
    return candidates(PAPER, Evidence(changed), Evidence(changed), measured=False, target_fpr=0.1, rng=rng)


def test_the_papers_setting():
    changed = clean_votes(600, 100, hard=0.2)
    (candidate,) = papers(changed)
    rates = changed.mean(axis=1)
    zeta = rates.mean() + 2.5758293035489004 * rates.std(ddof=1) / np.sqrt(600)
    assert candidate.p0 == pytest.approx(0.9 * zeta)
    assert candidate.p1 == pytest.approx(1.1 * zeta)
    with pytest.raises(GateError, match="label change rate is 0.0000"):
        list(papers(np.zeros((50, 8), dtype=bool)))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"target_fpr": 0.0}, UsageError, "between 0 and 1"),
        ({"target_fpr": 1.0}, UsageError, "between 0 and 1"),
        ({"confidence": float("nan")}, UsageError, "between 0 and 1"),
        ({"groups": np.zeros(200, dtype=np.int64)}, InputError, "1 sources, too few to split"),
        ({"settings": Settings(rule="wald", p0=0.5, p1=0.2)}, UsageError, "p0 < p1"),
    ],
)
def test_degenerate_input(changes, error, says):
    with pytest.raises(error, match=says):
        calibrate(clean_votes(200, 8), **changes)


def test_too_few_images():
    with pytest.raises(InputError, match="at least 20"):
        calibrate(clean_votes(19, 8))


@pytest.mark.parametrize("bad", [{"sigma": -0.1}, {"sigma": 1.5}, {"p0": 0.1}, {"p0": 0.1, "p1": 0.2, "sigma": 0.1}])
def test_settings_that_contradict(bad):
    with pytest.raises(UsageError):
        Settings(rule="wald", **bad)


def test_split_keeps_groups_together():
    groups = np.repeat(np.arange(30), 10)
    fit, check = split(groups, seed=3)
    assert sorted([*fit, *check]) == list(range(300))
    assert not set(groups[fit]) & set(groups[check])


def test_bounds():
    assert upper_bound(0, 0, 0.95) == 1.0
    assert upper_bound(5, 5, 0.95) == 1.0
    n = sources_needed(0.02, 0.05, 0.95)
    assert n is not None
    assert upper_bound(int(np.ceil(0.02 * n)), n, 0.95) <= 0.05
    assert sources_needed(0.05, 0.05, 0.95) is None
    with pytest.raises(ValueError, match="events"):
        upper_bound(3, 2, 0.9)
    events = np.array([True, False, False, False])
    assert rate_bound(events, np.arange(4), 0.9) == upper_bound(1, 4, 0.9)
    assert rate_bound(events, np.array([0, 0, 1, 1]), 0.9) == source_bound(0.25, 2, 0.9)  # mean of 1/2 and 0


@pytest.mark.parametrize("sources", [5, 40])
def test_the_bound_over_sources_covers_the_truth(sources):
    """Numbers in [0, 1] of any shape: the bound at 90 % lies below their expectation in at most 10 % of the draws."""
    rng = np.random.default_rng(0)
    for draw, truth in (
        (lambda n: rng.random(n) < 0.1, 0.1),
        (lambda n: rng.beta(0.2, 1.8, n), 0.1),
        (lambda n: np.where(rng.random(n) < 0.05, 1.0, 0.05), 0.0975),
    ):
        below = np.mean([source_bound(float(np.mean(draw(sources))), sources, 0.9) < truth for _ in range(300)])
        assert below <= 0.1 + 3 * np.sqrt(0.09 / 300)


def test_a_calibration_survives_json():
    from pdtool.decisions import Calibration
    from pdtool.jsonform import decode, encode

    c = calibrate(clean_votes(300, 8))
    assert decode(Calibration, encode(c), file="x") == c
    broken = encode(c) | {"flag_at": [9] * 8}
    with pytest.raises(InputError, match="0..1"):
        decode(Calibration, broken, file="x")
    with pytest.raises(ValueError, match="decide every count"):
        dataclasses.replace(c, flag_at=(None,) * 8, clear_at=(None,) * 8)
