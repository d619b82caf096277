"""The `optimal` rule: fewest members for a clean frame, given how many clean frames may be flagged and how many
adversarial ones must be.

Backward induction (`induction`) gives the cheapest table for every pair of costs; the pair whose table just keeps both
rates is found by zooming in on the optimum of the dual. Whole numbers leave a gap there: the best table is near that
one but no pair's own, so the last step (`rounding`) searches its neighbourhood.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.exact import Rates, rates
from pdtool.calibration.induction import States, induct
from pdtool.calibration.latent import Latent, Population, population
from pdtool.calibration.rounding import improve
from pdtool.calibration.table import DecisionTable
from pdtool.extras import require

__all__ = ["NEARLY", "USELESS", "Problem", "Tables", "cheapest", "costs", "frontier", "known", "problem", "sequence"]

LEAST, MOST = 0.5, 1e5  # costs searched, in members
HALF = log(MOST / LEAST) / 2
COARSE, FINE = 48, 16  # costs a side of the first grid and of the zooms
ZOOM, ROUNDS = 0.15, 3  # of a grid's side, so many times
SLOPES = np.array([*np.linspace(0.08, 0.92, 22), 0.95, 0.97, 0.99])
MARGINS = np.array([0.5, 1, 1.5, 2, 3, 4, 6, np.inf])  # in label changes
USELESS = 0.01  # a test that flags fewer adversarial frames is none
NEARLY = 0.01  # share of adversarial frames let through for fewer members

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """What is known of clean and adversarial frames, and the states in which a test can find one."""

    clean: Population
    adversarial: Population
    states: States


@dataclass(frozen=True)
class Tables:
    """Tables (L,) with their rates: first flagging and last clearing counts (L, N).

    `flag_cost`, `clear_cost` (L,): the pair of costs that a table is the best for; NaN where it is none's.
    """

    flag_cost: Floats
    clear_cost: Floats
    flag: NDArray[np.int64]
    clear: NDArray[np.int64]
    on_clean: Rates
    on_adversarial: Rates


def problem(clean: Latent, adversarial: Latent, members: int) -> Problem:
    """The counts 0..n as states, for frames of which half are adversarial and up to `members` votes."""
    special = require("scipy.special", "design a sequential test")
    one, other = population(clean, members), population(adversarial, members)
    weight, posterior = [], []
    for n in range(members + 1):
        z = np.arange(n + 1)
        ways = special.gammaln(n + 1) - special.gammaln(z + 1) - special.gammaln(n - z + 1)
        weight.append(np.exp(ways + np.logaddexp(one.log_weight[n], other.log_weight[n])) / 2)
        with np.errstate(invalid="ignore"):
            posterior.append(np.nan_to_num(special.expit(other.log_weight[n] - one.log_weight[n]), nan=0.5))
    change = [(1 - posterior[n]) * one.change[n] + posterior[n] * other.change[n] for n in range(members)]

    def ahead(n: int, values: Floats) -> Floats:
        expected: Floats = values[:, :-1] * (1 - change[n]) + values[:, 1:] * change[n]
        return expected

    return Problem(one, other, States(tuple(weight[1:]), tuple(posterior[1:]), ahead))


def costs(points: int, centre: tuple[float, float] | None = None, half: float = HALF) -> tuple[Floats, Floats]:
    """Pairs of a flagging and a clearing cost (points^2,): all there are, or those around a centre (logarithms)."""
    middle = (log(LEAST) + log(MOST)) / 2
    axes = [np.exp(np.linspace(each - half, each + half, points)) for each in centre or (middle, middle)]
    flag_cost, clear_cost = np.meshgrid(*axes, indexing="ij")
    return flag_cost.ravel(), clear_cost.ravel()


def frontier(given: Problem, flag_cost: Floats, clear_cost: Floats) -> Tables:
    """The best tables for pairs of costs (L,)."""
    flag, clear = induct(given.states, flag_cost, clear_cost)
    return Tables(
        flag_cost, clear_cost, flag, clear, rates(given.clean, flag, clear), rates(given.adversarial, flag, clear)
    )


def straight(given: Problem) -> Tables:
    """Tables with straight bounds z >= slope n + a, z <= slope n - b, as Wald's; the last model decides at the slope.

    Where hard clean frames look like adversarial ones, the frontier leaves gaps at few false alarms that such tables
    fill; with wide margins they ask all and decide at the end.
    """
    members = given.states.members
    slope, above, below = (each.ravel()[:, None] for each in np.meshgrid(SLOPES, MARGINS, MARGINS, indexing="ij"))
    n = np.arange(1, members + 1)
    flag = np.clip(np.ceil(slope * n + above), 0, n + 1).astype(np.int64)
    clear = np.clip(np.floor(slope * n - below), -1, n).astype(np.int64)
    flag[:, -1] = np.ceil(slope[:, 0] * members)
    clear[:, -1] = flag[:, -1] - 1
    none = np.full(len(flag), np.nan)
    return Tables(none, none, flag, clear, rates(given.clean, flag, clear), rates(given.adversarial, flag, clear))


def known(given: Problem) -> tuple[Tables, Tables]:
    """What the search for the cheapest table starts from: the whole frontier, coarsely, and straight tables."""
    return frontier(given, *costs(COARSE)), straight(given)


def cheapest(given: Problem, start: tuple[Tables, Tables], *, fpr: float, power: float) -> DecisionTable | None:
    """Fewest expected members on clean frames with at most `fpr` of them and at least `power` of the others flagged.

    `start` is `known(given)`. None where no table was found that keeps both rates.
    """
    front, half = start[0], HALF
    found = _keeping(start[1], fpr, power)
    pairs: list[tuple[float, float]] = []  # of costs: the frontier's best, and at last the optimum of the dual
    for _ in range(ROUNDS + 1):
        better = _keeping(front, fpr, power)
        if better is not None and (found is None or better.models < found.models):
            found, pairs = better, [(better.flag_cost, better.clear_cost)]
        dual = (
            front.on_clean.models
            + front.flag_cost * (front.on_clean.flag - fpr)
            + front.clear_cost * (power - front.on_adversarial.flag)
        )
        top = int(dual.argmax())
        prices = float(front.flag_cost[top]), float(front.clear_cost[top])
        half *= ZOOM
        front = frontier(given, *costs(FINE, (log(prices[0]), log(prices[1])), half))
    bases = [None] if found is None else [None, (found.flag, found.clear)]
    best = None if found is None else (found.models, DecisionTable.of(found.flag, found.clear))
    for flag_cost, clear_cost in [prices, *pairs]:
        for base in bases:
            near = improve(
                given.clean, given.adversarial, given.states, base,
                flag_cost=flag_cost, clear_cost=clear_cost, fpr=fpr, power=power,
            )  # fmt: skip
            if near is not None and (best is None or near[0] < best[0]):
                best = near
    return None if best is None else best[1]


@dataclass(frozen=True)
class _Found:
    models: float
    flag: NDArray[np.int64]
    clear: NDArray[np.int64]
    flag_cost: float
    clear_cost: float


def _keeping(tables: Tables, fpr: float, power: float) -> _Found | None:
    """The cheapest of these that keeps both rates."""
    kept = np.flatnonzero((tables.on_clean.flag <= fpr) & (tables.on_adversarial.flag >= power))
    if len(kept) == 0:
        return None
    i = kept[tables.on_clean.models[kept].argmin()]
    costs_of = float(tables.flag_cost[i]), float(tables.clear_cost[i])
    return _Found(float(tables.on_clean.models[i]), tables.flag[i], tables.clear[i], *costs_of)


def sequence(given: Problem, levels: Sequence[float], *, mean_models: float | None = None) -> Iterator[DecisionTable]:
    """The cheapest table at each level of false alarms, made when asked for.

    Each flags nearly (`NEARLY`) as many adversarial frames as any table at that level; with `mean_models`, as many as
    any that asks no more members of a clean frame, on average. Levels that no table keeps are left out.
    """
    start = known(given)
    fpr, models, power = (
        np.concatenate(each)
        for each in zip(*((t.on_clean.flag, t.on_clean.models, t.on_adversarial.flag) for t in start), strict=True)
    )
    last = None
    for level in levels:
        allowed = (fpr <= level) & (models <= (mean_models or np.inf))
        sharpest = float(power[allowed].max(initial=0.0))
        if sharpest < USELESS:
            continue
        enough = sharpest - (NEARLY if mean_models is None else 0.0)
        table = cheapest(given, start, fpr=level, power=enough)
        if table is not None and table != last:
            yield table
            last = table
