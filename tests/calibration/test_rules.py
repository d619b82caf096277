"""The contract that every rule keeps with every kind of evidence, and the sequences of tests that they try.

"Strictest first" is what the walk of the promise needs to end well, not to be valid (any order that ignores the check
frames is): it stops at the first test that fails, so a lax test early in the sequence hides the good ones behind it.
What holds, rule by rule:

    fixed            what one test flags, all later ones flag, on any frames
    optimal, label   test k of m keeps the level that is m - k steps below the target, on the estimated population
    optimal, graded  the same, on the paths that were counted: on the fit frames nearly
    wald, searched   the same, on the fit frames as shuffled; the first test is `search.STRICTEST`, whatever it flags
    others           there is one test
"""

import dataclasses
from functools import cache
from itertools import product

import numpy as np
import pytest

from pdtool.calibration.evidence import Evidence, assumed
from pdtool.calibration.exact import operating
from pdtool.calibration.fit import CleanFrames, calibrate
from pdtool.calibration.latent import estimate
from pdtool.calibration.rules import LEVELS, PAPER, Settings, candidates
from pdtool.calibration.search import LEVELS as WALD_LEVELS
from pdtool.calibration.table import CONTINUE, FLAG, DecisionTable, SequentialTest, replay, table_of
from pdtool.decisions import Calibration, Grading
from pdtool.errors import GateError, UsageError
from pdtool.jsonform import decode, encode

RULES = {
    "optimal, label": Settings(),
    "optimal, graded": Settings(evidence="graded"),
    "optimal, label, mean": Settings(mean_models=1.6),
    "optimal, graded, mean": Settings(evidence="graded", mean_models=1.6),
    "wald, searched": Settings(rule="wald"),
    "wald, given": Settings(rule="wald", p0=0.1, p1=0.5),
    "wald, papers": PAPER,
    "fixed, label": Settings(rule="fixed"),
    "fixed, graded": Settings(rule="fixed", evidence="graded"),
    "mmt": Settings(rule="mmt"),
    "mmt, given": Settings(rule="mmt", p0=0.1, p1=0.5),
}
TARGET = 0.1
MEMBERS = (1, 2, 5, 9)
every_rule = pytest.mark.parametrize("name", RULES)


@pytest.fixture(scope="module")
def fits(votes):
    """Clean frames (300) by number of members, and frames to be flagged."""
    rng = np.random.default_rng(0)
    return {members: votes(rng.beta(0.3, 6, 300), members, rng) for members in (*MEMBERS, 16)}


@pytest.fixture(scope="module")
def made(fits):
    """The tests of a rule for so many members, made once."""
    return cache(lambda name, members: tuple(sequence_of(name, fits[members])))


def sequence_of(name, fit, seed=0, settings=None):
    rng = np.random.default_rng(seed)
    adversarial = assumed(fit, 1000, rng)
    chosen = RULES[name] if settings is None else settings
    return list(candidates(chosen, fit, adversarial, measured=False, target_fpr=TARGET, rng=rng))


def frames_for(settings, fit, tables, rng):
    """Evidence to try tables on: for label changes all there is, for graded evidence also their very bounds."""
    members = fit.changed.shape[1]
    if settings.evidence == "label":
        return np.array(list(product((False, True), repeat=members)))
    bounds = [bound for table in tables for bound in (*table.flag_above, *table.clear_below) if bound is not None]
    level = np.clip(rng.choice(bounds, 100), 0, 1)[:, None] * np.ones(members)
    corners = np.array(list(product((0.0, 1.0), repeat=members)))
    return np.concatenate([fit.known(), level, rng.random((200, members)), corners])


@every_rule
@pytest.mark.parametrize("members", MEMBERS)
def test_every_frame_is_decided_alike_by_the_three_forms(name, members, fits, made):
    """One by one, member by member on what is left, and recorded; within `max_models`."""
    rng = np.random.default_rng(1)
    tables = [candidate.table for candidate in made(name, members)]
    assert tables
    evidence = frames_for(RULES[name], fits[members], tables, rng)
    for table in tables:
        assert table.max_models <= members
        flagged, used = replay(table, evidence)
        left = np.arange(len(evidence))
        for n in range(1, table.max_models + 1):
            decision = table.decide(n, table.running(evidence[left, :n])[:, -1], evidence[left, n - 1])
            decided = left[decision != CONTINUE]
            assert (used[decided] == n).all()
            assert (flagged[decided] == (decision[decision != CONTINUE] == FLAG)).all()
            left = left[decision == CONTINUE]
        assert len(left) == 0
        for row in rng.choice(len(evidence), 20):
            test = SequentialTest(table)
            decision = next(d for vote in evidence[row] if (d := test.update(vote)) != CONTINUE)
            assert (decision == FLAG, test.models_used) == (flagged[row], used[row])


@every_rule
def test_the_same_seed_gives_the_same_tests(name, fits, made):
    assert tuple(sequence_of(name, fits[5])) == made(name, 5)


@every_rule
@pytest.mark.parametrize("members", MEMBERS)
def test_more_evidence_never_turns_a_flag_into_a_clear(name, members, fits, made):
    """Raised vote by vote and frame by frame, under every test of every rule."""
    rng = np.random.default_rng(2)
    tables = [candidate.table for candidate in made(name, members)]
    evidence = frames_for(RULES[name], fits[members], tables, rng)
    for table in tables:
        raised = np.where(rng.random(evidence.shape) < 0.3, np.maximum(evidence, rng.random(evidence.shape)), evidence)
        if isinstance(table, DecisionTable):
            raised = evidence | (rng.random(evidence.shape) < 0.2)
        assert not (replay(table, evidence)[0] & ~replay(table, raised)[0]).any()


@every_rule
@pytest.mark.parametrize("most", [1, 4, 40])
def test_no_more_members_are_asked_than_allowed_or_there(name, most, fits):

    settings = dataclasses.replace(RULES[name], max_models=most)
    for candidate in sequence_of(name, fits[9], settings=settings):
        assert candidate.table.max_models == min(most, 9)
        assert replay(candidate.table, fits[9].of(settings.evidence))[1].max() <= min(most, 9)


@every_rule
def test_hypotheses_come_with_the_rules_that_have_them(name, made):
    for candidate in made(name, 9):
        if RULES[name].rule in ("wald", "mmt"):
            assert candidate.p0 is not None and candidate.p1 is not None
            assert 0 < candidate.p0 < candidate.p1 < 1
        else:
            assert candidate.p0 is candidate.p1 is None


@pytest.mark.parametrize("name", ["fixed, label", "fixed, graded"])
def test_later_fixed_tests_flag_all_that_earlier_ones_flag(name, made, votes):
    rng = np.random.default_rng(4)
    evidence = votes(rng.random(500), 9, rng).of(RULES[name].evidence)
    flagged = np.array([replay(candidate.table, evidence)[0] for candidate in made(name, 9)])
    assert (flagged[:-1] <= flagged[1:]).all()
    assert flagged[0].sum() < flagged[-1].sum()


def test_fixed_graded_bounds_flag_just_the_level_of_fit_frames_with_ties(votes):
    """Summing in another order than the test does would flag all frames whose evidence is the same."""
    for value in (0.1, 0.3, 0.7, 0.9, 1 / 3):
        for members in (3, 10, 16, 32):
            fit = Evidence(np.zeros((50, members), dtype=bool), np.full((50, members), value))
            for candidate in sequence_of("fixed, graded", fit):
                assert not replay(candidate.table, fit.known())[0].any()


@pytest.mark.parametrize("members", [5, 16])
@pytest.mark.parametrize("name", ["optimal, label", "optimal, label, mean"])
def test_optimal_tests_keep_rising_levels_on_the_estimated_population(name, members, fits, made):
    clean = estimate(fits[members].changed.sum(axis=1), members)
    tests = made(name, members)
    assert 3 < len(tests) <= LEVELS
    for k, candidate in enumerate(tests, start=1):
        assert isinstance(candidate.table, DecisionTable)
        exact = operating(candidate.table, clean.p).over(clean.weights)
        assert exact.flag[0] <= TARGET * (LEVELS - len(tests) + k) / LEVELS + 1e-9
        assert "mean" not in name or exact.mean_models[0] <= 1.6 + 1e-9


@pytest.mark.parametrize("members", [5, 16])
@pytest.mark.parametrize("name", ["optimal, graded", "optimal, graded, mean"])
def test_graded_tests_nearly_keep_rising_levels_on_the_fit_frames(name, members, fits, made):
    fit = fits[members]
    again = Evidence(np.repeat(fit.changed, 30, axis=0), np.repeat(fit.known(), 30, axis=0))
    again = again.shuffled(np.random.default_rng(5))
    tests = made(name, members)
    assert 3 < len(tests) <= LEVELS
    for k, candidate in enumerate(tests, start=1):
        flagged, used = replay(candidate.table, again.known())
        assert flagged.mean() <= 1.1 * TARGET * (LEVELS - len(tests) + k) / LEVELS + 0.01
        assert "mean" not in name or used.mean() <= 1.1 * 1.6


def test_searched_wald_tests_keep_rising_levels_on_the_fit_frames(fits):
    fit = fits[16]
    tests = sequence_of("wald, searched", fit, seed=6)
    assert len(tests) > 5
    rng = np.random.default_rng(6)
    assumed(fit, 1000, rng)
    shuffled = fit.shuffled(rng).changed  # as the search saw them
    flagged = [replay(candidate.table, shuffled)[0].mean() for candidate in tests]
    for k in range(1, len(tests)):
        assert flagged[k] <= TARGET * (WALD_LEVELS + 1 - len(tests) + k) / WALD_LEVELS + 1e-9


@pytest.mark.parametrize("name", ["wald, given", "wald, papers", "mmt", "mmt, given"])
def test_rules_with_fixed_hypotheses_have_one_test(name, made):
    assert len(made(name, 9)) == 1


@every_rule
@pytest.mark.parametrize("members", [1, 8])
def test_a_calibration_survives_its_file_and_gives_the_same_table(name, members, votes):
    rng = np.random.default_rng(7)
    frames = CleanFrames(
        evidence=votes(rng.beta(0.3, 6, 400), members, rng),
        groups=np.arange(400),
        wrong=rng.random(400) < 0.1,
        grading=Grading(temperatures=tuple(rng.random(members) + 0.5)),
    )

    def make(seed):
        return calibrate(
            frames, RULES[name], target_fpr=TARGET, confidence=0.9, seed=seed, data="d", seen="s",
            models_sha256="0" * 64, accept_miss=True,
        )  # fmt: skip

    made = make(1)
    assert made == make(1)
    again = decode(Calibration, encode(made), file="calibration.json")
    assert again == made
    table = table_of(again)
    assert table == table_of(made)
    assert table.max_models == made.max_models
    assert isinstance(table, DecisionTable) == (RULES[name].evidence == "label")
    assert made.rule == RULES[name].rule
    evidence = frames.evidence.of(made.evidence)
    flagged, used = replay(table, evidence)
    assert used.max() <= made.max_models
    assert made.check_flagged == round(made.realised_fpr * made.check_images)
    assert (made.p0 is not None) == (made.rule in ("wald", "mmt")) == (made.alpha is not None)
    assert (made.temperatures is not None) == (made.evidence == "graded")


def test_the_papers_hypotheses(votes):
    rng = np.random.default_rng(8)
    fit = votes(rng.beta(0.5, 4, 600), 100, rng)
    for settings in (PAPER, Settings(rule="mmt"), Settings(rule="wald", sigma=0.3)):
        (candidate,) = sequence_of("", fit, settings=settings)
        rates = fit.changed.mean(axis=1)
        zeta = rates.mean() + 2.5758293035489004 * rates.std(ddof=1) / np.sqrt(600)
        sigma = 0.1 if settings.sigma is None else settings.sigma
        assert (candidate.p0, candidate.p1) == pytest.approx((zeta * (1 - sigma), zeta * (1 + sigma)))


@pytest.mark.parametrize("settings", [PAPER, Settings(rule="mmt"), Settings(rule="wald", sigma=0.9)])
def test_the_papers_hypotheses_need_a_rate_between_0_and_1(settings):
    for changed in (np.zeros((50, 8), dtype=bool), np.ones((50, 8), dtype=bool)):
        with pytest.raises(GateError, match=r"label change rate is [01]\.0000.*give --p0 and --p1"):
            sequence_of("", Evidence(changed), settings=settings)


@pytest.mark.parametrize(
    "bad",
    [
        {"rule": "bayes"},
        {"evidence": "logits"},
        {"rule": "wald", "sigma": -0.1},
        {"rule": "wald", "sigma": 0.0},
        {"rule": "wald", "sigma": 1.5},
        {"rule": "wald", "sigma": float("nan")},
        {"rule": "wald", "p0": 0.1},
        {"rule": "wald", "p1": 0.1},
        {"rule": "wald", "p0": 0.1, "p1": 0.2, "sigma": 0.1},
        {"rule": "optimal", "p0": 0.1, "p1": 0.2},
        {"rule": "fixed", "sigma": 0.1},
        {"rule": "wald", "evidence": "graded"},
        {"rule": "mmt", "evidence": "graded"},
        {"max_models": 0},
        {"max_models": -3},
        {"mean_models": 0.5},
        {"mean_models": float("nan")},
        {"rule": "fixed", "mean_models": 2.0},
    ],
)
def test_settings_that_contradict(bad):
    with pytest.raises(UsageError):
        Settings(**bad)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"p0": 0.5, "p1": 0.2}, "p0 < p1"),
        ({"p0": 0.3, "p1": 0.3}, "p0 < p1"),
        ({"p0": 0.0, "p1": 0.3}, "0 < p0"),
        ({"p0": 0.1, "p1": float("nan")}, "p0 < p1"),
        ({"p0": 0.1, "p1": 0.3, "alpha": 0.0}, "alpha"),
        ({"p0": 0.1, "p1": 0.3, "beta": 0.5}, "beta"),
        ({"alpha": 1.0}, "alpha"),
    ],
)
@pytest.mark.parametrize("rule", ["wald", "mmt"])
def test_hypotheses_that_cannot_be(rule, bad, says, fits):
    with pytest.raises(UsageError, match=says):
        sequence_of("", fits[5], settings=Settings(rule=rule, **bad))
