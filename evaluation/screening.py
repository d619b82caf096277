"""Images through the exported bundle: the verdicts that the device would give, and every member's vote beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.decisions import Verdict
from pdtool.evaluation.diversity import Diversity, diversity
from pdtool.evaluation.metrics import relative_cost, run_macs
from pdtool.images import Images
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes

__all__ = ["Screened", "screen_set"]


@dataclass(frozen=True)
class Screened:
    """A set of images (N, H, W, C) with their true labels and what the bundle made of them; arrays are (N,)."""

    name: str  # "clean" or the attack's
    images: Images
    truth: NDArray[np.int64]
    source: NDArray[np.int64]  # index in the evaluated data
    verdicts: tuple[Verdict, ...]
    given: NDArray[np.int64]  # the exported original's label
    lcr: NDArray[np.float64]  # label change rate, all members asked
    diversity: Diversity  # of all members' label changes on the frames that count: attacked ones that fool the original
    score: NDArray[np.float64]  # mean evidence of the calibration's kind, all members asked
    flagged: NDArray[np.bool_]
    screened: NDArray[np.bool_]  # False: the verdict is `unscreened`
    corrected: NDArray[np.int64]  # corrected label, -1 where there is none
    used: NDArray[np.int64]  # members asked
    cost: NDArray[np.float64]  # runs of the original (MACs)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """The exported original's label is not the true one."""
        wrong: NDArray[np.bool_] = self.given != self.truth
        return wrong


def screen_set(
    bundle: Path,
    name: str,
    images: Images,
    truth: NDArray[np.int64],
    source: NDArray[np.int64],
    *,
    seed: int,
    memory_budget: str | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Screened:
    """Screen images with a calibrated bundle, members in the order that `seed` draws, then ask every member.

    `advance(1)` is called after each model of the second part. Raises what `Screener.open` raises.
    """
    with Screener.open(bundle, memory_budget=memory_budget, seed=seed) as screener:
        verdicts = tuple(screener.screen(images, source=name))
        order = run_macs(screener.residency.order)
        opened, calibration = screener.opened, screener.calibration
        screener.residency.close()  # asked one after another, as memory allows
        votes = collect_votes(
            opened, images, temperatures=calibration.temperatures, provider=screener.provider, advance=advance
        )
    counted = votes.evidence.changed if name == "clean" else votes.evidence.changed[votes.original != truth]
    index = {label: i for i, label in enumerate(opened.bundle.classes)}
    used = np.array([verdict.models_used for verdict in verdicts], dtype=np.int64)
    return Screened(
        name=name,
        images=images,
        truth=truth,
        source=source,
        verdicts=verdicts,
        given=votes.original,
        lcr=votes.evidence.changed.mean(axis=1),
        diversity=diversity(counted),
        score=votes.evidence.of(calibration.evidence).mean(axis=1),
        flagged=np.array([verdict.verdict == "adversarial" for verdict in verdicts], dtype=bool),
        screened=np.array([verdict.verdict != "unscreened" for verdict in verdicts], dtype=bool),
        corrected=np.array([index.get(verdict.corrected_label or "", -1) for verdict in verdicts], dtype=np.int64),
        used=used,
        cost=relative_cost(used, opened.bundle.original.macs, order),
    )
