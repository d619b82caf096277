"""`pdtool screen`: frames in, one verdict a line out."""

import time
from collections import Counter
from typing import Annotated, Literal

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, mib, note, percent, set_quiet


def screen(
    bundle: options.BundleFolder,
    source: Annotated[
        str,
        typer.Option(
            help="0, /dev/video0, rtsp://, http://, a picture, video, folder, glob or file.npz, '-', test:pattern, "
            "csi://0, gst:PIPELINE"
        ),
    ],
    memory_budget: Annotated[
        str | None, typer.Option(help="Most bytes that models may hold at any moment, e.g. 64MiB (default: no limit).")
    ] = None,
    order: Annotated[
        str, typer.Option(help="fixed: one order of members for the session; rotate:N: a new one every N frames.")
    ] = "fixed",
    seed: Annotated[int | None, typer.Option(min=0, help="Fix the order of members (default: a secret one).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    open_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a live source to open.")] = 5.0,
    read_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a live source's next frame.")] = 5.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores to use (default: all).")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Time budget of a frame in ms (default: none). Members are not interrupted.")
    ] = None,
    late: Annotated[
        Literal["unscreened", "decide"],
        typer.Option(
            help="A frame whose time ran out is unscreened, or decide: the test's answer then, without its promise."
        ),
    ] = "unscreened",
    fail_on_flagged: Annotated[
        bool,
        typer.Option("--fail-on-flagged", help="Exit with code 10 when a frame was flagged or could not be screened."),
    ] = False,
    dry_run: options.DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a frame.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Screen every frame of SOURCE with a calibrated BUNDLE; one line a frame on stdout, a summary on stderr."""
    set_quiet(quiet)
    from pdtool.errors import InputError, UsageError
    from pdtool.runtime.screener import Screener
    from pdtool.runtime.sources import open_frames

    kind, _, period = order.partition(":")
    if not (order == "fixed" or (kind == "rotate" and period.isdigit() and int(period) > 0)):
        raise UsageError(f"--order {order}: expected fixed or rotate:N (N frames)")
    rotate = int(period) if kind == "rotate" else None
    if late == "decide" and latency_ms is None:
        raise UsageError("--late says what becomes of frames whose time ran out; give the time with --latency-ms")
    with Screener.open(
        bundle,
        memory_budget=memory_budget,
        seed=seed,
        rotate=rotate,
        threads=threads,
        latency_ms=latency_ms,
        late=late,
        build=not dry_run,
        note=note,
    ) as screener:
        plan = screener.plan()
        note(
            f"{plan.members} members, at most {plan.max_models} asked, {plan.expected_models_clean:.1f} expected for a "
            f"clean frame; all in memory: {mib(plan.everything)}, least that works: {mib(plan.least)}"
            + ("" if plan.budget is None else f", budget {mib(plan.budget)}: the first {plan.stays} stay loaded, ")
            + ("" if plan.budget is None else f"about {plan.expected_loads_clean:.2f} loads a clean frame")
        )
        promise = screener.calibration
        if promise.fpr_upper > promise.target_fpr:
            note(
                f"false alarms: the promise of {percent(promise.target_fpr)} is NOT KEPT, up to "
                f"{percent(promise.fpr_upper)} (calibrated with --accept-miss)"
            )
        if dry_run:
            if json:
                emit(plan)
            return
        counts: Counter[str] = Counter()
        used = 0
        started = time.monotonic()
        with open_frames(source, open_timeout=open_timeout, read_timeout=read_timeout, limit=limit) as frames:
            try:
                for verdict in screener.screen_frames(frames):
                    counts[verdict.verdict] += 1
                    used += verdict.models_used
                    if json:
                        emit(verdict)
                    else:
                        where = (
                            f"{verdict.label}, {verdict.changes} of {verdict.models_used} members disagree"
                            + (f", corrected: {verdict.corrected_label}" if verdict.corrected_label else "")
                            + (f"; {verdict.reason}" if verdict.reason else "")
                            if verdict.label is not None
                            else str(verdict.reason)
                        )
                        name = "" if verdict.source == source else f"  {verdict.source}"
                        print(f"{verdict.frame:>6}  {verdict.verdict:<11}  {where}{name}", flush=True)
            finally:
                seconds = time.monotonic() - started
                screened = counts["clean"] + counts["adversarial"]
                did = screener.residency.counters
                verdicts = ", ".join(f"{counts[kind]} {kind}" for kind in ("clean", "adversarial", "unscreened"))
                if counts:
                    note(
                        f"{sum(counts.values())} frames in {seconds:.1f} s: {verdicts}; "
                        f"{used / screened if screened else 0:.2f} members a frame; {did.hits} times loaded already, "
                        f"{did.loads} loads ({did.ahead} ahead of need), {did.evictions} evictions, "
                        f"at most {mib(did.peak_bytes)} reserved"
                        + (f"; {did.larger} models took more memory than at export" if did.larger else "")
                    )
    if not counts:
        raise InputError(f"{source}: gave no frames; nothing was screened")
    if fail_on_flagged and (counts["adversarial"] or counts["unscreened"]):
        raise typer.Exit(10)
