"""How different the votes of members are."""

import numpy as np
import pytest

from pdtool.evaluation.diversity import diversity, pair_correlations


def test_between_copies_and_strangers():
    rng = np.random.default_rng(0)
    own = rng.random((20_000, 8)) < 0.3
    shared = np.repeat(rng.random((20_000, 1)) < 0.3, 8, axis=1)
    strangers, copies = diversity(own), diversity(shared)
    assert strangers.correlation == pytest.approx(0, abs=0.01) and strangers.effective_votes == pytest.approx(
        8, rel=0.05
    )
    assert copies.correlation == pytest.approx(1) and copies.effective_votes == pytest.approx(1)
    half = diversity(np.where(rng.random((20_000, 8)) < 0.5, shared, own))
    assert half.correlation is not None and half.effective_votes is not None
    assert 0.1 < half.correlation < 0.9 and 1 < half.effective_votes < 8
    assert half.effective_votes == pytest.approx(8 / (1 + 7 * half.correlation), rel=0.02)  # members that change alike


def test_frames_of_unlike_difficulty_make_independent_members_alike():
    rng = np.random.default_rng(1)
    p = np.where(rng.random(20_000) < 0.5, 0.05, 0.95)
    votes = diversity(rng.random((20_000, 8)) < p[:, None])
    assert votes.correlation == pytest.approx(0.81, abs=0.02)


@pytest.mark.parametrize("changed", [np.zeros((10, 4)), np.ones((10, 4)), np.zeros((0, 4))])
def test_votes_that_never_differ_say_nothing(changed):
    votes = diversity(changed.astype(bool))
    assert (votes.correlation, votes.effective_votes) == (None, None)


def test_pairs_are_those_of_members_that_vary():
    rng = np.random.default_rng(2)
    changed = rng.random((200, 5)) < [0.1, 0.5, 0.9, 0.0, 1.0]  # the last two never differ from a constant
    by_hand = [np.corrcoef(changed[:, i], changed[:, j])[0, 1] for i in range(3) for j in range(i + 1, 3)]
    np.testing.assert_allclose(pair_correlations(changed), by_hand)
    assert diversity(changed).correlation == pytest.approx(np.mean(by_hand))


def test_one_member_is_one_vote():
    votes = diversity(np.array([[True], [False], [True]]))
    assert votes.correlation is None and votes.effective_votes == pytest.approx(1)
