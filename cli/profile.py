"""`pdtool profile`: what the models cost, counted, measured here, estimated elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, note, set_quiet, table


def profile(
    folder: Annotated[
        Path, typer.Argument(metavar="POOL|BUNDLE", help="A folder of `pdtool compress` or `pdtool export`.")
    ],
    device: Annotated[
        str | None, typer.Option(help="Does it fit this board (`pdtool devices list`), and how fast at best.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a report, too: .html, .md or .json.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images at once for the memory figures (default: as many as the bundle screens)."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Single images timed, a model.")] = 50,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Of the estimates for --device (default: the bundle's; fp32 for a pool)."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads a model may use (default: 1).")] = None,
    model: options.PoolModel = None,
    layers: Annotated[bool, typer.Option("--layers", help="A table of layers for every model.")] = False,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Count operations and parameters, measure memory and time, and say what screening a clean frame costs.

    Time and memory are measured on this machine; figures for --device are estimates from its data sheet.
    """
    set_quiet(quiet)
    from pdtool.devices.catalogue import find
    from pdtool.errors import InputError
    from pdtool.evaluation import profile as profiling
    from pdtool.evaluation import profile_report as report
    from pdtool.runtime.bundle import screened_at_once

    board = find(device) if device else None
    if out is not None:
        report.check_out(out)
        if out.exists() and not force:
            raise InputError(f"{out}: exists already; choose another --out or add --force to replace it")
    batch = batch or screened_at_once(folder)  # so that `screen` and `profile` give one answer for memory
    note(f"measuring {folder}")
    result = profiling.profile(
        folder, device=board, precision=precision, batch=batch, runs=runs, threads=threads, model=model
    )
    if out is not None:
        report.write(result, out)
        note(f"wrote {out}")
    if json:
        emit(result)
        return
    for drawn in (*report.tables(result), *(report.layer_tables(result) if layers else ())):
        table(drawn.title, drawn.headers, drawn.rows)
    for line in report.summary(result):
        typer.echo(f"- {line}")
