"""Backward induction against every table there is, and against tests of any form."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import beta

from pdtool.calibration.exact import operating, rates
from pdtool.calibration.induction import induct
from pdtool.calibration.latent import ASSUMED, Latent, estimate
from pdtool.calibration.optimal import problem
from pdtool.calibration.table import DecisionTable, replay

POINTS = (np.arange(100) + 0.5) / 100
COMMON = Latent(beta.ppf(POINTS, 0.25, 2.5), np.full(100, 0.01))


def one(*p):
    return Latent(np.array(p), np.full(len(p), 1 / len(p)))


def measured(a, b, frames, members, seed):
    rng = np.random.default_rng(seed)
    return estimate(rng.binomial(members, rng.beta(a, b, frames)), members)


PAIRS = {
    "two rates": (one(0.1), one(0.6)),
    "common": (COMMON, ASSUMED),
    "estimated": (measured(0.25, 2.5, 300, 32, 0), ASSUMED),
    "both estimated": (measured(0.25, 2.5, 300, 16, 1), measured(1.4, 1.1, 300, 16, 2)),
    "clear-cut": (one(0.0, 0.0, 0.02), one(0.9, 1.0)),
    "alike": (measured(1, 3, 200, 16, 3), measured(2, 2, 200, 16, 4)),
}
# More changes do not always make adversarial likelier here: some clean frames are changed by every member.
CROSSED = {"some always changed": (one(0.02, 0.02, 0.02, 1.0), ASSUMED), "inside out": (one(0.05, 0.95), one(0.5))}


def random_costs(count, seed):
    return np.exp(np.random.default_rng(seed).uniform(np.log(0.5), np.log(1e5), (2, count)))


def lagrangian(given, flag, clear, flag_cost, clear_cost):
    """Cost of tables (T, N) for costs that broadcast against (T,)."""
    clean, adversarial = rates(given.clean, flag, clear), rates(given.adversarial, flag, clear)
    return clean.models + flag_cost * clean.flag + clear_cost * (1 - adversarial.flag)


def test_every_table_is_there_once(every_table):
    """The exhaustive search of these tests is exhaustive: all pairs of bounds behave like one of its tables."""
    for members, expected in ((1, 3), (2, 13), (3, 55), (4, 253)):
        flag, clear = every_table(members)
        assert len(flag) == expected
    sequences = np.array(list(product((False, True), repeat=3)))

    def behaviour(flag, clear):
        flagged, used = replay(DecisionTable.of(np.array(flag), np.array(clear)), sequences)
        return tuple(flagged), tuple(used)

    pairs = [[(f, c) for f in range(n + 2) for c in range(-1, f)] for n in (1, 2)]
    pairs.append([(f, f - 1) for f in range(5)])
    naive = {behaviour(*zip(*chosen, strict=True)) for chosen in product(*pairs)}
    flag, clear = every_table(3)
    made = [behaviour(f, c) for f, c in zip(flag, clear, strict=True)]
    assert set(made) == naive
    assert len(made) == len(naive)


@pytest.mark.parametrize("members", [1, 2, 4, 6])
@pytest.mark.parametrize("name", [*PAIRS, *CROSSED])
def test_no_table_costs_less(name, members, every_table):
    given = problem(*(PAIRS | CROSSED)[name], members)
    flag_cost, clear_cost = random_costs(200, seed=members)
    flag, clear = induct(given.states, flag_cost, clear_cost)
    mine = lagrangian(given, flag, clear, flag_cost, clear_cost)
    every_flag, every_clear = every_table(members)
    clean, adversarial = rates(given.clean, every_flag, every_clear), rates(given.adversarial, every_flag, every_clear)
    best = np.full(200, np.inf)
    for i in range(200):
        best[i] = (clean.models + flag_cost[i] * clean.flag + clear_cost[i] * (1 - adversarial.flag)).min()
    assert (mine <= best * (1 + 1e-9)).all()


@pytest.mark.parametrize("members", [3, 8, 20, 60])
@pytest.mark.parametrize("name", ["two rates", "common", "clear-cut"])
def test_no_test_of_any_form_costs_less(name, members):
    """Where more changes make adversarial likelier: plain induction with a free decision at every count.

    Written without weights and cuts, on chances that are computed frame kind by frame kind.
    """
    clean, adversarial = PAIRS[name]
    given = problem(clean, adversarial, members)
    for flag_cost, clear_cost in random_costs(40, seed=members).T:
        value = np.zeros(0)
        for n in range(members, -1, -1):
            z = np.arange(n + 1)
            seen = [
                kind.weights @ (kind.p[:, None] ** z * (1 - kind.p[:, None]) ** (n - z))
                for kind in (clean, adversarial)
            ]  # chance of one sequence with z changes
            decide = np.minimum(flag_cost * seen[0], clear_cost * seen[1])
            ask = decide if n == members else seen[0] + value[:-1] + value[1:]
            value = ask if n == 0 else np.minimum(decide, ask)  # the first member is always asked
        flag, clear = induct(given.states, np.array([flag_cost]), np.array([clear_cost]))
        mine = lagrangian(given, flag, clear, flag_cost, clear_cost)[0]
        assert mine == pytest.approx(value[0], rel=1e-9)


def test_the_tables_decide_every_frame():
    """The last member leaves nothing open and bounds never cross, whatever the costs."""
    for name, (clean, adversarial) in (PAIRS | CROSSED).items():
        given = problem(clean, adversarial, 9)
        flag, clear = induct(given.states, *random_costs(300, seed=0))
        assert (clear < flag).all(), name
        assert (clear[:, -1] == flag[:, -1] - 1).all()
        table = DecisionTable.of(flag[0], clear[0])
        assert operating(table, np.linspace(0, 1, 11)).used.sum(axis=1) == pytest.approx(np.ones(11))
