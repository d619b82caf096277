"""Exact operating characteristics against all vote sequences (up to 12 members) and a million draws (100 members)."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from pdtool.calibration.exact import change_rate_flagged, operating, rates
from pdtool.calibration.latent import ASSUMED, Latent, population
from pdtool.calibration.mmt import compile_mmt
from pdtool.calibration.optimal import costs, frontier, problem
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, replay
from pdtool.calibration.wald import compile_wald

GRID = np.array([0.0, 3e-4, 0.01, 0.1, 0.31, 0.5, 0.77, 0.93, 0.9973, 1.0])
CLEAN = Latent(np.array([0.0, 0.05, 0.3, 0.8]), np.array([0.5, 0.3, 0.15, 0.05]))


def fixed(members, least):
    return DecisionTable((*[None] * (members - 1), least), (*[None] * (members - 1), least - 1))


def counts(table):
    """As `rates` takes tables: first flagging and last clearing counts (1, N)."""
    flag = [n + 1 if count is None else count for n, count in enumerate(table.flag_at, start=1)]
    clear = [-1 if count is None else count for count in table.clear_at]
    return np.array([flag]), np.array([clear])


def every_rule(members):
    """Tables of every rule for label changes, and some that no rule makes."""
    for p0, p1, alpha, beta in ((0.09, 0.11, 0.05, 0.05), (0.1, 0.5, 0.05, 0.01), (0.45, 0.5, 0.3, 0.3)):
        for at_cap in ("adversarial", "clean", "threshold"):
            yield compile_wald(p0, p1, alpha, beta, members, at_cap)
        yield compile_mmt(p0, p1, alpha, beta, members)
    yield compile_mmt(0.02, 0.9, 0.05, 0.05, members)
    for least in {1, (members + 1) // 2, members}:
        yield fixed(members, least)
    front = frontier(problem(CLEAN, ASSUMED, members), *costs(5))
    yield from {DecisionTable.of(flag, clear) for flag, clear in zip(front.flag, front.clear, strict=True)}
    rng = np.random.default_rng(members)
    for after_change in (False, True):
        first = rng.integers(0, np.arange(1, members + 1) + 2)
        last = np.minimum(rng.integers(-1, np.arange(1, members + 1)), first - 1)
        last[-1] = first[-1] - 1
        yield replace(DecisionTable.of(first, last), after_change=after_change)


@pytest.mark.parametrize("members", [1, 2, 3, 6, 9, 12])
def test_every_characteristic_equals_that_of_all_vote_sequences(members):
    sequences = np.array(list(product((False, True), repeat=members)))
    changes = sequences.sum(axis=1)
    chance = GRID[:, None] ** changes * (1 - GRID[:, None]) ** (members - changes)
    for table in every_rule(members):
        flagged, used = replay(table, sequences)
        exact = operating(table, GRID)
        assert np.abs(exact.flag - chance @ flagged).max() < 1e-12
        assert np.abs(exact.clear - chance @ ~flagged).max() < 1e-12
        assert np.abs(exact.mean_models - chance @ used).max() < 1e-11
        for n in range(1, members + 1):
            assert np.abs(exact.flagged[:, n - 1] - chance @ (flagged & (used == n))).max() < 1e-12
            assert np.abs(exact.cleared[:, n - 1] - chance @ (~flagged & (used == n))).max() < 1e-12
        for quantile in (0.5, 0.9, 0.99, 1.0):
            for i in range(len(GRID)):
                within = [chance[i] @ (used <= n) for n in range(1, members + 1)]
                assert exact.models(quantile)[i] == 1 + np.argmax(np.array(within) >= quantile - 1e-12)


@pytest.mark.parametrize("members", [1, 4, 12])
def test_a_population_is_the_mean_over_its_frames(members):
    sequences = np.array(list(product((False, True), repeat=members)))
    changes = sequences.sum(axis=1)
    chance = CLEAN.weights @ (CLEAN.p[:, None] ** changes * (1 - CLEAN.p[:, None]) ** (members - changes))
    for table in every_rule(members):
        flagged, used = replay(table, sequences)
        exact = operating(table, CLEAN.p).over(CLEAN.weights)
        assert exact.flag == pytest.approx([chance @ flagged], abs=1e-12)
        assert exact.mean_models == pytest.approx([chance @ used], abs=1e-11)
        assert exact.p == pytest.approx([CLEAN.mean])
        within = [chance @ (used <= n) for n in range(1, members + 1)]
        assert exact.models(0.99)[0] == 1 + np.argmax(np.array(within) >= 0.99 - 1e-12)


@pytest.mark.parametrize("members", [1, 4, 12, 100])
@pytest.mark.parametrize("frames", [CLEAN, ASSUMED])
def test_rates_of_many_tables_are_those_of_each(members, frames):
    tables = [table for table in every_rule(members) if not table.after_change]
    both = [np.concatenate(side) for side in zip(*map(counts, tables), strict=True)]
    fast = rates(population(frames, members), *both)
    slow = [operating(table, frames.p).over(frames.weights) for table in tables]
    assert len(tables) > 10
    assert fast.flag == pytest.approx([each.flag[0] for each in slow], abs=1e-12)
    assert fast.models == pytest.approx([each.mean_models[0] for each in slow], rel=1e-12)


HUNDRED = {
    "wald": compile_wald(0.1, 0.5, 0.05, 0.05, 100, "threshold"),
    "papers": compile_wald(0.09, 0.11, 0.05, 0.05, 100, "adversarial"),
    "mmt": compile_mmt(0.09, 0.2, 0.05, 0.05, 100),
    "fixed": fixed(100, 30),
    "optimal": next(
        DecisionTable.of(flag[0], clear[0])
        for front in [frontier(problem(CLEAN, ASSUMED, 100), np.array([200.0]), np.array([100.0]))]
        for flag, clear in [(front.flag, front.clear)]
    ),
}


@pytest.mark.parametrize("name", HUNDRED)
def test_a_million_draws_with_a_hundred_members_agree(name):
    """Frames of a mixed population, member after member; every count within 5 standard deviations."""
    table, frames = HUNDRED[name], 1_000_000
    rng = np.random.default_rng(42)
    p = rng.choice(CLEAN.p, size=frames, p=CLEAN.weights).astype(np.float32)
    changes = np.zeros(frames, dtype=np.int64)
    flagged, cleared = np.zeros(100), np.zeros(100)
    for n in range(1, 101):
        vote = rng.random(len(p), dtype=np.float32) < p
        changes += vote
        decision = table.decide(n, changes, vote)
        flagged[n - 1], cleared[n - 1] = (decision == FLAG).sum(), (decision == CLEAR).sum()
        p, changes = p[decision == CONTINUE], changes[decision == CONTINUE]
    exact = operating(table, CLEAN.p).over(CLEAN.weights)
    for drawn, chance in (
        (flagged, exact.flagged[0]),
        (cleared, exact.cleared[0]),
        (flagged.sum(), exact.flag[0]),
        (np.cumsum(flagged + cleared), np.minimum(np.cumsum(exact.used[0]), 1.0)),
    ):
        deviation = np.sqrt(frames * chance * (1 - chance))
        assert (np.abs(drawn - frames * chance) <= 5 * deviation + 5).all()
    numbers = np.arange(1, 101)
    spread = np.sqrt(exact.used[0] @ numbers**2 - exact.mean_models[0] ** 2)
    assert abs((flagged + cleared) @ numbers / frames - exact.mean_models[0]) <= 5 * spread / 1000
    assert abs(flagged.sum() / frames - exact.flag[0]) < 0.003  # a wrong table would be off by more


@pytest.mark.parametrize("within", [1, 3, 6, 8, 50])
def test_the_change_rate_that_is_flagged_in_time(within):
    """The least rate on the grid at which enough of all vote sequences are flagged in time."""
    sequences = np.array(list(product((False, True), repeat=8)))
    changes = sequences.sum(axis=1)
    for table in (compile_wald(0.1, 0.5, 0.05, 0.05, 8, "threshold"), compile_mmt(0.3, 0.7, 0.1, 0.1, 8), fixed(8, 3)):
        flagged, used = replay(table, sequences)
        for share in (0.5, 0.9):
            tried = np.linspace(0, 1, 1001)
            chance = tried[:, None] ** changes * (1 - tried[:, None]) ** (8 - changes) @ (flagged & (used <= within))
            enough = np.flatnonzero(chance >= share - 1e-12)
            expected = float(tried[enough[0]]) if len(enough) else None
            assert change_rate_flagged(table, within, share) == expected
    assert change_rate_flagged(fixed(8, 3), 7) is None  # it says nothing before the eighth


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_chances_outside_0_to_1_are_refused(bad):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        operating(fixed(3, 2), [0.5, bad])


def test_shares_and_quantiles_are_checked():
    exact = operating(fixed(3, 2), [0.1, 0.5])
    for weights in ([0.5], [0.5, 0.4], [1.5, -0.5]):
        with pytest.raises(ValueError, match="2 shares that sum to 1"):
            exact.over(weights)
    for quantile in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share of the frames"):
            exact.models(quantile)
