"""`pdtool bundle`: look at a bundle, or check that every byte is the exported one."""

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, mib, percent, table

app = typer.Typer(no_args_is_help=True, help="Verify or inspect a bundle.")


@app.command()
def verify(bundle: options.BundleFolder, json: options.Json = False) -> None:
    """Check format, digest, and size and SHA-256 of every file; exit code 7 where something was changed."""
    from pdtool.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    files = len({model.file.path for model in opened.models}) + 2 + (opened.calibration is not None)
    if json:
        emit({"bundle": str(bundle), "files": files, "digest": opened.bundle.digest, "intact": True})
    else:
        print(f"{bundle}: intact, {files} files, digest {opened.bundle.digest}")


@app.command()
def inspect(bundle: options.BundleFolder, json: options.Json = False) -> None:
    """Show what a bundle holds."""
    from pdtool.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    if json:
        emit(opened.bundle)
        return
    p = opened.bundle.preprocessing
    c = opened.calibration
    state = "not calibrated"
    if c is not None:
        kept = "kept" if c.fpr_upper <= c.target_fpr else "NOT KEPT"
        state = (
            f"calibrated ({c.rule}, {c.counts} evidence) on {c.data}: at most {percent(c.target_fpr)} false alarms "
            f"promised, {percent(c.realised_fpr)} measured, bound {percent(c.fpr_upper)}: {kept}"
        )
    classes, precision = len(opened.bundle.classes), opened.bundle.precision
    print(f"{bundle}: {p.channels}x{p.height}x{p.width}, {classes} classes, {precision}, {state}")
    mixed = len({member.kind for member in opened.bundle.members}) > 1
    rows = [
        (
            f"{m.id} {m.kind}" if mixed and m.kind else m.id,
            f"{m.macs / 1e6:.2f} M",
            f"{m.parameters:,}",
            *(("in its pack",) * 2 if m.part else (mib(m.file.bytes), mib(m.resident_bytes))),
            percent(m.accuracy),
        )
        for m in opened.models
    ]
    table("models", ("model", "MACs", "parameters", "file", "resident", "accuracy"), rows)
