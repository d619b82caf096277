"""The cheapest test there is: backward induction over the states that a frame can be in after n members.

A frame costs 1 for every member asked while it is clean, `flag_cost` if it is flagged although clean, `clear_cost` if
it is cleared although adversarial. For every pair of costs the best decision in every state follows backwards from the
last member (Wald and Wolfowitz 1948; DeGroot 1970, chapter 12): no test with as few false alarms and misses asks
fewer members. The costs are only a way to walk along that frontier: users state rates and numbers of members.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["States", "induct", "sums"]

Floats = NDArray[np.float64]
NEVER = 1e9  # a cost that no other comes near


@dataclass(frozen=True)
class States:
    """The states after n = 1..N members, ordered from little evidence to much.

    `weight[n - 1]` (S_n,): chance of each state if no frame were decided and as many frames were adversarial as not;
    `adversarial[n - 1]` (S_n,): chance that a frame in that state is adversarial; `ahead(n, values (L, S_n+1))`:
    expected value (L, S_n) after one more member.
    """

    weight: tuple[Floats, ...]
    adversarial: tuple[Floats, ...]
    ahead: Callable[[int, Floats], Floats]

    @property
    def members(self) -> int:
        """N."""
        return len(self.weight)


def induct(
    states: States, flag_cost: Floats, clear_cost: Floats, *, clears_from: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best table for each pair of costs (L,): first flagging state and last clearing state (L, N), of those that
    clear none before `clears_from` members were asked.

    Where no state flags the first is S_n, where none clears the last is -1; the last member decides every state. In a
    table all states above a flagging one flag and all below a clearing one clear. That is the best decision wherever
    more evidence makes adversarial likelier; elsewhere it is the closest to it, in expected cost.
    """
    total = states.members
    first_flag = np.empty((len(flag_cost), total), dtype=np.int64)
    last_clear = np.empty_like(first_flag)
    value = np.empty((len(flag_cost), 0))
    for n in range(total, 0, -1):
        adversarial, weight = states.adversarial[n - 1], states.weight[n - 1]
        flag, clear = flag_cost[:, None] * (1 - adversarial), clear_cost[:, None] * adversarial
        if n == total:
            clears, flags = _cut(weight * (clear - flag))
            going_on = np.full(flag.shape, np.inf)
        else:
            going_on = (1 - adversarial) + states.ahead(n, value)
            clearing = NEVER if n < clears_from else clear
            clears, flags = _cuts(weight * (clearing - going_on), weight * (flag - going_on))
        state = np.arange(len(weight))
        value = np.where(state >= flags[:, None], flag, np.where(state <= clears[:, None], clear, going_on))
        first_flag[:, n - 1], last_clear[:, n - 1] = flags, clears
    return first_flag, last_clear


def _cut(clear: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Last clearing and first flagging state where one of both must happen; `clear` (L, S): its cost over flagging."""
    flags = sums(clear).argmin(axis=1)
    return flags - 1, flags


def _cuts(clear: Floats, flag: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Last clearing and first flagging state; costs (L, S) of doing so over going on."""
    clearing, flagging = sums(clear), flag.sum(axis=1, keepdims=True) - sums(flag)  # (L, S + 1): the first k states
    cheapest = np.minimum.accumulate(clearing, axis=1)
    flags = (cheapest + flagging)[:, ::-1].argmin(axis=1)
    flags = flag.shape[1] - flags  # ties: as few states as possible flag
    rows = np.arange(len(flags))
    below = np.arange(clearing.shape[1]) <= flags[:, None]
    clears = np.where(below, clearing, np.inf).argmin(axis=1) - 1
    assert (clears[rows] < flags).all()
    return clears, flags


def sums(values: Floats) -> Floats:
    """Sum of the first k values of the last axis, k = 0..S: (..., S + 1)."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
