"""Whether memory stays flat over very many frames, seen from outside the process. Linux.

    python benchmarks/soak.py BUNDLE DATA [--frames 100000] [--budget SIZE]

One stream of frames on two cores; the default budget is an eighth of what all models take, or the least that works. A
row every thousand frames, as they come. A heap ages while it loads and drops models, for some thousand loads; exit code
1 when the process grew by more than the budget, went on growing after that, opened files or threads that it did not
close, or reserved memory after the screener was closed.
"""

import argparse
import time
from pathlib import Path

from outside import AGED, DRIFT, MIB, Stop, as_rows, drift, screening, tenths

from pdtool.devices.memory import parse_bytes
from pdtool.runtime.screener import Screener

ROW = 1000
STOPS = 10  # a row: the peaks between them are compared


def watch(bundle: Path, data: str, budget: int, frames: int) -> tuple[list[Stop], float]:
    """(every stop, seconds of screening), a line printed every `ROW` frames."""
    head = ("frames", "growth, MiB", "peak since the row before", "reserved", "loads", "frames/s")
    print(as_rows([head, ("--:",) * len(head)]), flush=True)
    stops, peak, screened = list[Stop](), 0, 0.0
    with screening(bundle, data, budget=budget, frames=frames, batch=None, every=ROW // STOPS) as process:
        started = time.perf_counter()
        for stop in process.stops():
            stops.append(stop)
            if stop.closed:
                break
            screened, peak = time.perf_counter() - started, max(peak, stop.peak)
            if stop.done % ROW == 0 or stop.done == frames:
                sizes = (f"{size / MIB:.2f}" for size in (stop.growth, peak, stop.reserved))
                print(
                    as_rows([(f"{stop.done:,}", *sizes, f"{stop.counters['loads']:,}", f"{stop.done / screened:.0f}")]),
                    flush=True,
                )
                peak = 0
    return stops, screened


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--budget")
    options = parser.parse_args()
    if options.frames < 2 * ROW:
        parser.error(f"--frames: expected {2 * ROW} or more")
    with Screener.open(options.bundle, seed=0) as screener:
        plan = screener.plan()
    budget = max(plan.everything // 8, plan.least) if options.budget is None else parse_bytes(options.budget)
    (*stops, closed), seconds = watch(options.bundle, options.data, budget, options.frames)
    first, last = next(stop for stop in stops if stop.done >= ROW), stops[-1]
    peak, drifted, means = max(stop.peak for stop in stops), drift(stops), tenths(stops)
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(last.verdicts.items()))
    sizes = f"{budget / MIB:.2f}, {peak / MIB:.2f}, {last.counters['peak_bytes'] / MIB:.2f} MiB"
    print(
        "\n"
        + as_rows(
            [
                ("what", "measured"),
                ("---", "--:"),
                ("budget, most grown by, most reserved", sizes),
                (f"growth from frame {first.done:,} to the last", f"{(last.growth - first.growth) / 1024:+,.0f} KiB"),
                ("mean peak of each tenth of the frames, MiB", " ".join(f"{mean / MIB:.1f}" for mean, _ in means)),
                (f"mean peak, from after {AGED:,} loads to the last tenth", f"{drifted / 1024:+,.0f} KiB"),
                ("frames a second, members a frame", f"{last.done / seconds:.0f}, {last.asked / last.done:.2f}"),
                ("verdicts", verdicts),
                (f"open files at frame {first.done:,}, at the last, closed", _three("files", first, last, closed)),
                (f"threads at frame {first.done:,}, at the last, closed", _three("threads", first, last, closed)),
                ("closed: reserved, grown by", f"{closed.reserved} B, {closed.growth / MIB:.2f} MiB"),
            ]
        )
    )
    wrong = {
        "grew by more than the budget": max(peak, closed.polled) > budget,
        "went on growing": drifted > DRIFT,
        # a model's file may be open at a stop, being loaded ahead
        "files or threads became more": last.files > first.files + 1 or last.threads > first.threads,
        "memory is reserved after closing": closed.reserved != 0,
    }
    if any(wrong.values()):
        raise SystemExit("; ".join(what for what, is_so in wrong.items() if is_so))


def _three(name: str, *stops: Stop) -> str:
    return ", ".join(str(getattr(stop, name)) for stop in stops)


if __name__ == "__main__":
    main()
