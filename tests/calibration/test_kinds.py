"""Mixed pools: turns, orders and levels by hand; what a test on the largest of the kinds' means flags and clears."""

from itertools import product

import numpy as np
import pytest

from pdtool.artifacts import KINDS
from pdtool.calibration.evidence import Evidence, assumed
from pdtool.calibration.fit import CleanFrames, design
from pdtool.calibration.graded import graded_sequence
from pdtool.calibration.kinds import Kinds, kinds_of, levels, orders, turns
from pdtool.calibration.response import reach
from pdtool.calibration.rules import Settings
from pdtool.calibration.table import CONTINUE, GradedTable, replay

MIXED: Kinds = ("hardened", "robust", "robust", "hardened", "plain", "hardened")


def test_a_pool_of_one_kind_has_no_kinds():
    assert kinds_of([None, None]) is None
    assert kinds_of(["robust", "robust"]) is None
    assert kinds_of([None, "plain"]) is None
    assert kinds_of([None, "robust"]) == ("plain", "robust")


def test_every_kind_has_its_turn_first_and_then_evenly():
    for members in range(1, 7):
        for kinds in product(KINDS, repeat=members) if members < 6 else [MIXED[:members]]:
            asked, there = turns(kinds), set(kinds)
            assert sorted(asked) == sorted(kinds)
            first = sorted(there, key=KINDS.index, reverse=True)  # the hardest to fool before the others
            assert list(asked[: len(there)]) == first
            for one, other in product(there, there):  # nobody's turn i of c before another's turn j of d with j/d < i/c
                for n in range(members):
                    if asked[n] == one:
                        before, own = asked[:n].count(one) / kinds.count(one), asked[:n].count(other)
                        assert own == kinds.count(other) or own / kinds.count(other) >= before


def test_orders_are_of_the_turns_and_every_member_comes_to_every_place_of_its_kind():
    rng = np.random.default_rng(0)
    drawn = orders(6, MIXED, 600, rng)
    assert (np.sort(drawn, axis=1) == np.arange(6)).all()
    assert {tuple(np.array(MIXED)[row]) for row in drawn} == {turns(MIXED)}
    for place, kind in enumerate(turns(MIXED)):
        counts = np.bincount(drawn[:, place], minlength=6)
        own = np.array(MIXED) == kind
        assert (counts[own] > 0.7 * 600 / own.sum()).all()
        assert not counts[~own].any()
    assert len({tuple(row) for row in orders(4, None, 500, rng)}) == 24


def test_levels_are_the_largest_of_the_kinds_means():
    rng = np.random.default_rng(1)
    evidence = rng.random((40, 6))
    for kinds in (None, MIXED, turns(MIXED)):
        got = levels(evidence, kinds)
        for i, n in product(range(40), range(1, 7)):
            means = [
                np.mean([evidence[i, k] for k in range(n) if kinds is None or kinds[k] == kind])
                for kind in ({"all"} if kinds is None else set(kinds[:n]))
            ]
            assert got[i, n - 1] == pytest.approx(max(means))


def test_where_undecided_frames_can_get_is_where_they_get():
    """All sequences of eleven votes, brute force: none outside the staircase, both ends of every column are met."""
    kinds: Kinds = ("robust", "hardened", "robust", "hardened", "hardened")
    table = GradedTable((0.9, 0.8, 0.7, 0.6, 0.4), (None, 0.1, 0.2, 0.3, 0.4), kinds)
    bounds = reach(table)
    met: list[list[float]] = [[] for _ in kinds]
    values = np.linspace(0, 1, 11)
    votes = np.array(list(product(values, repeat=5)))
    running = table.running(votes)
    open_ = np.ones(len(votes), dtype=bool)
    for n in range(5):
        met[n] = running[open_, n].tolist()
        open_ &= table.decide(n + 1, running[:, n], votes[:, n]) == CONTINUE
    for n in range(5):
        assert bounds.low[n] - 1e-9 <= min(met[n]) <= bounds.low[n] + 0.11
        assert bounds.high[n] - 0.11 <= max(met[n]) <= bounds.high[n] + 1e-9


@pytest.fixture(scope="module")
def votes():
    """Clean frames (800) of a mixed pool of 6: a few are hard for all; and stolen ones, where only the robust doubt."""
    rng = np.random.default_rng(2)
    hard = rng.random((800, 1)) < 0.15
    clean = np.where(hard, rng.beta(3, 3, (800, 6)), rng.beta(0.5, 8, (800, 6)))
    fooled = rng.beta(0.3, 30, (400, 6))
    robust = np.array([kind == "robust" for kind in MIXED])
    stolen = np.where(robust, rng.beta(12, 2, (400, 6)), fooled)
    return tuple(Evidence(each > 0.5, each, kinds=MIXED) for each in (clean, stolen))


def test_who_fools_one_kind_is_flagged_by_the_other_and_would_not_be_by_the_mean(votes):
    clean, stolen = votes
    rng = np.random.default_rng(3)
    frames = CleanFrames(evidence=clean, groups=np.arange(len(clean)))
    settings = Settings(evidence="graded", rule="fixed")
    caught = {}
    for mixed in (True, False):
        one, other = (Evidence(e.changed, e.graded, kinds=MIXED if mixed else None) for e in (clean, stolen))
        own = CleanFrames(evidence=one, groups=frames.groups)
        checked, _ = design(own, settings, target_fpr=0.08, confidence=0.9, seed=0)
        caught[mixed] = replay(checked.candidate.table, other.shuffled(rng).known())[0].mean()
        assert checked.upper <= 0.08
    assert caught[True] > 0.9
    assert caught[False] < 0.6


@pytest.mark.parametrize("members", [1, 2, 3, 6])
def test_no_frame_is_cleared_before_every_kind_was_asked(votes, members):
    clean, _ = votes
    rng = np.random.default_rng(4)
    tables = list(graded_sequence(clean, assumed(clean, 2000, rng), members, [0.03, 0.06, 0.1], rng))
    assert tables
    kinds = turns(MIXED)[:members]
    for table in tables:
        assert table.kinds == kinds
        assert all(bound is None for bound in table.clear_below[: min(3, members) - 1])
        _, used = replay(table, clean.shuffled(rng).known())
        assert used.max() <= members
    if members == 6:
        assert replay(tables[-1], clean.shuffled(rng).known())[1].mean() < 4.5  # and not all of them are needed


def test_assumed_frames_of_a_mixed_pool_bring_votes_of_their_own_kind(votes):
    """Robust members that are never sure of anything, others that always are."""
    clean, _ = votes
    rng = np.random.default_rng(5)
    robust = np.array([kind == "robust" for kind in MIXED])
    said = np.where(clean.changed, 0.9, 0.1)
    said[:, robust] = np.where(clean.changed, 0.6, 0.4)[:, robust]
    made = assumed(Evidence(clean.changed, said, kinds=MIXED), 500, rng)
    assert made.kinds == turns(MIXED)
    own = np.array([kind == "robust" for kind in made.kinds])
    assert set(np.unique(made.known()[:, own])) == {0.4, 0.6}
    assert set(np.unique(made.known()[:, ~own])) == {0.1, 0.9}
