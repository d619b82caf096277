"""Bounds on the mean evidence: what they promise on the frames they were made from, and against label changes."""

import numpy as np
import pytest

from pdtool.calibration.evidence import Evidence
from pdtool.calibration.exact import rates
from pdtool.calibration.graded import graded_sequence
from pdtool.calibration.latent import Latent, estimate
from pdtool.calibration.optimal import problem, sequence
from pdtool.calibration.table import DecisionTable, GradedTable, replay

LEVELS = [0.02, 0.05, 0.1]


@pytest.fixture(scope="module")
def frames(votes):
    """Clean (500) and adversarial (500) evidence of 12 members."""
    rng = np.random.default_rng(0)
    return votes(rng.beta(0.3, 5, 500), 12, rng), votes(rng.beta(4, 2, 500), 12, rng)


def many(evidence, rng):
    """The same frames 20 times, members in ever new orders."""
    return rng.permuted(np.repeat(evidence, 20, axis=0), axis=1)


def said(evidence):
    return Evidence(evidence > 0.5, evidence)


def measured(table, clean, adversarial):
    """False alarms, power and mean members on recorded evidence."""
    flagged, used = replay(table, clean)
    return float(flagged.mean()), float(replay(table, adversarial)[0].mean()), float(used.mean())


@pytest.mark.parametrize("members", [1, 4, 12])
def test_the_tables_do_on_the_frames_what_they_were_chosen_for(frames, members):
    """Every level nearly kept, power rising with it, and bounds that leave every frame decided."""
    rng = np.random.default_rng(1)
    clean, adversarial = (each.known() for each in frames)
    before = 0.0
    for level in LEVELS:
        (table,) = graded_sequence(frames[0], frames[1], members, [level], rng)
        assert table.max_models == members
        assert table.flag_above[-1] == table.clear_below[-1]
        fpr, power, models = measured(table, many(clean, rng), many(adversarial, rng))
        assert fpr <= 1.15 * level + 0.003
        assert 1 <= models <= members
        assert power >= before - 0.02
        before = power
    assert before > 0.6


def test_fewer_members_than_asking_all_at_the_same_rates(frames):
    """The best test of all 12 means, at the same false alarms, flags hardly more and asks several times as many."""
    rng = np.random.default_rng(2)
    clean, adversarial = (many(each.known(), rng) for each in frames)
    for level in LEVELS[1:]:
        (table,) = graded_sequence(frames[0], frames[1], 12, [level], rng)
        fpr, power, models = measured(table, clean, adversarial)
        bound = float(np.quantile(clean.mean(axis=1), 1 - fpr, method="higher"))
        fixed = GradedTable((*[None] * 11, bound), (*[None] * 11, bound))
        assert power > measured(fixed, clean, adversarial)[1] - 0.03
        assert models < 12 / 2.5


def test_graded_evidence_decides_with_fewer_members_than_label_changes(frames):
    """At equal false alarms and power on the same frames (it holds more: the label change is a part of it)."""
    rng = np.random.default_rng(3)
    both = [each.shuffled(rng) for each in frames]
    guess, other = (estimate(each.changed.sum(axis=1), 12) for each in frames)
    (label,) = sequence(problem(guess, other, 12), [0.1])
    fpr, power, models = measured(label, *(many(each.changed, rng) for each in both))
    options = [
        measured(table, *(many(each.known(), rng) for each in both))
        for level in np.linspace(0.02, 0.1, 9)
        for table in graded_sequence(both[0], both[1], 12, [level], rng)
    ]
    assert any(f <= fpr + 0.005 and p >= power - 0.005 and m < 0.9 * models for f, p, m in options)


def test_evidence_that_is_the_label_change_gives_the_tables_of_label_changes():
    """Then the mean is the count, the bins are the counts, and both inductions are the same but for sampled paths."""
    rng = np.random.default_rng(4)
    truth = [Latent(np.array([0.02, 0.3]), np.array([0.8, 0.2])), Latent(np.array([0.5, 0.9]), np.array([0.5, 0.5]))]
    clean, adversarial = (
        (rng.random((4000, 6)) < rng.choice(kind.p, 4000, p=kind.weights)[:, None]).astype(np.float64) for kind in truth
    )
    given = problem(truth[0], truth[1], 6)
    for level in (0.03, 0.1):
        (bounds,) = graded_sequence(said(clean), said(adversarial), 6, [level], rng)
        table = as_counts(bounds)
        fpr, models = (getattr(rates(given.clean, *table), what)[0] for what in ("flag", "models"))
        power = rates(given.adversarial, *table).flag[0]
        assert fpr <= 1.1 * level
        assert replay(bounds, clean)[0].mean() == pytest.approx(fpr, abs=0.01)
        (exact,) = sequence(given, [float(fpr) + 1e-9])
        best_power = rates(given.adversarial, *counts(exact)).flag[0]
        assert power > best_power - 0.05
        assert models < rates(given.clean, *counts(exact)).models[0] * 1.1 + 0.1


def as_counts(bounds):
    """A table on means as one on counts (1, N)."""
    flag, clear = [], []
    for n, (above, below) in enumerate(zip(bounds.flag_above, bounds.clear_below, strict=True), start=1):
        means = np.arange(n + 1) / n
        flag.append(n + 1 if above is None else int((means <= above).sum()))
        clear.append(-1 if below is None else int((means <= below).sum()) - 1)
    return np.array([flag]), np.array([clear])


def counts(table: DecisionTable):
    flag = [n + 1 if count is None else count for n, count in enumerate(table.flag_at, start=1)]
    return np.array([flag]), np.array([[-1 if count is None else count for count in table.clear_at]])


def test_so_few_members_on_average_as_asked_for(frames):
    rng = np.random.default_rng(5)
    clean, adversarial = (each.known() for each in frames)
    (free,) = graded_sequence(frames[0], frames[1], 12, [0.1], rng)
    (frugal,) = graded_sequence(frames[0], frames[1], 12, [0.1], rng, mean_models=1.3)
    both = [many(each, rng) for each in (clean, adversarial)]
    assert measured(frugal, *both)[2] <= 1.3 * 1.05 < measured(free, *both)[2]
    assert measured(frugal, *both)[1] < measured(free, *both)[1]


def test_one_odd_bin_does_not_condemn_all_above_it():
    """A few adversarial frames below evidence that clean frames often have: strict levels are still found.

    Taking the running maximum of the share of adversarial frames would call everything above that bin adversarial.
    """
    rng = np.random.default_rng(6)
    clean = np.clip(np.repeat(rng.beta(0.5, 2, (300, 1)), 8, axis=1) + rng.normal(0, 0.02, (300, 8)), 0, 1)
    adversarial = np.clip(
        np.repeat(rng.choice([0.31, 0.9], (300, 1)), 8, axis=1) + rng.normal(0, 0.004, (300, 8)), 0, 1
    )
    (table,) = graded_sequence(said(clean), said(adversarial), 8, [0.02], rng)
    fpr, power, _ = measured(table, many(clean, rng), many(adversarial, rng))
    assert fpr <= 0.03
    assert power > 0.2


def test_the_same_seed_gives_the_same_bounds(frames):
    one, two = (list(graded_sequence(frames[0], frames[1], 5, LEVELS, np.random.default_rng(9))) for _ in range(2))
    assert one == two
    assert one
