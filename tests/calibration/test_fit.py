"""From clean frames to a calibration: what is counted, what is refused, and degenerate input under every rule."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from pdtool.calibration.bounds import upper_bound
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import CleanFrames
from pdtool.calibration.fit import calibrate as calibrate_frames
from pdtool.calibration.promise import split
from pdtool.calibration.rules import PAPER, Settings
from pdtool.calibration.table import replay, table_of
from pdtool.decisions import Calibration, Grading
from pdtool.errors import GateError, InputError, PdtoolError, UsageError

RULES = {
    "optimal, label": Settings(),
    "optimal, graded": Settings(evidence="graded"),
    "optimal, label, one member on average": Settings(mean_models=1.0),
    "optimal, graded, one member on average": Settings(evidence="graded", mean_models=1.0),
    "optimal, label, at most one": Settings(max_models=1),
    "optimal, graded, at most one": Settings(evidence="graded", max_models=1),
    "wald": Settings(rule="wald"),
    "wald, given": Settings(rule="wald", p0=0.1, p1=0.5),
    "wald, papers": PAPER,
    "fixed, label": Settings(rule="fixed"),
    "fixed, graded": Settings(rule="fixed", evidence="graded"),
    "mmt": Settings(rule="mmt"),
}


def clean_votes(images, members, seed=0, hard=0.1):
    """Synthetic clean votes: most frames hardly ever change, a share of hard ones often does."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(images) < hard, rng.beta(2, 2, images), rng.beta(0.5, 20, images))
    return rng.random((images, members)) < p[:, None]


def calibrate(evidence, **changes):
    evidence = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
    frames = CleanFrames(
        evidence=evidence,
        groups=changes.pop("groups", np.arange(len(evidence))),
        wrong=changes.pop("wrong", None),
        grading=Grading(temperatures=(1.0,) * evidence.changed.shape[1]),
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
    assert c.expected_models_clean <= c.p99_models_clean <= c.max_models
    assert c == calibrate(changed, wrong=wrong)  # same seed, same calibration
    assert c != calibrate(changed, wrong=wrong, seed=1)


def test_what_is_measured_belongs_to_the_check_part_alone():
    """Other votes on the check part change what is measured there, not the mean of the fit part."""
    changed = clean_votes(400, 8)
    fit, check = split(np.arange(400), seed=0)
    c = calibrate(changed, settings=Settings(rule="fixed"))
    assert c.clean_lcr == pytest.approx(changed[fit].mean())
    worse = changed.copy()
    worse[check[:100]] = True
    d = calibrate(worse, settings=Settings(rule="fixed"), accept_miss=True)
    assert d.clean_lcr == c.clean_lcr
    assert d.realised_fpr > c.realised_fpr


@pytest.mark.parametrize("name", ["optimal, label", "optimal, graded", "wald", "fixed, graded"])
def test_the_check_part_does_not_shape_the_test(name):
    """With check frames that differ, all of them easy enough for every test to pass, the same test comes out."""
    changed = clean_votes(600, 6, hard=0.2)
    graded = np.where(changed, 0.9, 0.1) + np.random.default_rng(0).random((600, 6)) * 0.1
    _, check = split(np.arange(600), seed=0)
    changed[check], graded[check] = False, 0.05
    easy = Evidence(changed.copy(), graded.copy())
    changed[check[:10]], graded[check[:10]] = True, 1.0
    one, two = (calibrate(votes, settings=RULES[name], target_fpr=0.4) for votes in (easy, Evidence(changed, graded)))
    assert table_of(one) == table_of(two)
    assert one.check_flagged == 0 < two.check_flagged


def test_measured_adversarial_frames_replace_the_assumed_ones():
    changed = clean_votes(600, 8)
    weak = Evidence(np.random.default_rng(1).random((300, 8)) < 0.35)
    assumed, measured = calibrate(changed), calibrate(changed, attacked=weak)
    assert (assumed.adversarial, measured.adversarial) == ("assumed", "measured")
    assert measured.power < assumed.power - 0.1
    flagged, _ = replay(table_of(measured), weak.shuffled(np.random.default_rng(2)).changed)
    assert measured.power == pytest.approx(flagged.mean(), abs=0.1)


def test_optimal_designs_for_the_adversarial_frames_it_is_given():
    """The table for weak attacks catches more of them than the table for those that are assumed."""
    changed = clean_votes(1000, 8, hard=0.02)
    weak = np.random.default_rng(1).random((2000, 8)) < 0.35
    tables = [
        table_of(calibrate(changed, settings=Settings(), attacked=attacked)) for attacked in (None, Evidence(weak))
    ]
    power = [replay(table, weak)[0].mean() for table in tables]
    assert power[1] >= power[0]
    assert tables[0] != tables[1]


def test_a_target_out_of_reach_says_how_many_images_are_needed():
    with pytest.raises(GateError, match=r"at this rate about \d+ clean images in all would show it"):
        calibrate(np.zeros((60, 8), dtype=bool), target_fpr=0.01)
    with pytest.raises(GateError, match="at this rate more images cannot show it"):
        calibrate(np.ones((400, 8), dtype=bool))


def test_accept_miss_stores_what_was_measured():
    c = calibrate(np.ones((100, 8), dtype=bool), accept_miss=True)
    assert c.realised_fpr == 1.0 == c.fpr_upper


@pytest.mark.parametrize("name", [name for name in RULES if "papers" not in name and name != "mmt"])
def test_no_changes_anywhere_is_a_good_pool(name):
    """Nothing is flagged and attacks still are; the papers' rules have no hypotheses then (`test_rules`)."""
    evidence = Evidence(np.zeros((300, 8), dtype=bool), np.random.default_rng(0).random((300, 8)) * 0.05)
    c = calibrate(evidence, settings=RULES[name])
    assert c.realised_fpr <= 0.1
    assert c.clean_lcr == 0
    assert c.power > 0.7


@pytest.mark.parametrize("name", ["optimal, label", "optimal, graded", "wald", "fixed, label", "fixed, graded"])
def test_one_member_is_enough_to_decide(name):
    changed = clean_votes(400, 1, hard=0.0)
    graded = np.where(changed, 0.8, 0.1) + np.random.default_rng(0).random((400, 1)) * 0.1
    c = calibrate(Evidence(changed, graded), target_fpr=0.2, settings=RULES[name])
    assert c.max_models == 1 == c.p99_models_clean
    assert c.power > 0.5


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"target_fpr": 0.0}, UsageError, "between 0 and 1"),
        ({"target_fpr": 1.0}, UsageError, "between 0 and 1"),
        ({"target_fpr": -0.1}, UsageError, "between 0 and 1"),
        ({"target_fpr": float("nan")}, UsageError, "between 0 and 1"),
        ({"confidence": 0.0}, UsageError, "between 0.5 and 1"),
        ({"confidence": 1.0}, UsageError, "between 0.5 and 1"),
        ({"confidence": float("nan")}, UsageError, "between 0.5 and 1"),
        ({"groups": np.zeros(200, dtype=np.int64)}, InputError, "1 sources, too few to split"),
        ({"groups": np.arange(200) // 100}, InputError, "2 sources, too few to split"),
    ],
)
def test_impossible_input_is_refused_in_one_line(changes, error, says):
    with pytest.raises(error, match=says) as caught:
        calibrate(clean_votes(200, 8), **changes)
    assert "\n" not in str(caught.value)


def test_too_few_images():
    with pytest.raises(InputError, match="at least 20"):
        calibrate(clean_votes(19, 8))
    with pytest.raises(InputError, match="at least 20"):
        calibrate(np.zeros((0, 8), dtype=bool))


def test_votes_that_do_not_fit_together():
    changed = clean_votes(100, 4)
    for attacked in (np.zeros((30, 2), dtype=bool), np.zeros((30, 5), dtype=bool), np.zeros((0, 4), dtype=bool)):
        with pytest.raises(InputError, match="the same 4 members"):
            calibrate(changed, attacked=Evidence(attacked))
    with pytest.raises(InputError, match="at least 1 member"):
        calibrate(np.zeros((100, 0), dtype=bool))


def odd_evidence(kind, frames, members):
    """Evidence that real pools give only when something is odd."""
    rng = np.random.default_rng(0)
    shape = (frames, members)
    changed = rng.random(shape) < 0.1
    alike = np.repeat(changed[:, :1], members, axis=1)
    every_other = np.tile(np.arange(members) % 2 == 0, (frames, 1))
    return {
        "no changes": lambda: Evidence(np.zeros(shape, dtype=bool), rng.random(shape) * 0.4),
        "no changes, no doubt": lambda: Evidence(np.zeros(shape, dtype=bool), np.zeros(shape)),
        "all changed": lambda: Evidence(np.ones(shape, dtype=bool), 0.5 + rng.random(shape) * 0.4),
        "all changed, no doubt": lambda: Evidence(np.ones(shape, dtype=bool), np.ones(shape)),
        "all evidence equal": lambda: Evidence(changed, np.full(shape, 0.3)),
        "two values": lambda: Evidence(changed, np.where(changed, 0.9, 0.1)),
        "evidence is the change": lambda: Evidence(changed, changed.astype(np.float64)),
        "all members alike": lambda: Evidence(alike, np.where(alike, 0.9, 0.0)),
        "members that always change": lambda: Evidence(every_other, every_other * 1.0),
        "next to nothing": lambda: Evidence(np.zeros(shape, dtype=bool), rng.random(shape) * 1e-300),
        "ordinary": lambda: Evidence(changed, np.clip(changed * 0.6 + rng.random(shape) * 0.4, 0, 1)),
    }[kind]()  # fmt: skip


ODD = (
    "no changes", "no changes, no doubt", "all changed", "all changed, no doubt", "all evidence equal", "two values",
    "evidence is the change", "all members alike", "members that always change", "next to nothing", "ordinary",
)  # fmt: skip


def calibrates_or_says_why(evidence, settings, **changes):
    """A calibration that keeps its target, or one line; warnings are errors in these tests, and so is anything else."""
    try:
        c = calibrate(evidence, settings=settings, confidence=0.9, **changes)
    except PdtoolError as error:
        assert str(error)
        assert "\n" not in str(error)
        return None
    assert isinstance(c, Calibration)
    assert c.realised_fpr <= c.fpr_upper <= c.target_fpr
    flagged, used = replay(table_of(c), evidence.of(c.evidence))
    assert used.max() <= c.max_models
    return c


@pytest.mark.parametrize("name", RULES)
def test_degenerate_votes_calibrate_or_say_why(name):
    settings = RULES[name]
    for kind, members, frames in product(ODD, (1, 2, 5), (20, 120)):
        calibrates_or_says_why(odd_evidence(kind, frames, members), settings)


@pytest.mark.parametrize("name", RULES)
def test_adversarial_frames_that_look_like_nothing_of_the_sort(name):
    """Measured with no change, with every change, with evidence that is all the same, or a single one of them."""
    settings = RULES[name]
    for kind, count in product(("no changes, no doubt", "all changed, no doubt", "all evidence equal"), (1, 30)):
        attacked = odd_evidence(kind, count, 4)
        for clean in ("ordinary", "no changes, no doubt", "all changed"):
            calibrates_or_says_why(odd_evidence(clean, 120, 4), settings, attacked=attacked)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("target", [1e-18, 1e-6, 0.5, 0.999999])
def test_extreme_targets(name, target):
    for kind in ("ordinary", "no changes", "all changed"):
        calibrates_or_says_why(odd_evidence(kind, 120, 4), RULES[name], target_fpr=target)


@pytest.mark.parametrize("settings", [Settings(mean_models=1.0), Settings(evidence="graded", mean_models=1.0)])
def test_as_few_members_on_average_as_there_can_be(settings):
    c = calibrates_or_says_why(odd_evidence("two values", 400, 6), settings, target_fpr=0.2)
    assert c is not None
    assert c.expected_models_clean == 1.0
    assert c.power > 0.3
