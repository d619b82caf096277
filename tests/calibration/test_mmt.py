"""The `mmt` table against the published program's loop, line by line."""

from itertools import product
from math import log

import numpy as np
import pytest

from pdtool.calibration.mmt import compile_mmt
from pdtool.calibration.table import replay
from pdtool.errors import UsageError

SETTINGS = [(0.09, 0.11), (0.1, 0.5), (0.3, 0.35), (0.45, 0.55), (0.02, 0.9), (0.6, 0.95)]


def published(votes, p0, p1, alpha, beta):
    """What the program does with a frame: is it adversarial, and after how many mutants.

    The ratio is computed with the mutant in n but its change not yet in c; the bounds are looked at only where the
    mutant changed the label; a frame that exhausts the mutants is clean.
    """
    accept, reject = log((1 - beta) / alpha), log(beta / (1 - alpha))
    c = 0
    for n, changed in enumerate(votes, start=1):
        pr = c * log(p1 / p0) + (n - c) * log((1 - p1) / (1 - p0))
        if changed:
            c += 1
            if pr >= accept:
                return True, n
            if pr <= reject:
                return False, n
    return False, len(votes)


@pytest.mark.parametrize(("p0", "p1"), SETTINGS)
@pytest.mark.parametrize(("alpha", "beta"), [(0.05, 0.05), (0.01, 0.2), (0.3, 0.02)])
@pytest.mark.parametrize("cap", [1, 2, 9, 60])
def test_the_table_is_the_published_loop(p0, p1, alpha, beta, cap):
    rng = np.random.default_rng(cap)
    votes = np.array(list(product((False, True), repeat=min(cap, 9))))
    if cap > 9:
        votes = rng.random((400, cap)) < rng.random((400, 1)) ** 4
    flagged, used = replay(compile_mmt(p0, p1, alpha, beta, cap), votes)
    expected = [published(row, p0, p1, alpha, beta) for row in votes]
    assert [*zip(flagged, used, strict=True)] == expected


def test_all_three_endings_occur_in_what_was_compared():
    """The comparison above would be empty if no setting ever flagged, cleared early or ran out."""
    votes = np.random.default_rng(0).random((400, 60)) < np.random.default_rng(1).random((400, 1)) ** 4
    flagged, used = replay(compile_mmt(0.1, 0.5, 0.05, 0.05, 60), votes)
    assert min((flagged & (used < 60)).sum(), (~flagged & (used < 60)).sum(), (~flagged & (used == 60)).sum()) > 5


def test_nothing_is_decided_without_a_change():
    table = compile_mmt(0.1, 0.5, 0.05, 0.05, 50)
    flagged, used = replay(table, np.zeros((1, 50), dtype=bool))
    assert (flagged[0], used[0]) == (False, 50)  # Wald's own test clears it after 6


def test_one_more_change_never_turns_a_flag_into_a_clear():
    """Although it adds a look at the bounds: where that look clears, the next change would have cleared too."""
    votes = np.array(list(product((False, True), repeat=12)))
    for p0, p1 in SETTINGS:
        flagged, _ = replay(compile_mmt(p0, p1, 0.05, 0.2, 12), votes)
        for member in range(12):
            raised = np.arange(len(votes)) | 1 << (11 - member)  # the row with that vote changed
            assert not (flagged & ~flagged[raised]).any()


@pytest.mark.parametrize("bad", [{"p0": 0.5}, {"p1": 1.0}, {"alpha": 0.0}, {"beta": float("nan")}, {"max_models": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UsageError):
        compile_mmt(**({"p0": 0.1, "p1": 0.5, "alpha": 0.05, "beta": 0.05, "max_models": 8} | bad))
