"""Images through the exported bundle: the verdicts that the device would give, and every member's vote beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.calibration.kinds import Kinds, kinds_of, levels
from pdtool.decisions import EvidenceKind, Grading, Verdict
from pdtool.evaluation.metrics import relative_cost, run_macs
from pdtool.images import Images
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes

__all__ = ["Screened", "fooled", "screen_set"]


@dataclass(frozen=True)
class Screened:
    """A set of images (N, H, W, C) with their true labels and what the bundle made of them.

    Arrays are (N,), or (N, M) with the members in the order in which this session asks them.
    """

    name: str  # "clean" or what was done to the images
    images: Images
    truth: NDArray[np.int64]
    source: NDArray[np.int64]  # index in the evaluated data
    verdicts: tuple[Verdict, ...]
    given: NDArray[np.int64]  # the exported original's label
    order: tuple[str, ...]  # the members' ids
    kinds: Kinds | None  # theirs, in a mixed pool
    votes: NDArray[np.int64]  # (N, M) each member's label
    graded: NDArray[np.float64]  # (N, M) 1 - each member's probability of the original's label
    evidence: EvidenceKind  # what the calibration counts
    costs: NDArray[np.float64]  # (M + 1,) runs of the original (MACs) for a frame that asks 0..M members
    flagged: NDArray[np.bool_]
    screened: NDArray[np.bool_]  # False: the verdict is `unscreened`
    corrected: NDArray[np.int64]  # corrected label, -1 where there is none
    used: NDArray[np.int64]  # members asked

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """The exported original's label is not the true one."""
        wrong: NDArray[np.bool_] = self.given != self.truth
        return wrong

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """(N, M) the member's label is not the original's."""
        changed: NDArray[np.bool_] = self.votes != self.given[:, None]
        return changed

    def lcr(self, members: int | None = None) -> NDArray[np.float64]:
        """Label change rate of the first `members` asked, of all without."""
        rates: NDArray[np.float64] = self.changed[:, :members].mean(axis=1)
        return rates

    def mean_graded(self, members: int | None = None) -> NDArray[np.float64]:
        """Mean graded evidence of the first `members` asked, of all without; in a mixed pool the largest of the kinds'
        means."""
        return levels(self.graded[:, :members], self.kinds)[:, -1]

    @property
    def cost(self) -> NDArray[np.float64]:
        """Runs of the original (MACs) that each frame took."""
        return self.costs[self.used]

    @cached_property
    def majority(self) -> NDArray[np.int64]:
        """Most frequent label among all members, the lowest class number where several are: the papers' defence."""
        counts = np.zeros((len(self), int(self.votes.max(initial=0)) + 1), dtype=np.int64)
        for votes in self.votes.T:
            counts[np.arange(len(self)), votes] += 1
        most: NDArray[np.int64] = counts.argmax(axis=1)
        return most


def fooled(attacked: Screened, clean: Screened) -> NDArray[np.bool_]:
    """(N,) attacked frames that the exported original gets wrong and whose clean image it gets right.

    Attacks choose images that the torch net gets right. Another precision gets some of them wrong to begin with: its
    own mistakes are nobody's success. `clean` holds all images that `attacked.source` counts in.
    """
    found: NDArray[np.bool_] = attacked.wrong & ~clean.wrong[attacked.source]
    return found


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

    Graded evidence is recorded as the calibration counts it, and with temperatures of 1 where it counts labels.
    `advance(1)` is called after each model of the second part. Raises what `Screener.open` raises.
    """
    with Screener.open(bundle, memory_budget=memory_budget, seed=seed) as screener:
        verdicts = tuple(screener.screen(images, source=name))
        asked = screener.residency.order
        opened, calibration = screener.opened, screener.calibration
        screener.residency.close()  # asked one after another, as memory allows
        members = opened.bundle.members
        grading = calibration.grading or Grading(temperatures=(1.0,) * len(members))
        votes = collect_votes(opened, images, grading=grading, provider=screener.provider, advance=advance)
    assert votes.graded is not None
    place = {member.id: i for i, member in enumerate(members)}
    order = [place[member.id] for member in asked]
    index = {label: i for i, label in enumerate(opened.bundle.classes)}
    return Screened(
        name=name,
        images=images,
        truth=truth,
        source=source,
        verdicts=verdicts,
        given=votes.original,
        order=tuple(member.id for member in asked),
        kinds=kinds_of([member.kind for member in asked]),
        votes=votes.members[:, order],
        graded=votes.graded[:, order],
        evidence=calibration.evidence,
        costs=relative_cost(np.arange(len(asked) + 1), opened.bundle.original.macs, run_macs(asked)),
        flagged=np.array([verdict.verdict == "adversarial" for verdict in verdicts], dtype=bool),
        screened=np.array([verdict.verdict != "unscreened" for verdict in verdicts], dtype=bool),
        corrected=np.array([index.get(verdict.corrected_label or "", -1) for verdict in verdicts], dtype=np.int64),
        used=np.array([verdict.models_used for verdict in verdicts], dtype=np.int64),
    )
