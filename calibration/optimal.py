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

__all__ = ["NEARLY", "USELESS", "Frontier", "Problem", "cheapest", "costs", "frontier", "problem", "sequence"]

LEAST, MOST = 0.5, 1e5  # costs searched, in members
HALF = log(MOST / LEAST) / 2
COARSE, FINE = 48, 16  # costs a side of the first grid and of the zooms
ZOOM, ROUNDS = 0.15, 3  # of a grid's side, so many times
USELESS = 0.01  # a test that flags fewer adversarial frames is none
NEARLY = 0.005  # share of adversarial frames let through for fewer members

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """What is known of clean and adversarial frames, and the states in which a test can find one."""

    clean: Population
    adversarial: Population
    states: States


@dataclass(frozen=True)
class Frontier:
    """Tables, each the best for its pair of costs: first flagging and last clearing counts (L, N), and their rates."""

    flag_cost: Floats
    clear_cost: Floats
    flag: NDArray[np.int64]
    clear: NDArray[np.int64]
    on_clean: Rates
    on_adversarial: Rates

    def least(self, allowed: NDArray[np.bool_]) -> int | None:
        """Index of the allowed table (L,) that asks fewest members for a clean frame."""
        kept = np.flatnonzero(allowed)
        return int(kept[self.on_clean.models[kept].argmin()]) if len(kept) else None


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


def frontier(given: Problem, flag_cost: Floats, clear_cost: Floats) -> Frontier:
    """The best tables for pairs of costs (L,)."""
    flag, clear, _ = induct(given.states, flag_cost, clear_cost)
    return Frontier(
        flag_cost, clear_cost, flag, clear, rates(given.clean, flag, clear), rates(given.adversarial, flag, clear)
    )


def cheapest(given: Problem, whole: Frontier, *, fpr: float, power: float) -> DecisionTable | None:
    """Fewest expected members on clean frames with at most `fpr` of them and at least `power` of the others flagged.

    `whole` is the problem's frontier. None where no table was found that keeps both rates.
    """
    found: list[tuple[float, DecisionTable]] = []
    starts: list[tuple[float, float]] = []
    front, half = whole, HALF
    for _ in range(ROUNDS + 1):
        best = front.least((front.on_clean.flag <= fpr) & (front.on_adversarial.flag >= power))
        if best is not None:
            found.append((float(front.on_clean.models[best]), DecisionTable.of(front.flag[best], front.clear[best])))
            starts.append((float(front.flag_cost[best]), float(front.clear_cost[best])))
        dual = (
            front.on_clean.models
            + front.flag_cost * (front.on_clean.flag - fpr)
            + front.clear_cost * (power - front.on_adversarial.flag)
        )
        top = int(dual.argmax())
        start = float(front.flag_cost[top]), float(front.clear_cost[top])
        half *= ZOOM
        front = frontier(given, *costs(FINE, (log(start[0]), log(start[1])), half))
    if found:
        starts = [starts[min(range(len(found)), key=lambda i: found[i][0])]]
    for flag_cost, clear_cost in [start, *starts]:
        near = improve(
            given.clean,
            given.adversarial,
            given.states,
            flag_cost=flag_cost,
            clear_cost=clear_cost,
            fpr=fpr,
            power=power,
        )
        if near is not None:
            found.append(near)
    return min(found, key=lambda each: each[0])[1] if found else None


def sequence(given: Problem, levels: Sequence[float], *, mean_models: float | None = None) -> Iterator[DecisionTable]:
    """The cheapest table at each level of false alarms, made when asked for.

    Each flags nearly (`NEARLY`) as many adversarial frames as any table at that level; with `mean_models`, as many as
    any that asks no more members of a clean frame, on average. Levels that no table keeps are left out.
    """
    whole = frontier(given, *costs(COARSE))
    last = None
    for level in levels:
        allowed = whole.on_clean.flag <= level
        if mean_models is not None:
            allowed &= whole.on_clean.models <= mean_models
        if not allowed.any():
            continue
        sharpest = float(whole.on_adversarial.flag[allowed].max())
        if sharpest < USELESS:
            continue
        power = sharpest - (NEARLY if mean_models is None else 0.0)
        table = cheapest(given, whole, fpr=level, power=power)
        if table is not None and table != last:
            yield table
            last = table
