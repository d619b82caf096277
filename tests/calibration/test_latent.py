"""How often members change labels, over all frames: the estimate, and the chances that follow from a distribution."""

from itertools import product
from math import comb

import numpy as np
import pytest

from pdtool.calibration.latent import ASSUMED, Latent, estimate, population

SHAPES = {
    "beta": lambda rng, n: rng.beta(0.25, 2.5, n),
    "mixture": lambda rng, n: np.where(rng.random(n) < 0.1, rng.beta(2, 2, n), rng.beta(0.5, 20, n)),
    "a fifth hard": lambda rng, n: np.where(rng.random(n) < 0.2, rng.beta(4, 4, n), rng.beta(0.3, 15, n)),
    "wide": lambda rng, n: rng.random(n),
}


def likelihood(p, weights, changes, members):
    """Mean log likelihood of the counts, up to the binomial coefficient."""
    z = changes[:, None]
    return float(np.log((p**z * (1 - p) ** (members - z)) @ weights).mean())


def best_two_points(changes, members):
    """The likeliest of all mixtures of two rates (a grid of rates and shares)."""
    grid, shares = np.linspace(0.002, 0.998, 84), np.linspace(0.01, 0.99, 50)[:, None]
    seen, frames = np.unique(changes, return_counts=True)
    chance = grid ** seen[:, None] * (1 - grid) ** (members - seen[:, None])
    best = -np.inf
    for i, j in zip(*np.triu_indices(len(grid), 1), strict=True):
        best = max(best, (np.log(shares * chance[:, i] + (1 - shares) * chance[:, j]) @ frames).max() / len(changes))
    return best


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_likelier_than_one_rate_and_than_two(shape):
    rng = np.random.default_rng(0)
    changes = rng.binomial(32, SHAPES[shape](rng, 1000))
    guess = estimate(changes, 32)
    mine = likelihood(guess.p, guess.weights, changes, 32)
    mean = changes.mean() / 32
    assert mine > likelihood(np.array([mean]), np.ones(1), changes, 32) + 0.5
    assert mine > best_two_points(changes, 32) + 0.005


@pytest.mark.parametrize("members", [8, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_has_the_moments_of_the_truth(shape, members):
    """Mean and mean square within 4 standard errors; the share of frames above a half within 3 points."""
    rng = np.random.default_rng(1)
    truth = SHAPES[shape](rng, 400_000)
    guess = estimate(rng.binomial(members, truth[:4000]), members)
    for power in (1, 2):
        within = power**2 * (truth ** (2 * power - 1) * (1 - truth)).mean() / members  # of the votes on one frame
        error = np.sqrt(((truth**power).var() + within) / 4000)
        assert abs(guess.p**power @ guess.weights - (truth**power).mean()) < 4 * error
    for rate in (0.1, 0.5):
        assert abs(guess.weights[guess.p > rate].sum() - (truth > rate).mean()) < (0.06 if members == 8 else 0.03)


def test_no_step_of_the_estimate_makes_the_counts_less_likely(monkeypatch):
    rng = np.random.default_rng(2)
    changes = rng.binomial(16, SHAPES["mixture"](rng, 300))
    steps = []
    for count in (1, 2, 5, 20, 100, 400):
        monkeypatch.setattr("pdtool.calibration.latent.STEPS", count)
        guess = estimate(changes, 16)
        steps.append(likelihood(guess.p, guess.weights, changes, 16))
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize(("changes", "low", "high"), [(0, 0.0, 0.06), (20, 0.94, 1.0), (10, 0.4, 0.6)])
def test_frames_that_are_all_alike(changes, low, high):
    """No change anywhere, changes everywhere, half of the members always: the mass lies there, and stays a share."""
    guess = estimate(np.full(50, changes), 20)
    assert guess.weights.sum() == pytest.approx(1.0)
    assert guess.weights[(guess.p >= low) & (guess.p <= high)].sum() > 0.6
    assert low <= guess.mean <= high


def test_one_vote_tells_the_mean_alone():
    assert estimate(np.array([0, 0, 0, 1]), 1).mean == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("bad", [[], [-1], [5]])
def test_counts_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match=r"counts? of changes in 0\.\.4"):
        estimate(np.array(bad, dtype=np.int64), 4)


@pytest.mark.parametrize(
    ("p", "weights"),
    [
        ([1.2], [1.0]),
        ([-0.1], [1.0]),
        ([0.1], [0.9]),
        ([0.1, 0.2], [1.5, -0.5]),
        ([0.1, 0.2], [1.0]),
        ([float("nan")], [1.0]),
    ],
)
def test_what_is_no_distribution_is_refused(p, weights):
    with pytest.raises(ValueError, match="expected"):
        Latent(np.array(p), np.array(weights))


@pytest.mark.parametrize(
    "latent",
    [ASSUMED, Latent(np.array([0.0, 0.3, 1.0]), np.array([0.5, 0.2, 0.3])), Latent(np.array([0.4]), np.ones(1))],
)
def test_a_population_has_the_chances_of_all_its_sequences(latent):
    """Sequence by sequence: its chance, and that of a change after it."""
    frames = population(latent, 7)
    for n in range(8):
        total = 0.0
        for votes in product((0, 1), repeat=n):
            z = sum(votes)
            each = (
                np.prod([latent.p if vote else 1 - latent.p for vote in votes], axis=0) if n else np.ones_like(latent.p)
            )
            chance = float(each @ latent.weights)
            total += chance
            assert np.exp(frames.log_weight[n][z]) == pytest.approx(chance, abs=1e-14)
            if n < 7:
                then = float((each * latent.p) @ latent.weights) / chance if chance > 0 else 0.0
                assert frames.change[n][z] == pytest.approx(then, abs=1e-12)
        assert total == pytest.approx(1.0)


def test_a_population_of_a_thousand_members_neither_overflows_nor_warns():
    frames = population(ASSUMED, 1000)
    chance = np.exp([frames.log_weight[300][z] + np.log(float(comb(300, z))) for z in range(301)])
    assert chance.sum() == pytest.approx(1.0, abs=1e-9)
    assert np.isfinite(frames.change[-1]).all()
    assert (np.diff(frames.change[-1]) >= -1e-9).all()  # the more changed, the likelier the next


def test_what_is_assumed_of_adversarial_frames_is_a_distribution_above_the_clean_ones():
    assert ASSUMED.weights.sum() == pytest.approx(1.0)
    assert ASSUMED.p.min() >= 0.3
    assert 0.5 < ASSUMED.mean < 0.9
