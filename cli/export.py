"""`pdtool export`: a pool becomes the folder that goes to the device."""

from typing import Annotated

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, mib, note, percent, progress, set_quiet, table
from pdtool.errors import GateError, InputError, UsageError


def export(
    pool: options.PoolFolder,
    out: options.Out,
    format: Annotated[str, typer.Option(help="What to export to: onnx.")] = "onnx",
    precision: Annotated[str, typer.Option(help="Number format of weights and arithmetic: fp32.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="Check that it fits this board (`pdtool devices`).")] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fail where fewer labels than this agree with torch.")
    ] = 0.99,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Most images at once that memory is measured for (default: 32).")
    ] = None,
    model: options.PoolModel = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export a POOL to ONNX, check every file against torch on real images, measure its memory."""
    set_quiet(quiet)
    if (format, precision) != ("onnx", "fp32"):
        raise UsageError(f"--format {format} --precision {precision}: expected --format onnx --precision fp32")
    if not 0 <= min_agreement <= 1:  # the option's own bounds let nan through
        raise UsageError(f"--min-agreement should lie in [0, 1], is {min_agreement}")
    from pdtool.compress.folder import open_pool
    from pdtool.devices.catalogue import find
    from pdtool.devices.roofline import fits
    from pdtool.export.bundle import export_pool
    from pdtool.runtime.bundle import BATCH
    from pdtool.runtime.residency import need

    batch = batch or BATCH
    board = find(device) if device else None
    used = [member for member in open_pool(pool, model=model).pool.members if member.used]
    if dry_run:
        if out.exists() and not force:
            raise InputError(f"{out}: exists already; choose another --out or add --force to replace it")
        if not used:
            raise GateError(f"{pool}: no member met its accuracy floor; compress again with a smaller --rate")
        note(f"would export the original and {len(used)} members to {out}")
        if json:
            emit({"out": str(out), "members": [member.id for member in used], "measured_batch": batch})
        return
    with progress("exporting", len(used) + 1) as bar:
        bundle = export_pool(
            pool, out, min_agreement=min_agreement, batch=batch, model=model, force=force, advance=bar.advance
        )
    if json:
        emit(bundle)
    else:
        rows = [
            (
                model.id,
                mib(model.file.bytes),
                mib(model.resident_bytes),
                mib(model.load_peak_bytes),
                percent(model.accuracy),
                percent(model.parity.label_agreement),
                f"{model.parity.max_difference:.1e}",
            )
            for model in (bundle.original, *bundle.members)
        ]
        headers = ("model", "file", "resident", "load peak", "accuracy", "labels as torch", "largest difference")
        table(f"{out}: ONNX, memory for batches of {batch}", headers, rows)
    note(f"next: pdtool calibrate {out} --data CLEAN_IMAGES --target-fpr 0.05")
    if board is not None:
        all_loaded = need(bundle.original, bundle.members).everything
        fit = fits(all_loaded, board)
        if not fit.fits:
            raise GateError(
                f"all models loaded take {mib(all_loaded)}, {board.name} has {mib(board.memory_bytes)}: screen with "
                f"--memory-budget or compress fewer members (the bundle was written)"
            )
        note(f"fits {board.name}: {mib(all_loaded)} of {mib(board.memory_bytes)} with every model loaded")
