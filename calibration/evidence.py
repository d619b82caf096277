"""What members say against the original's label: label changes, and graded evidence from their logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.kinds import Kinds, orders, turns
from pdtool.calibration.latent import ASSUMED
from pdtool.decisions import EvidenceKind, Grading
from pdtool.errors import InputError
from pdtool.extras import require

__all__ = [
    "Evidence",
    "assumed",
    "fit_grading",
    "fit_temperature",
    "graded",
    "log_odds",
    "margins",
    "moved",
    "same_kind",
    "shift_of",
    "shifted",
]

COLDEST, HOTTEST = 0.05, 20.0  # temperatures tried
NEAR = 0.2  # label change rates of frames that count as alike
FAR = 500.0  # log-odds that are certain
NEAR_CERTAIN = 14.0  # log-odds (one in a million) beyond which a slope is not fitted
FEW = 20  # fewer changed (or kept) clean labels say too little about the evidence that comes with one


@dataclass(frozen=True)
class Evidence:
    """Of frames (N,) by members (N, M): whether each changed the label, and its graded evidence where known.

    `shift` (N,): what the original's margin added to the log-odds in that, where it did (`shift_of`). `kinds` (M,): of
    the members of a mixed pool.
    """

    changed: NDArray[np.bool_]
    graded: NDArray[np.float64] | None = None
    shift: NDArray[np.float64] | None = None
    kinds: Kinds | None = None

    def __post_init__(self) -> None:
        if self.changed.ndim != 2 or self.changed.dtype != np.bool_:
            raise ValueError(
                f"expected label changes (N, M) as booleans, got {self.changed.dtype} {self.changed.shape}"
            )
        if self.kinds is not None and len(self.kinds) != self.changed.shape[1]:
            raise ValueError(f"expected the kinds of {self.changed.shape[1]} members, got {len(self.kinds)}")
        if self.graded is not None:
            if self.graded.shape != self.changed.shape:
                raise ValueError(f"expected graded evidence {self.changed.shape}, got {self.graded.shape}")
            if not ((self.graded >= 0) & (self.graded <= 1)).all():
                raise InputError("expected graded evidence in [0, 1], got other numbers or NaN; export the pool again")

    def __len__(self) -> int:
        return len(self.changed)

    def of(self, kind: EvidenceKind) -> NDArray[np.bool_] | NDArray[np.float64]:
        """The evidence (N, M) of one kind. Raises ValueError where graded evidence is not known."""
        return self.changed if kind == "label" else self.known()

    def known(self) -> NDArray[np.float64]:
        """The graded evidence (N, M). Raises ValueError where it was not recorded."""
        if self.graded is None:
            raise ValueError("graded evidence was not recorded")
        return self.graded

    def plain(self) -> NDArray[np.float64]:
        """The graded evidence (N, M) without what the original's margin added."""
        return self.known() if self.shift is None else moved(self.known(), -self.shift)

    def take(self, frames: NDArray[np.int64]) -> "Evidence":
        """Those frames."""
        return Evidence(
            self.changed[frames],
            None if self.graded is None else self.graded[frames],
            None if self.shift is None else self.shift[frames],
            self.kinds,
        )

    def shuffled(self, rng: np.random.Generator) -> "Evidence":
        """Members in a new random order for every frame, of those in which a session may ask them (`kinds.orders`)."""
        order = orders(self.changed.shape[1], self.kinds, len(self), rng)
        return Evidence(
            np.take_along_axis(self.changed, order, axis=1),
            None if self.graded is None else np.take_along_axis(self.graded, order, axis=1),
            self.shift,
            None if self.kinds is None else turns(self.kinds),
        )


def graded(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    temperature: float,
    shift: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """1 - the member's probability of the original's label, (N,), from its logits (N, C) divided by `temperature`.

    `shift` (N,) is added to the log-odds against the label first (`shift_of`).

    >>> graded(np.array([[2.0, 0.0], [0.0, 0.0]], dtype=np.float32), np.array([0, 0]), 1.0).round(3)
    array([0.119, 0.5  ])
    """
    return shifted(log_odds(logits, labels, temperature), shift)


def log_odds(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """Log-odds against the labels, (N,) within `FAR`, from logits (N, C) divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    own = scaled[rows, labels]
    scaled[rows, labels] = -np.inf
    with np.errstate(divide="ignore"):  # what is certain
        odds: NDArray[np.float64] = np.log(np.exp(scaled).sum(axis=1)) - own
    return odds.clip(-FAR, FAR)


def shifted(odds: NDArray[np.float64], shift: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Evidence of log-odds (N,) or (N, M) and a shift (N,) of each frame."""
    if shift is not None:
        odds = (odds + (shift if odds.ndim == 1 else shift[:, None])).clip(-FAR, FAR)
    evidence: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
    return evidence


def margins(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """By how many logits the label leads, (N,), from logits (N, C).

    >>> margins(np.array([[2.0, 5.0, 4.0]], dtype=np.float32))
    array([1.])
    """
    if logits.shape[1] < 2:
        return np.zeros(len(logits))
    top = np.partition(logits.astype(np.float64), -2, axis=1)
    lead: NDArray[np.float64] = top[:, -1] - top[:, -2]
    return lead


def shift_of(grading: Grading, margin: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """What the original's margins (N,) add to every member's log-odds; None where they add nothing."""
    return None if grading.weight == 0 else grading.weight * np.maximum(0.0, margin - grading.knee)


def fit_grading(odds: NDArray[np.float64], temperatures: tuple[float, ...], margin: NDArray[np.float64]) -> Grading:
    """How to weigh the original's margin (N,), from clean frames' log-odds (N, M) at these `temperatures`.

    On clean frames members are surer of the label the surer the original is: their log-odds fall by some slope with
    every logit of the margin. Beyond the median of the clean margins that slope is given back, so that the doubt of a
    member weighs more the surer the original is, where clean members hardly ever doubt and attacks that go far over the
    boundary end. Below it nothing is changed: there attacks that just cross the boundary are, and clean frames that are
    hard.
    """
    odds = odds.clip(-NEAR_CERTAIN, NEAR_CERTAIN)
    spread = margin - margin.mean()
    slope = float(spread @ odds.mean(axis=1) / (spread @ spread)) if spread.any() else 0.0
    weight = round(max(0.0, -slope), 6)
    if weight == 0:
        return Grading(temperatures=temperatures)
    return Grading(temperatures=temperatures, weight=weight, knee=round(float(np.median(margin)), 6))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature at which a member's probabilities of the original's labels (N,) are likeliest.

    One number a member (Guo et al. 2017, On calibration of modern neural networks), fitted to the original's labels:
    these need no truth, and they are what the evidence speaks about.
    """
    optimize = require("scipy.optimize", "scale the members' temperatures")
    special = require("scipy.special", "scale the members' temperatures")
    wide = logits.astype(np.float64)
    own = wide[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(special.logsumexp(wide * scale, axis=1) - own * scale))

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


def assumed(clean: Evidence, frames: int, rng: np.random.Generator) -> Evidence:
    """Evidence of adversarial frames that nobody has seen: made of the clean frames' own.

    A frame's chance p that a member changes its label is drawn from `latent.ASSUMED`; each member changes it with that
    chance, independently, and brings the graded evidence of a random clean vote that did (or did not) change the label,
    on a clean frame whose label change rate is near p. Where fewer than 20 clean votes did (or did not): drawn evenly
    over 0.5 to 1 (or 0 to 0.5). What the original's margin adds is taken from a random clean frame: an attack is
    taken to leave the original as sure as it is of clean frames. Members of a mixed pool come in an order in which they
    are asked, and bring votes of their own kind.
    """
    chance = rng.choice(ASSUMED.p, size=frames, p=ASSUMED.weights)
    changed = rng.random((frames, clean.changed.shape[1])) < chance[:, None]
    kinds = None if clean.kinds is None else turns(clean.kinds)
    if clean.graded is None:
        return Evidence(changed, kinds=kinds)
    said, made = clean.plain(), np.empty(changed.shape)
    for here, there in same_kind(kinds, clean.kinds, changed.shape[1]):
        own = clean.changed[:, there]
        did = _votes(said[:, there], own, clean.changed, chance, rng, 0.5)
        did_not = _votes(said[:, there], ~own, clean.changed, chance, rng, 0.0)
        made[:, here] = np.where(changed[:, here], did, did_not)
    if clean.shift is None:
        return Evidence(changed, made, kinds=kinds)
    shift = rng.choice(clean.shift, size=frames)
    return Evidence(changed, moved(made, shift), shift, kinds)


def same_kind(
    one: Kinds | None, other: Kinds | None, members: int
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Which members (M,) of one order, and which of the other, are of the same kind; one pair a kind."""
    if one is None or other is None:
        every = np.ones(members, dtype=np.bool_)
        return [(every, every)]
    return [(np.array(one) == kind, np.array(other) == kind) for kind in dict.fromkeys(one)]


def moved(evidence: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evidence (N, M) with a shift (N,) of its log-odds."""
    with np.errstate(divide="ignore"):
        odds = np.log(evidence) - np.log1p(-evidence)
    return shifted(odds.clip(-FAR, FAR), shift)


def _votes(
    graded: NDArray[np.float64],
    wanted: NDArray[np.bool_],
    changed: NDArray[np.bool_],
    chance: NDArray[np.float64],
    rng: np.random.Generator,
    low: float,
) -> NDArray[np.float64]:
    """Graded evidence (F, M) for frames of these chances (F,), drawn from the `wanted` votes (N, M) of frames that
    are like them by what all members `changed`."""
    shape = (len(chance), graded.shape[1])
    order = np.argsort(changed.mean(axis=1), kind="stable")
    row, member = np.nonzero(wanted[order])
    votes, rates = graded[order][row, member], changed.mean(axis=1)[order][row]  # in the order of their frames' rates
    if len(votes) < FEW:
        return rng.uniform(low, low + 0.5, shape)
    first, last = np.searchsorted(rates, chance - NEAR), np.searchsorted(rates, chance + NEAR, side="right")
    first = np.minimum(first, len(votes) - FEW)
    count = np.maximum(last - first, FEW)
    drawn: NDArray[np.float64] = votes[first[:, None] + (rng.random(shape) * count[:, None]).astype(np.int64)]
    return drawn
