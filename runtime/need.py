"""What a bundle's models ask of a memory budget, from the figures measured at export."""

from collections.abc import Sequence
from dataclasses import dataclass

from pdtool.artifacts import BundleModel

__all__ = ["Need", "grown", "need"]

AGE = 2 * 2**20  # bytes of holes in a heap that has loaded and evicted for long: what was left after 100,000 frames
SPREAD = 1.5  # parts of a batch that run at once put their tensors between each other's; so much in 100,000 frames


@dataclass(frozen=True)
class Need:
    """Bytes."""

    scratch: int  # beside what is loaded: what a run of any model takes, and what loading any member takes
    least: int  # original + largest file + scratch: below this nothing works
    everything: int  # all models resident + scratch


def grown(scratch: int) -> int:
    """What the scratch that one run was seen to take becomes in the long run. Bytes; see benchmarks/soak.md."""
    return int(SPREAD * max(scratch, 0)) + AGE


def need(original: BundleModel, members: Sequence[BundleModel]) -> Need:
    """What these models ask of a budget.

    The scratch of runs is shared and stays taken while a member is loaded, so the two add up; the original is loaded
    before anything runs.
    """
    runs = max(model.run_bytes for model in (original, *members))
    scratch = runs + max(member.load_peak_bytes - member.resident_bytes for member in members)
    files = {member.file.path: member.resident_bytes for member in members}  # a file may hold several members
    alone = original.load_peak_bytes
    return Need(
        scratch=scratch,
        least=max(alone, original.resident_bytes + max(files.values()) + scratch),
        everything=max(alone, original.resident_bytes + sum(files.values()) + scratch),
    )
