"""The decision table, the streaming test and the exact characteristics, against brute force."""

from itertools import product

import numpy as np
import pytest

from pdtool.calibration.exact import operating
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, SequentialTest, replay
from pdtool.calibration.wald import compile_wald, log_ratio
from pdtool.errors import UsageError

SETTINGS = [
    (p0, p1, alpha, cap, at_cap)
    for (p0, p1) in ((0.09, 0.11), (0.1, 0.5), (0.2, 0.6), (0.02, 0.9))
    for alpha in (0.01, 0.05)
    for cap in (1, 2, 5, 10)
    for at_cap in ("adversarial", "clean", "threshold")
]


def test_the_ratio_is_that_of_the_two_likelihoods_of_the_votes():
    """Against the votes' probabilities themselves, multiplied vote by vote."""
    for n, z, p0, p1 in ((1, 0, 0.1, 0.5), (7, 3, 0.09, 0.11), (10, 10, 0.02, 0.9)):
        votes = np.arange(n) < z
        clean, adversarial = (np.prod(np.where(votes, p, 1 - p)) for p in (p0, p1))
        assert log_ratio(n, z, p0, p1) == pytest.approx(np.log(adversarial / clean), abs=1e-12)
        assert log_ratio(n, np.arange(n + 1), p0, p1)[z] == log_ratio(n, z, p0, p1)


@pytest.mark.parametrize(("p0", "p1", "alpha", "cap", "at_cap"), SETTINGS)
def test_wald_table_is_the_inequality_at_every_count(p0, p1, alpha, cap, at_cap):
    table = compile_wald(p0, p1, alpha, alpha, cap, at_cap)
    upper, lower = np.log((1 - alpha) / alpha), np.log(alpha / (1 - alpha))
    for n in range(1, cap + 1):
        for z in range(n + 1):
            ratio = log_ratio(n, z, p0, p1)
            expected = FLAG if ratio >= upper else CLEAR if ratio <= lower else CONTINUE
            if n == cap and expected == CONTINUE:
                last = {"adversarial": FLAG, "clean": CLEAR, "threshold": FLAG if ratio >= 0 else CLEAR}
                expected = last[at_cap]
            assert table.decide(n, np.array([z]), np.array([True]))[0] == expected, (n, z)


@pytest.mark.parametrize(("p0", "p1", "alpha", "cap", "at_cap"), SETTINGS)
def test_exact_characteristics_equal_enumeration_of_all_vote_sequences(p0, p1, alpha, cap, at_cap):
    table = compile_wald(p0, p1, alpha, alpha, cap, at_cap)
    sequences = np.array(list(product((False, True), repeat=cap)))
    flagged, used = replay(table, sequences)
    for p in (0.0, 0.05, 0.3, 0.5, 0.93, 1.0):
        weights = np.prod(np.where(sequences, p, 1 - p), axis=1)
        exact = operating(table, p)
        assert abs(exact.flag[0] - weights @ flagged) < 1e-12
        assert abs(exact.clear[0] - weights @ ~flagged) < 1e-12
        assert abs(exact.mean_models[0] - weights @ used) < 1e-10


def test_streaming_and_batch_forms_agree_with_replay():
    table = compile_wald(0.1, 0.5, 0.05, 0.05, 12, "threshold")
    changed = np.random.default_rng(0).random((200, 12)) < np.linspace(0, 1, 200)[:, None]
    flagged, used = replay(table, changed)
    for row, flag, count in zip(changed, flagged, used, strict=True):
        test = SequentialTest(table)
        decision = next(d for vote in row if (d := test.update(bool(vote))) != CONTINUE)
        assert (decision == FLAG, test.models_used) == (flag, count)
        with pytest.raises(ValueError, match="decided already"):
            test.update(True)


def test_the_papers_setting_cannot_clear_a_clean_frame_within_its_cap():
    table = compile_wald(0.09, 0.11, 0.05, 0.05, 100, "adversarial")
    assert table.clear_at[:-1] == (None,) * 99
    assert next(n for n, flag in enumerate(table.flag_at, start=1) if flag is not None) == 15
    assert operating(table, 0.02).mean_models[0] > 99.99


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"p0": 0.5, "p1": 0.5}, "p0 < p1"),
        ({"p0": 0.0}, "0 < p0"),
        ({"p1": 1.0}, "p1 < 1"),
        ({"p0": float("nan")}, "p0"),
        ({"alpha": 0.0}, "alpha"),
        ({"beta": 0.7}, "beta"),
        ({"max_models": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_refused(bad, says):
    settings = {"p0": 0.1, "p1": 0.5, "alpha": 0.05, "beta": 0.05, "max_models": 8, "at_cap": "clean"} | bad
    with pytest.raises(UsageError, match=says):
        compile_wald(**settings)


def test_votes_that_are_too_few_are_refused():
    table = DecisionTable(flag_at=(None, 1), clear_at=(None, 0))
    with pytest.raises(ValueError, match="asks up to 2"):
        replay(table, np.zeros((3, 1), dtype=bool))
