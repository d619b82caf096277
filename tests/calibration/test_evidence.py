"""Evidence from logits, temperatures, and the adversarial frames that are assumed where none are at hand."""

from decimal import Decimal

import numpy as np
import pytest
from scipy.special import softmax

from pdtool.calibration.evidence import (
    COLDEST,
    FEW,
    HOTTEST,
    NEAR,
    Evidence,
    assumed,
    fit_grading,
    fit_temperature,
    graded,
    log_odds,
    margins,
    shift_of,
    shifted,
)
from pdtool.calibration.latent import ASSUMED
from pdtool.decisions import Grading
from pdtool.errors import InputError


def test_graded_evidence_is_what_the_probability_of_the_label_lacks_to_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (200, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 200)
    for temperature in (0.1, 1.0, 5.0):
        expected = 1 - softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(200), labels]
        evidence = graded(logits, labels, temperature)
        assert evidence == pytest.approx(expected, abs=1e-12)
        assert (evidence >= 0).all() and (evidence <= 1).all()


def test_next_to_no_evidence_is_not_rounded_to_none():
    """Where 1 - p would give 0: exp(-60) / (1 + exp(-60)), to full precision."""
    exact = Decimal(-60).exp() / (1 + Decimal(-60).exp())
    assert graded(np.array([[60, 0]], dtype=np.float32), np.array([0]), 1.0)[0] == pytest.approx(
        float(exact), rel=1e-12
    )


def test_logits_of_any_size_neither_overflow_nor_warn():
    logits = np.array([[1e30, 0.0, -1e30], [-1e30, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert graded(logits, np.array([0, 0, 1]), 0.05).tolist() == pytest.approx([0.0, 1.0, 2 / 3])


def test_a_shift_adds_to_the_log_odds():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 3, (300, 5)).astype(np.float32), rng.integers(0, 5, 300)
    shift = rng.normal(0, 4, 300)
    chance = softmax(logits.astype(np.float64) / 2, axis=1)[np.arange(300), labels]
    odds = np.log1p(-chance) - np.log(chance)
    assert log_odds(logits, labels, 2.0) == pytest.approx(odds, abs=1e-8)
    assert graded(logits, labels, 2.0, shift) == pytest.approx(1 / (1 + np.exp(-odds - shift)), abs=1e-9)
    both = np.stack([odds, 2 * odds], axis=1)
    assert shifted(both, shift)[:, 1] == pytest.approx(1 / (1 + np.exp(-2 * odds - shift)))
    assert shifted(np.array([1e6, -1e6]), np.array([-1e9, 1e9])).tolist() == pytest.approx([0.0, 1.0], abs=1e-200)


def test_a_margin_is_the_lead_of_the_label():
    logits = np.random.default_rng(3).normal(0, 3, (100, 6)).astype(np.float32)
    ranked = np.sort(logits.astype(np.float64), axis=1)
    assert margins(logits).tolist() == (ranked[:, -1] - ranked[:, -2]).tolist()
    assert margins(logits[:, :1]).tolist() == [0.0] * 100


def test_what_members_gain_with_the_originals_margin_is_given_back_beyond_the_median():
    rng = np.random.default_rng(4)
    margin = rng.uniform(0, 12, 5000)
    odds = 1.5 - 0.8 * margin[:, None] + rng.normal(0, 1, (5000, 6))
    grading = fit_grading(odds, (1.0,) * 6, margin)
    assert grading.weight == pytest.approx(0.8, abs=0.01) and grading.knee == pytest.approx(np.median(margin), abs=1e-6)
    shift = shift_of(grading, margin)
    assert shift is not None
    said, plain = shifted(odds, shift), shifted(odds, None)
    below = margin <= grading.knee
    assert np.array_equal(said[below], plain[below]) and (said[~below] > plain[~below]).all()
    sure = margin > grading.knee + 1  # there the margin tells nothing any more
    assert abs(np.corrcoef(margin[sure], (odds + shift[:, None])[sure].mean(axis=1))[0, 1]) < 0.1


def test_members_that_do_not_follow_the_original_give_its_margin_no_weight():
    margin = np.random.default_rng(5).uniform(0, 12, 500)
    for odds in (0.5 * margin[:, None].repeat(3, axis=1), np.zeros((500, 3))):
        assert fit_grading(odds, (1.0, 2.0, 3.0), margin) == Grading(temperatures=(1.0, 2.0, 3.0))
    assert fit_grading(-np.ones((4, 2)), (1.0, 1.0), np.full(4, 3.0)).weight == 0
    assert shift_of(Grading(temperatures=(1.0,)), margin) is None


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_a_temperature_is_found_again(truth):
    """Labels drawn from the member's own probabilities at a known temperature."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2 * truth, (20_000, 5)).astype(np.float32)
    chance = softmax(logits.astype(np.float64) / truth, axis=1)
    labels = (rng.random((20_000, 1)) < chance.cumsum(axis=1)).argmax(axis=1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(truth, rel=0.05)
    assert fit_temperature(logits * np.float32(3), labels) == pytest.approx(3 * found, rel=0.01)

    def likelihood(temperature):
        return np.log(softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(20_000), labels]).mean()

    assert all(likelihood(found) >= likelihood(other) - 1e-9 for other in np.geomspace(0.05, 20, 40))


def test_temperatures_stay_within_their_range():
    sure = np.eye(4, dtype=np.float32)[np.arange(40) % 4] / np.float32(2)
    # never wrong: the colder, the likelier
    assert fit_temperature(sure, np.arange(40) % 4) == pytest.approx(COLDEST, rel=0.01)
    assert fit_temperature(sure, (np.arange(40) + 1) % 4) == pytest.approx(HOTTEST, rel=0.01)  # never right
    assert COLDEST <= fit_temperature(np.zeros((40, 4), dtype=np.float32), np.zeros(40, dtype=np.int64)) <= HOTTEST
    assert COLDEST <= fit_temperature(np.full((5, 3), 1e20, dtype=np.float32), np.zeros(5, dtype=np.int64)) <= HOTTEST


def test_evidence_is_checked():
    changed = np.zeros((3, 2), dtype=bool)
    for bad in (changed.astype(int), changed[0]):
        with pytest.raises(ValueError, match="booleans"):
            Evidence(bad)
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        Evidence(changed, np.zeros((3, 3)))
    for value in (float("nan"), -0.1, 1.1, float("inf")):
        graded_evidence = np.zeros((3, 2))
        graded_evidence[1, 1] = value
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            Evidence(changed, graded_evidence)
    with pytest.raises(ValueError, match="not recorded"):
        Evidence(changed).of("graded")
    assert Evidence(changed).of("label") is changed


def test_shuffling_gives_every_frame_an_order_of_its_own_and_keeps_what_belongs_together():
    changed = np.tile(np.arange(6) < 2, (6000, 1))
    evidence = Evidence(changed, np.tile(np.arange(6) / 10, (6000, 1)))
    mixed = evidence.shuffled(np.random.default_rng(0))
    assert (np.sort(mixed.known(), axis=1) == evidence.known()).all()
    assert (mixed.changed == (mixed.known() < 0.15)).all()
    first = np.bincount((mixed.known()[:, 0] * 10).round().astype(int), minlength=6)
    assert (abs(first - 1000) < 5 * np.sqrt(1000 * 5 / 6)).all()  # every member as often the first
    assert len(mixed) == 6000
    taken = mixed.take(np.array([5, 0]))
    assert (taken.changed == mixed.changed[[5, 0]]).all() and (taken.known() == mixed.known()[[5, 0]]).all()


def test_assumed_frames_change_labels_as_assumed():
    rng = np.random.default_rng(2)
    made = assumed(Evidence(rng.random((50, 40)) < 0.1), 20_000, rng)
    assert made.graded is None
    rates = made.changed.mean(axis=1)
    spread = np.sqrt(ASSUMED.p**2 @ ASSUMED.weights - ASSUMED.mean**2)
    assert rates.mean() == pytest.approx(ASSUMED.mean, abs=5 * spread / np.sqrt(20_000))
    between = ASSUMED.p @ (ASSUMED.weights * ASSUMED.p) - ASSUMED.mean**2
    within = (ASSUMED.weights * ASSUMED.p * (1 - ASSUMED.p)).sum() / 40
    assert rates.var() == pytest.approx(between + within, rel=0.05)
    assert abs(np.corrcoef(made.changed[:, 0] ^ (rates > 0.5), made.changed[:, 1] ^ (rates > 0.5))[0, 1]) < 0.2


def test_assumed_evidence_is_that_of_clean_votes_like_it():
    """From frames whose label change rate is near the assumed one; those tell by their numbers where they come from."""
    rng = np.random.default_rng(3)
    rates = np.repeat([0.0, 0.25, 0.5, 0.75, 1.0], 200)
    changed = np.zeros((1000, 40), dtype=bool)
    for row, rate in enumerate(rates):
        changed[row, rng.permutation(40)[: round(40 * rate)]] = True
    marked = Evidence(changed, rates[:, None] / 2 + 0.3 * changed + np.zeros((1000, 40)))
    made = assumed(marked, 4000, rng)
    source = (made.known() - 0.3 * made.changed) * 2  # the rate of the clean frame that a number was taken from
    assert np.isin(source.round(6), np.unique(rates)).all()
    mean = made.changed.mean(axis=1)
    for rate in (0.5, 0.75, 1.0):  # votes of any clean frame would lie 0.2 to 0.3 away on average
        assert abs(source[abs(mean - rate) < 0.03] - rate).mean() < 0.75 * NEAR
    assert not (made.changed & (source < 0.2)).any()  # frames that never change have no changed votes to give


@pytest.mark.parametrize(("changes", "drawn"), [(FEW - 1, True), (FEW, False)])
def test_with_too_few_changed_clean_votes_evidence_is_drawn_evenly_above_a_half(changes, drawn):
    changed = np.zeros((50, 4), dtype=bool)
    changed.ravel()[:changes] = True
    clean = Evidence(changed, np.where(changed, 0.9, 0.125))
    made = assumed(clean, 3000, np.random.default_rng(4))
    said = made.known()[made.changed]
    assert (made.known()[~made.changed] == 0.125).all()
    if drawn:
        assert said.min() >= 0.5 and said.max() <= 1
        assert np.histogram(said, bins=5, range=(0.5, 1))[0] == pytest.approx(np.full(5, len(said) / 5), rel=0.1)
    else:
        assert (said == 0.9).all()


def test_assumed_frames_leave_the_original_as_sure_as_it_is_of_clean_ones():
    rng = np.random.default_rng(6)
    changed = rng.random((600, 8)) < rng.choice([0.02, 0.5], (600, 1))
    plain = np.where(changed, rng.uniform(0.5, 1, (600, 8)), rng.uniform(0, 0.5, (600, 8)))
    shift = np.where(rng.random(600) < 0.5, 0.0, 3.0)
    clean = Evidence(changed, shifted(np.log(plain / (1 - plain)), shift), shift)
    made = assumed(clean, 4000, np.random.default_rng(7))
    same = assumed(Evidence(changed, plain), 4000, np.random.default_rng(7))
    assert made.shift is not None and (made.shift == 3.0).mean() == pytest.approx((shift == 3.0).mean(), abs=0.05)
    assert np.array_equal(made.changed, same.changed)  # the votes are those of frames without a margin
    odds = np.log(same.known() / (1 - same.known())) + made.shift[:, None]
    assert made.known() == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-9)
    taken = made.take(np.arange(5)).shuffled(rng)
    assert taken.shift is not None and np.array_equal(taken.shift, made.shift[:5])
