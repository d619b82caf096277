"""What a memory budget buys, before the first frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import BundleModel
from pdtool.runtime.residency import Residency, draw_order

__all__ = ["Plan", "expected_loads"]

WARM = 200  # frames after which what can stay loaded is


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a memory budget buys, before the first frame. Bytes."""

    budget: int | None
    least: int  # the smallest budget that works
    everything: int  # the budget that keeps all models loaded
    members: int
    stays: int  # first members that stay loaded
    max_models: int
    expected_models_clean: float
    expected_loads_clean: float  # models loaded for a clean frame once warm, frames coming one by one


def expected_loads(
    residency: Residency, models_clean: Sequence[float], *, rotate: int | None = None, frames: int = 2000
) -> float:
    """Loads a clean frame under the residency's budget and sizes, frames coming one by one, once it is warm.

    `models_clean`: the share of clean frames that ask exactly 1, 2, ... members. Counted over `frames` frames drawn
    from it, with engines that do nothing; the order is drawn anew every `rotate` frames.
    """
    rng = np.random.default_rng(0)
    shares = np.asarray(models_clean) / sum(models_clean)
    played = Residency(residency.original, residency.members, residency.budget, _Nothing)
    played.set_order([residency.members.index(model) for model in residency.order])
    loads = 0
    for frame, asked in enumerate(rng.choice(len(shares), size=frames + WARM, p=shares) + 1):
        if frame == WARM:
            loads = played.counters.loads
        if rotate is not None and frame > 0 and frame % rotate == 0:
            played.set_order(draw_order(rng, played.members))
        for model in (played.original, *played.order[:asked]):
            played.engine(model)
    return (played.counters.loads - loads) / frames


class _Nothing:
    measured_bytes = None

    def __init__(self, model: BundleModel) -> None:
        """Nothing is opened."""

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Never called."""
        return batch

    def close(self) -> None:
        """Nothing was opened."""
