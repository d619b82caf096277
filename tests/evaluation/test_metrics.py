"""Metrics against their definitions, counted the slow way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdtool.evaluation.metrics import (
    auroc,
    auroc_interval,
    mean,
    mean_of,
    rate,
    relative_cost,
    roc_curve,
    run_macs,
    threshold_at,
    tpr_at,
    wilson,
    worst_per_input,
)
from pdtool.runtime.bundle import open_bundle


@pytest.mark.parametrize("seed", range(8))
def test_auroc_is_the_share_of_ordered_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean, attacked = rng.integers(0, 6, 23) / 5, rng.integers(1, 8, 17) / 5  # many ties
    pairs = [1.0 if a > c else 0.5 if a == c else 0.0 for a in attacked for c in clean]
    assert auroc(clean, attacked) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_auroc_at_its_ends() -> None:
    low, high = np.array([0.0, 0.1]), np.array([0.4, 0.9])
    assert auroc(low, high) == 1.0 and auroc(high, low) == 0.0 and auroc(low, low) == 0.5
    assert auroc(low, np.zeros(0)) is None and auroc(np.zeros(0), high) is None


def _pools(rng: np.random.Generator, count: int, rate: float, missed: float = 0.0) -> np.ndarray:
    """Label change rates of 16 members; a share of frames is `missed`, as if clean."""
    rates = np.where(rng.random(count) < missed, 0.1, rate)
    return rng.binomial(16, rates) / 16


@pytest.mark.parametrize(("clean", "attacked", "missed"), [(100, 60, 0.0), (100, 60, 0.3), (30, 20, 0.0)])
def test_auroc_interval_covers_the_truth_at_least_as_often_as_it_says(clean: int, attacked: int, missed: float) -> None:
    rng = np.random.default_rng(clean)
    truth = auroc_interval(_pools(rng, 100_000, 0.1), _pools(rng, 100_000, 0.5, missed)).value
    found = [auroc_interval(_pools(rng, clean, 0.1), _pools(rng, attacked, 0.5, missed)) for _ in range(400)]
    ends = np.array([(f.low, f.high) for f in found], dtype=float)
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert covered >= 0.93
    assert np.ptp(ends, axis=1).mean() < 0.22  # an interval of 0..1 would cover everything


def test_auroc_interval_at_its_ends_and_of_nothing() -> None:
    low, high = np.zeros(40), np.ones(20)
    for area, value in ((auroc_interval(low, high), 1.0), (auroc_interval(high, low), 0.0)):
        assert area.value == value and area.low is not None and area.high is not None
        assert area.low <= value <= area.high and 0.02 < area.high - area.low < 0.25  # never a width of 0
    single = auroc_interval(np.array([0.2]), np.array([0.4]))
    assert single.value == 1.0 and single.low is not None and single.low < 0.5  # one pair says next to nothing
    half = auroc_interval(low, low)
    assert half.value == 0.5 and half.low is not None and half.low < 0.45
    nothing = auroc_interval(low, np.zeros(0))
    assert (nothing.value, nothing.low, nothing.high, nothing.clean, nothing.attacked) == (None, None, None, 40, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.05, 0.29, 0.5, 1.0])
def test_threshold_is_the_lowest_clean_score_that_keeps_the_false_alarms(seed: int, fpr: float) -> None:
    rng = np.random.default_rng(seed)
    clean, attacked = rng.binomial(8, 0.2, 100) / 8, rng.binomial(8, 0.5, 37) / 8  # many ties
    threshold = threshold_at(clean, fpr)
    allowed = [t for t in (-np.inf, *clean) if sum(c > t for c in clean) <= round(fpr * 100)]
    assert threshold == min(allowed)
    found = tpr_at(clean, attacked, fpr)
    assert (found.events, found.count) == (sum(a > threshold for a in attacked), 37)


def test_few_or_no_clean_frames_leave_the_largest_or_nothing() -> None:
    clean = np.array([0.1, 0.4, 0.2])
    assert threshold_at(clean, 0.05) == 0.4 and tpr_at(clean, np.array([0.4, 0.5]), 0.05).events == 1
    assert threshold_at(np.zeros(0), 0.05) == np.inf and tpr_at(np.zeros(0), clean, 0.05).share is None
    assert tpr_at(clean, np.zeros(0), 0.05).share is None
    with pytest.raises(ValueError, match="share of false alarms"):
        threshold_at(clean, 1.5)


@pytest.mark.parametrize("seed", range(4))
def test_roc_curve_is_every_threshold_and_has_the_auroc_below_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean, attacked = rng.binomial(8, 0.2, 31) / 8, rng.binomial(8, 0.5, 17) / 8
    fpr, tpr = roc_curve(clean, attacked)
    slow = [((clean >= t).mean(), (attacked >= t).mean()) for t in sorted({*clean, *attacked}, reverse=True)]
    assert list(zip(fpr, tpr, strict=True)) == [(0.0, 0.0), *slow] and (fpr[-1], tpr[-1]) == (1.0, 1.0)
    assert np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2) == pytest.approx(auroc(clean, attacked))
    with pytest.raises(ValueError, match="clean and attacked scores"):
        roc_curve(clean, np.zeros(0))


def test_worst_attack_per_input_by_hand() -> None:
    sources = [np.array([3, 0, 7]), np.array([7, 2]), np.zeros(0, dtype=np.int64)]
    scores = [np.array([0.5, 0.2, 0.9]), np.array([0.1, 0.8]), np.zeros(0)]
    images, worst = worst_per_input(sources, scores)
    assert images.tolist() == [0, 2, 3, 7] and worst.tolist() == [0.2, 0.8, 0.5, 0.1]
    assert [len(each) for each in worst_per_input([], [])] == [0, 0]


@pytest.mark.parametrize(("events", "count"), [(0, 10), (3, 10), (10, 10), (1, 1), (47, 1000)])
def test_wilson_bounds_are_where_the_score_test_stops_rejecting(events: int, count: int) -> None:
    low, high = wilson(events, count)
    grid = np.linspace(1e-7, 1 - 1e-7, 2_000_001)
    kept = grid[np.abs(events / count - grid) <= 1.959963984540054 * np.sqrt(grid * (1 - grid) / count)]
    assert low == pytest.approx(kept.min(), abs=2e-6)
    assert high == pytest.approx(kept.max(), abs=2e-6)
    assert 0.0 <= low <= events / count <= high <= 1.0


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = np.random.default_rng(0).binomial(80, 0.3, 4000)
    bounds = {events: wilson(events, 80) for events in range(81)}
    covered = np.mean([bounds[events][0] <= 0.3 <= bounds[events][1] for events in hits])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(("events", "count"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(events: int, count: int) -> None:
    with pytest.raises(ValueError, match="0 <= events <= count"):
        wilson(events, count)


def test_rate_carries_its_counts() -> None:
    counted = rate(np.array([True, False, True, True]))
    assert (counted.events, counted.count, counted.share) == (3, 4, 0.75)
    assert counted.low is not None and counted.high is not None and counted.low < 0.75 < counted.high
    nothing = rate(np.zeros(0, dtype=bool))
    assert (nothing.count, nothing.share, nothing.low, nothing.high) == (0, None, None, None)


def test_cost_counts_the_original_once_and_each_member_asked() -> None:
    members = np.array([30, 50, 20])
    used = np.array([0, 1, 2, 3, 1])
    slow = [(100 + sum([30, 50, 20][:n])) / 100 for n in used]
    assert relative_cost(used, 100, members).tolist() == pytest.approx(slow)


def test_mean_of_nothing_is_none() -> None:
    assert mean(np.zeros(0)) is None and mean(np.array([1, 2])) == 1.5


def test_mean_has_an_interval_that_covers_and_stays_within_its_bounds() -> None:
    draws = np.random.default_rng(1).binomial(32, 0.3, (2000, 40)) / 32
    found = [mean_of(values, most=1.0) for values in draws]
    covered = np.mean([f.low is not None and f.high is not None and f.low <= 0.3 <= f.high for f in found])
    assert 0.92 <= covered <= 0.97 and found[0].count == 40 and found[0].value == draws[0].mean()
    edge = mean_of(np.array([1.0] * 9 + [0.0]), most=1.0)
    assert edge.high == 1.0 and edge.low is not None and 0 < edge.low < 0.9
    assert mean_of(np.array([2, 0, 0])).low == 0.0
    one, none = mean_of(np.array([3])), mean_of(np.zeros(0))
    assert (one.value, one.low, one.count) == (3.0, None, 1) and (none.value, none.high, none.count) == (None, None, 0)


def test_a_pack_costs_all_its_members_at_its_first(workshop: Path) -> None:
    """Brute force over a real bundle's members: in any order of packs, what has been loaded by then has run."""
    members = open_bundle(workshop / "plain").bundle.members
    shared = [replace(m, file=members[i // 3 * 3].file, part=i % 3) for i, m in enumerate(members)]
    for order in (members, shared, [*shared[6:], *shared[:6]], [*shared[3:6], *shared[6:], *shared[:3]]):
        total = np.cumsum(run_macs(order))
        for n in range(1, len(order) + 1):
            opened = {m.file for m in order[:n]}
            assert total[n - 1] == sum(m.macs for m in order if m.file in opened)
