"""Metrics against their definitions, counted the slow way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdtool.evaluation.metrics import auroc, mean, rate, relative_cost, run_macs, wilson
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


def test_a_pack_costs_all_its_members_at_its_first(workshop: Path) -> None:
    """Brute force over a real bundle's members: in any order of packs, what has been loaded by then has run."""
    members = open_bundle(workshop / "plain").bundle.members
    shared = [replace(m, file=members[i // 3 * 3].file, part=i % 3) for i, m in enumerate(members)]
    for order in (members, shared, [*shared[6:], *shared[:6]], [*shared[3:6], *shared[6:], *shared[:3]]):
        total = np.cumsum(run_macs(order))
        for n in range(1, len(order) + 1):
            opened = {m.file for m in order[:n]}
            assert total[n - 1] == sum(m.macs for m in order if m.file in opened)
