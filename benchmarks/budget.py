"""Whether screening stays inside its memory budget, seen from outside the process. Linux.

    python benchmarks/budget.py BUNDLE [BUNDLE ...] DATA [--share 8] [--frames 10000] [--batch 8] [--out FILE.json]

The budget is what all models take, divided by --share. Most that the process grew by over the idle one (VmHWM, and
VmRSS read every few milliseconds), against the budget; and how the batches' peaks changed from the second tenth of the
frames to the last. The bundles differ in their calibration: one that asks every member for every frame loads most.
Exit code 1 when a process grew by more than the budget, or went on growing; 2 when the budget is below the least that
works.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from outside import AGED, DRIFT, MIB, as_rows, drift, screening, tenths

from pdtool.runtime.screener import Screener


@dataclass(frozen=True, kw_only=True)
class Held:
    """One bundle's figures. Bytes; growth is that over the idle process."""

    bundle: str
    rule: str
    members: int
    all_models: int
    budget: int
    frames: int
    batch: int
    verdicts: dict[str, int]
    models_used: float  # members asked a frame
    counters: dict[str, int]  # of the residency; peak_bytes is what the ledger reserved at most
    peak_growth: int  # VmHWM
    polled_growth: int  # most VmRSS that was read
    of_budget: float  # the larger of the two / budget
    tenths: list[tuple[float, int]]  # of the frames: mean and most of the batches' peaks
    drift: float  # of the mean, from when the heap had aged to the last tenth
    left: int  # growth once the screener is closed: no model's
    slope: float  # of a straight line through the peaks of the last nine tenths, a thousand frames


def held(bundle: Path, data: str, *, share: float, frames: int, batch: int) -> Held:
    """Screen and watch."""
    with Screener.open(bundle, seed=0) as screener:
        plan, rule = screener.plan(), screener.calibration.rule
    budget = int(plan.everything / share)
    if budget < plan.least:
        print(
            f"{bundle}: 1/{share:g} of all models is {budget / MIB:.2f} MiB, the least budget that works "
            f"{plan.least / MIB:.2f} MiB; give --share {plan.everything / plan.least - 0.005:.2f} or less",
            file=sys.stderr,
        )
        raise SystemExit(2)
    with screening(bundle, data, budget=budget, frames=frames, batch=batch, every=batch) as process:
        *stops, closed = process.stops()
    peak = max(stop.peak for stop in (*stops, closed))
    done, peaks = np.array([(stop.done / 1000, stop.peak) for stop in stops if stop.done > frames / 10]).T
    return Held(
        bundle=bundle.name,
        rule=rule,
        members=plan.members,
        all_models=plan.everything,
        budget=budget,
        frames=frames,
        batch=batch,
        verdicts=closed.verdicts,
        models_used=closed.asked / frames,
        counters=closed.counters,
        peak_growth=peak,
        polled_growth=closed.polled,
        of_budget=max(peak, closed.polled) / budget,
        tenths=tenths(stops),
        drift=drift(stops),
        left=closed.growth,
        slope=float(np.polyfit(done, peaks, 1)[0]),
    )


HEAD = (
    "rule",
    "frames",
    "members asked a frame",
    "loads, evictions",
    "all models, MiB",
    "budget",
    "reserved, most",
    "grew, most (VmHWM)",
    "VmRSS, most",
    "of the budget",
    "left when closed",
    "mean peak, second tenth -> last",
    "most, second tenth -> last",
    f"mean peak, after {AGED:,} loads -> last tenth",
    "slope, KiB a thousand frames",
)


def row(of: Held) -> tuple[str, ...]:
    """A table's row under `HEAD`."""
    sizes = (of.all_models, of.budget, of.counters["peak_bytes"], of.peak_growth, of.polled_growth)
    return (
        f"{of.rule}, {of.members} members",
        f"{of.frames:,}",
        f"{of.models_used:.1f}",
        f"{of.counters['loads']:,}, {of.counters['evictions']:,}",
        *(f"{size / MIB:.2f}" for size in sizes),
        f"{of.of_budget:.3f}",
        f"{of.left / MIB:.2f}",
        *(f"{of.tenths[1][i] / MIB:.2f} -> {of.tenths[-1][i] / MIB:.2f}" for i in (0, 1)),
        f"{of.drift / 1024:+,.0f} KiB",
        f"{of.slope / 1024:+.1f}",
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("data")
    parser.add_argument("--share", type=float, default=8)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.frames < 20 * options.batch:
        parser.error("--frames: expected 20 batches at least, so that a tenth of them has a mean")
    print(as_rows([HEAD, ("---",) + ("--:",) * (len(HEAD) - 1)]), flush=True)
    rows = list[Held]()
    for bundle in options.bundle:
        rows.append(held(bundle, options.data, share=options.share, frames=options.frames, batch=options.batch))
        print(as_rows([row(rows[-1])]), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps([asdict(of) for of in rows], indent=1) + "\n")
    wrong = [f"{of.bundle} grew by {of.of_budget:.3f} of its budget" for of in rows if of.of_budget > 1]
    wrong += [f"{of.bundle} went on growing, by {of.drift / MIB:.2f} MiB" for of in rows if of.drift > DRIFT]
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
