"""What members say against the original's label: label changes, and graded evidence from their logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.latent import ASSUMED
from pdtool.decisions import EvidenceKind
from pdtool.errors import InputError
from pdtool.extras import require

__all__ = ["Evidence", "assumed", "fit_temperature", "graded"]

COLDEST, HOTTEST = 0.05, 20.0  # temperatures tried
NEAR = 0.2  # label change rates of frames that count as alike
FEW = 20  # fewer changed (or kept) clean labels say too little about the evidence that comes with one


@dataclass(frozen=True)
class Evidence:
    """Of frames (N,) by members (N, M): whether each changed the label, and its graded evidence where known."""

    changed: NDArray[np.bool_]
    graded: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.changed.ndim != 2 or self.changed.dtype != np.bool_:
            raise ValueError(
                f"expected label changes (N, M) as booleans, got {self.changed.dtype} {self.changed.shape}"
            )
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

    def take(self, frames: NDArray[np.int64]) -> "Evidence":
        """Those frames."""
        return Evidence(self.changed[frames], None if self.graded is None else self.graded[frames])

    def shuffled(self, rng: np.random.Generator) -> "Evidence":
        """Members in a new random order for every frame."""
        order = rng.permuted(np.broadcast_to(np.arange(self.changed.shape[1]), self.changed.shape), axis=1)
        return Evidence(
            np.take_along_axis(self.changed, order, axis=1),
            None if self.graded is None else np.take_along_axis(self.graded, order, axis=1),
        )


def graded(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """1 - the member's probability of the original's label, (N,), from its logits (N, C) divided by `temperature`.

    >>> graded(np.array([[2.0, 0.0], [0.0, 0.0]], dtype=np.float32), np.array([0, 0]), 1.0).round(3)
    array([0.119, 0.5  ])
    """
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    weights = np.exp(scaled)
    total = weights.sum(axis=1)
    weights[np.arange(len(labels)), labels] = 0.0
    evidence: NDArray[np.float64] = weights.sum(axis=1) / total  # not 1 - p, which rounds what is nearly certain to 0
    return evidence


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
    over 0.5 to 1 (or 0 to 0.5).
    """
    chance = rng.choice(ASSUMED.p, size=frames, p=ASSUMED.weights)
    changed = rng.random((frames, clean.changed.shape[1])) < chance[:, None]
    if clean.graded is None:
        return Evidence(changed)
    did = _votes(clean.graded, clean.changed, clean.changed, chance, rng, 0.5)
    did_not = _votes(clean.graded, ~clean.changed, clean.changed, chance, rng, 0.0)
    return Evidence(changed, np.where(changed, did, did_not))


def _votes(
    graded: NDArray[np.float64],
    wanted: NDArray[np.bool_],
    changed: NDArray[np.bool_],
    chance: NDArray[np.float64],
    rng: np.random.Generator,
    low: float,
) -> NDArray[np.float64]:
    """Graded evidence (F, M) for frames of these chances (F,), drawn from the `wanted` votes of frames like them."""
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
