"""Upper bounds of rates: they cover the truth as often as stated, and say how many frames would do."""

import numpy as np
import pytest
from scipy.stats import binom

from pdtool.calibration.bounds import rate_bound, reachable, source_bound, sources_needed, upper_bound


@pytest.mark.parametrize(("events", "trials"), [(0, 10), (3, 40), (39, 40), (17, 500)])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_upper_bound_is_the_rate_at_which_so_few_events_just_become_unlikely(events, trials, confidence):
    bound = upper_bound(events, trials, confidence)
    assert binom.cdf(events, trials, bound) == pytest.approx(1 - confidence)
    assert upper_bound(events, trials, confidence) < upper_bound(min(events + 1, trials), trials, confidence)


def test_bounds_at_the_edges():
    assert upper_bound(0, 0, 0.95) == 1.0
    assert upper_bound(5, 5, 0.95) == 1.0
    with pytest.raises(ValueError, match="events"):
        upper_bound(3, 2, 0.9)
    with pytest.raises(ValueError, match="events"):
        upper_bound(-1, 2, 0.9)
    assert source_bound(1.0, 7, 0.9) == pytest.approx(1.0)
    assert source_bound(1 - 1e-6, 7, 0.9) == pytest.approx(1.0)  # all but one frame of long videos


@pytest.mark.parametrize("truth", [0.02, 0.1, 0.5])
def test_the_upper_bound_covers_the_truth_exactly_as_often_as_stated(truth):
    """Over all outcomes of 200 frames, not drawn: it falls below the truth with at most that chance."""
    chance = binom.pmf(np.arange(201), 200, truth)
    below = np.array([upper_bound(k, 200, 0.9) < truth for k in range(201)])
    assert chance @ below <= 0.1
    assert chance @ below > 0.04  # and not because it is far too wide


@pytest.mark.parametrize("sources", [5, 40])
def test_the_bound_over_sources_covers_the_truth(sources):
    """Numbers in [0, 1] of any shape: the bound at 90 % lies below their expectation in at most 10 % of the draws."""
    rng = np.random.default_rng(0)
    for draw, truth in (
        (lambda n: rng.random(n) < 0.1, 0.1),
        (lambda n: rng.beta(0.2, 1.8, n), 0.1),
        (lambda n: np.where(rng.random(n) < 0.05, 1.0, 0.05), 0.0975),
    ):
        below = np.mean([source_bound(float(np.mean(draw(sources))), sources, 0.9) < truth for _ in range(150)])
        assert below <= 0.1 + 3 * np.sqrt(0.09 / 150)


def test_frames_of_one_source_count_once():
    events = np.array([True, False, False, False])
    assert rate_bound(events, np.arange(4), 0.9) == upper_bound(1, 4, 0.9)
    assert rate_bound(events, np.array([0, 0, 1, 1]), 0.9) == source_bound(0.25, 2, 0.9)  # mean of 1/2 and 0
    # sources of 1 and 3 frames, 1 event: 1/3 of the longest one's and 0, scaled back from 3 frames to the mean of 2
    assert rate_bound(events, np.array([7, 9, 9, 9]), 0.9) == min(1.0, source_bound(1 / 6, 2, 0.9) * 3 / 2)
    many = np.arange(300) % 30
    assert rate_bound(many == 0, many, 0.9) > upper_bound(10, 300, 0.9)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("rate", "target"), [(0.0, 0.05), (0.02, 0.05), (0.04, 0.05), (0.3, 0.5)])
def test_so_many_sources_would_do(rate, target, single):
    needed = sources_needed(rate, target, 0.95, single=single)
    assert needed is not None

    def bound(n):
        return upper_bound(int(np.ceil(rate * n)), n, 0.95) if single else source_bound(rate, n, 0.95)

    assert bound(needed) <= target
    assert needed == 1 or bound(needed - 1) > target


def test_a_target_of_next_to_nothing_asks_for_next_to_infinitely_many():
    needed = sources_needed(0.0, 1e-18, 0.95)
    assert needed is None or needed > 1e18


def test_no_number_of_sources_helps_where_the_rate_is_the_target():
    assert sources_needed(0.05, 0.05, 0.95) is None
    assert sources_needed(0.2, 0.05, 0.95) is None
    assert sources_needed(0.0499999, 0.05, 0.95, largest=1000) is None


@pytest.mark.parametrize("frames", [5, 59, 300])
def test_the_reachable_rate_is_the_largest_that_passes(frames):
    rate = reachable(0.05, np.arange(frames), 0.95)
    passing = [k for k in range(frames) if upper_bound(k, frames, 0.95) <= 0.05]
    assert rate == max(passing, default=0) / frames
    in_groups = reachable(0.2, np.repeat(np.arange(frames), 5), 0.95)
    assert in_groups == 0 or source_bound(in_groups, frames, 0.95) <= 0.2 + 1e-9
    assert source_bound(in_groups + 0.001, frames, 0.95) > 0.2


def test_the_bound_is_of_frames_also_where_the_long_sources_are_the_bad_ones():
    """280 tracks of 2 frames that are never flagged, 20 of 80 that always are: 74 % of the frames."""
    sizes = np.array([2] * 280 + [80] * 20)
    groups = np.repeat(np.arange(300), sizes)
    assert rate_bound(sizes[groups] == 80, groups, 0.95) >= 0.74
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(300):
        long = rng.random(120) < 0.1
        rate = np.where(long, 0.3, 0.02)
        groups = np.repeat(np.arange(120), np.where(long, 12, 4))
        events = rng.random(len(groups)) < rate[groups] * rng.integers(0, 2, 120)[groups] * 2
        below += rate_bound(events, groups, 0.9) < (0.1 * 12 * 0.3 + 0.9 * 4 * 0.02) / (0.1 * 12 + 0.9 * 4)
    assert below <= 0.1 * 300 + 3 * np.sqrt(300 * 0.09)
