"""The search for Wald's tests, against the grid it searches."""

import numpy as np
import pytest

from pdtool.calibration.exact import operating
from pdtool.calibration.latent import ASSUMED
from pdtool.calibration.search import LEVELS, NEARLY, P0, P1, STRICTEST, search_wald
from pdtool.calibration.table import replay
from pdtool.calibration.wald import compile_wald


@pytest.fixture(scope="module")
def changed():
    rng = np.random.default_rng(0)
    return rng.random((400, 10)) < rng.beta(0.3, 4, (400, 1))


def test_each_level_has_the_cheapest_of_the_sharpest(changed):
    """Level by level over the whole grid, written plainly."""
    tests = [(p0, p1, compile_wald(p0, p1, 0.05, 0.05, 10, "threshold")) for p0 in P0 for p1 in P1 if p0 < p1]
    known = []
    for _, _, table in tests:
        flagged, used = replay(table, changed)
        power = operating(table, ASSUMED.p).over(ASSUMED.weights).flag[0]
        known.append((table, flagged.mean(), used.mean(), power))
    expected = [compile_wald(*STRICTEST, 0.05, 0.05, 10, "threshold")]
    for level in 0.1 * np.arange(LEVELS + 1) / LEVELS:
        kept = [each for each in known if each[1] <= level]
        if not kept:
            continue
        sharpest = max(each[3] for each in kept)
        best = min((each for each in kept if each[3] >= sharpest - NEARLY), key=lambda each: each[2])
        if best[0] not in expected:
            expected.append(best[0])
    found = search_wald(changed, target_fpr=0.1, alpha=0.05, beta=0.05, max_models=10, at_cap="threshold")
    assert [table for *_, table in found] == expected
    assert len(found) > 5
    for p0, p1, table in found:
        assert table == compile_wald(p0, p1, 0.05, 0.05, 10, "threshold")


def test_the_strictest_comes_first_whatever_it_flags():
    found = search_wald(
        np.ones((50, 4), dtype=bool), target_fpr=0.1, alpha=0.05, beta=0.05, max_models=4, at_cap="threshold"
    )
    assert [(p0, p1) for p0, p1, _ in found] == [STRICTEST]
    votes = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]], dtype=bool)
    flagged, used = replay(found[0][2], votes)
    assert flagged.tolist() == [True, False, False]
    assert used.tolist() == [4, 4, 1]
