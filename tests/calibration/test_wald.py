"""Wald's test: the compiled table is the inequality at every count, and what the papers' setting does."""

import numpy as np
import pytest

from pdtool.calibration.exact import operating
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG
from pdtool.calibration.wald import compile_wald, log_ratio
from pdtool.errors import UsageError

SETTINGS = [
    (p0, p1, alpha, cap, at_cap)
    for (p0, p1) in ((0.09, 0.11), (0.1, 0.5), (0.2, 0.6), (0.02, 0.9))
    for alpha in (0.01, 0.05)
    for cap in (1, 2, 5, 10, 40)
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
def test_the_table_is_the_inequality_at_every_count(p0, p1, alpha, cap, at_cap):
    table = compile_wald(p0, p1, alpha, alpha / 2, cap, at_cap)
    upper, lower = np.log((1 - alpha / 2) / alpha), np.log(alpha / 2 / (1 - alpha))
    for n in range(1, cap + 1):
        for z in range(n + 1):
            ratio = log_ratio(n, z, p0, p1)
            expected = FLAG if ratio >= upper else CLEAR if ratio <= lower else CONTINUE
            if n == cap and expected == CONTINUE:
                last = {"adversarial": FLAG, "clean": CLEAR, "threshold": FLAG if ratio >= 0 else CLEAR}
                expected = last[at_cap]
            assert table.decide(n, np.array([z]), np.array([True]))[0] == expected, (n, z)


def test_the_papers_setting_cannot_clear_a_clean_frame_within_its_cap():
    table = compile_wald(0.09, 0.11, 0.05, 0.05, 100, "adversarial")
    assert table.clear_at[:-1] == (None,) * 99
    assert next(n for n, flag in enumerate(table.flag_at, start=1) if flag is not None) == 15
    assert operating(table, 0.02).mean_models[0] > 99.99


def test_without_a_cap_the_nominal_errors_bound_the_real_ones():
    """Wald: alpha' <= alpha / (1 - beta), beta' <= beta / (1 - alpha); a cap of 400 is hardly ever reached here."""
    for p0, p1, alpha, beta in ((0.1, 0.5, 0.05, 0.05), (0.2, 0.4, 0.02, 0.1)):
        table = compile_wald(p0, p1, alpha, beta, 400, "threshold")
        clean, adversarial = operating(table, p0), operating(table, p1)
        assert clean.used[0, -1] + adversarial.used[0, -1] < 1e-7
        assert clean.flag[0] <= alpha / (1 - beta)
        assert adversarial.clear[0] <= beta / (1 - alpha)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"p0": 0.5, "p1": 0.5}, "p0 < p1"),
        ({"p0": 0.0}, "0 < p0"),
        ({"p1": 1.0}, "p1 < 1"),
        ({"p0": float("nan")}, "p0"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"beta": 0.7}, "beta"),
        ({"max_models": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_refused(bad, says):
    settings = {"p0": 0.1, "p1": 0.5, "alpha": 0.05, "beta": 0.05, "max_models": 8, "at_cap": "clean"} | bad
    with pytest.raises(UsageError, match=says):
        compile_wald(**settings)
