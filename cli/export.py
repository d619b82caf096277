"""`pdtool export`: a pool becomes the folder that goes to the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, mib, note, percent, progress, set_quiet, table
from pdtool.errors import GateError, InputError, UsageError

if TYPE_CHECKING:
    from pdtool.artifacts import BuildOptions, Preprocessing
    from pdtool.devices.catalogue import DeviceProfile, Precision
    from pdtool.export.engines import PlanBuild
    from pdtool.export.pack import Pack

Format = Literal["onnx", "tensorrt", "tensorrt-rtx"]


def export(
    pool: options.PoolFolder,
    out: options.Out,
    format: Annotated[
        Format,
        typer.Option(
            help="onnx: files for any device. tensorrt: also plans for this machine's GPU. tensorrt-rtx: also plans "
            "for any RTX GPU, which need no GPU to be built."
        ),
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"], typer.Option(help="Number format of weights and arithmetic inside the files.")
    ] = "fp32",
    calibration_data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Clean images: half set the ranges of int8, all others judge the files, with the pool's held-out "
            "samples (default: these alone). Not the images that `pdtool calibrate` will get; training images will do.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Check that it fits this board (`pdtool devices`).")] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Fail where fewer labels than this agree with torch (fp32) or with the fp32 file. "
            "(Default: fp32 0.99, fp16 0.98, int8 0.9.)",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Most images at once that memory is measured for (default: 32).")
    ] = None,
    batch_min: Annotated[int | None, typer.Option(min=1, help="Smallest batch of the plans (default: 1).")] = None,
    batch_opt: Annotated[
        int | None, typer.Option(min=1, help="Batch they are tuned for (default: --batch-min).")
    ] = None,
    batch_max: Annotated[int | None, typer.Option(min=1, help="Largest batch of the plans (default: --batch).")] = None,
    workspace: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most scratch memory a plan may use, e.g. 64MiB.")
    ] = None,
    tactic_dram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most memory a build may take to try a kernel: a small board needs a bound."),
    ] = None,
    opt_level: Annotated[
        int | None,
        typer.Option(
            min=0, max=5, help="0: plans are built quickly, 5: the longest search for fast ones (default: 3)."
        ),
    ] = None,
    show_trtexec: Annotated[
        bool, typer.Option("--show-trtexec", help="Print the trtexec command lines that build the same plans.")
    ] = False,
    pack: Annotated[
        str,
        typer.Option(
            metavar="K|auto",
            help="Members a file holds: fewer engines and launches for a GPU, but all K run where one would do. "
            "auto: 2, 4 or 8 where that is 10 % faster here.",
        ),
    ] = "1",
    model: options.PoolModel = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export a POOL to ONNX, check every file on real images, measure its memory."""
    set_quiet(quiet)
    if min_agreement is not None and not 0 <= min_agreement <= 1:  # the option's own bounds let nan through
        raise UsageError(f"--min-agreement should lie in [0, 1], is {min_agreement}")
    packed = _pack(pack)
    from pdtool.compress.folder import open_pool
    from pdtool.devices.catalogue import find
    from pdtool.devices.roofline import fits
    from pdtool.export.bundle import export_pool
    from pdtool.export.pack import pack_names
    from pdtool.export.real import pick_images
    from pdtool.runtime.bundle import BATCH
    from pdtool.runtime.need import need

    batch = batch or BATCH
    build = None
    if format != "onnx":
        build = _build_options(precision, batch_min, batch_opt, batch_max or batch, workspace, tactic_dram, opt_level)
    elif show_trtexec or {batch_min, batch_opt, batch_max, workspace, tactic_dram, opt_level} != {None}:
        raise UsageError(
            "--batch-min, -opt, -max, --workspace, --tactic-dram, --opt-level and --show-trtexec are for --format "
            "tensorrt, got onnx"
        )
    board = find(device) if device else None
    opened = open_pool(pool, model=model)
    used = [member for member in opened.pool.members if member.used]
    if dry_run:
        if out.exists() and not force:
            raise InputError(f"{out}: exists already; choose another --out or add --force to replace it")
        if not used:
            raise GateError(f"{pool}: no member met its accuracy floor; compress again with a smaller --rate")
        images = pick_images(opened, precision, calibration_data)
        ranges = 0 if images.ranges is None else len(images.ranges)
        if packed != "auto":
            packed = min(packed, len(used))
        files = {1: "", "auto": ", packed as measured,"}.get(packed, f", {packed} a file,")
        note(
            f"would export the original and {len(used)} members{files} at {precision} to {out}, judged on "
            f"{len(images.judged)} images" + (f", with ranges from {ranges} others" if ranges else "")
        )
        if show_trtexec and build is not None and packed == "auto":
            note("what files --pack auto makes is known once it has measured: no trtexec lines before")
        elif show_trtexec and build is not None and packed != "auto":
            names = [member.id for member in used] if packed == 1 else pack_names(len(used), packed)
            _show_trtexec(out, ["original", *names], opened.pool.preprocessing, build, format, note if json else print)
        if json:
            emit(
                {
                    "out": str(out),
                    "members": [member.id for member in used],
                    "measured_batch": batch,
                    "precision": precision,
                    "pack": packed,
                    "images_judged": len(images.judged),
                    "images_ranges": ranges,
                }
            )
        return
    if precision == "int8" and calibration_data is None:
        note("the ranges of int8 come from half of the pool's few samples; --calibration-data gives more, and judges")
    if precision != "fp32":
        note(f"{precision} is for GPUs: on a CPU ONNX Runtime is no faster with it, only the files are smaller")
    if board is not None and (warning := _slower(board, precision)):
        note(warning)
    steps = (len(used) + 1) * (1 if build is None else 2)
    with _builder(format, build) as plans, progress("exporting", steps) as bar:
        bundle = export_pool(
            pool,
            out,
            precision=precision,
            calibration_data=calibration_data,
            min_agreement=min_agreement,
            batch=batch,
            model=model,
            pack=packed,
            plans=plans,
            force=force,
            advance=bar.advance,
        )
    if json:
        emit(bundle)
    else:
        rows = [
            (
                model.id,
                *(
                    ("in its pack",) * 4
                    if model.part
                    else map(mib, (model.file.bytes, model.resident_bytes, model.load_peak_bytes, model.run_bytes))
                ),
                percent(model.accuracy),
                percent(model.parity.label_agreement),
                f"{model.parity.max_difference:.1e}",
            )
            for model in (bundle.original, *bundle.members)
        ]
        agreement = "labels as torch" if precision == "fp32" else "labels as fp32"
        headers = ("model", "file", "resident", "load peak", "running", "accuracy", agreement, "largest difference")
        judged = bundle.original.parity.images
        table(f"{out}: ONNX {precision}, judged on {judged} images, memory for batches of {batch}", headers, rows)
    if bundle.pack_ratio is not None:
        note(_packing(packed, bundle.pack, bundle.pack_ratio))
    if build is not None:
        if format == "tensorrt-rtx" and plans is not None and plans.session is None:
            note("no GPU here: the plans are built, not run; what they take and answer is not measured")
        if show_trtexec:
            names = [Path(model.file.path).stem for model in (bundle.original, *bundle.members) if model.part == 0]
            _show_trtexec(out, names, bundle.preprocessing, build, format, note if json else print)
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


def _pack(text: str) -> "Pack":
    """How many members a file shall hold. Raises UsageError for anything but a number from 1 on and auto."""
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--pack should be a number of members from 1 on, or auto, is {text!r}")
    return int(text)


def _packing(wanted: "Pack", count: int, ratio: float) -> str:
    """What there is to say of a measured pack: what it takes, and that it does not pay where it does not."""
    from pdtool.export.pack import PAYS

    if wanted == "auto":
        if count == 1:
            return f"no pack pays on this machine: the best takes {percent(ratio)} of its members' time apart"
        return f"packed by {count}: on this machine that takes {percent(ratio)} of the members' time apart"
    slow = "; --pack 1 serves as well here, and runs one member where one decides" if ratio > PAYS else ""
    return f"a pack of {count} takes {percent(ratio)} of its members' time apart on this machine{slow}"


def _slower(board: "DeviceProfile", precision: "Precision") -> str | None:
    """What there is to say where a precision does not pay on a board, as far as the catalogue knows."""
    peak, full = board.peak(precision), board.peak("fp32")
    if peak is None:
        return f"{board.name} has no known {precision} peak: it may be slower there than fp32, or not run on its GPU"
    if precision != "fp32" and full is not None and peak <= full:
        return f"{board.name} computes no faster at {precision} than at fp32"
    return None


def _build_options(
    precision: "Precision",
    batch_min: int | None,
    batch_opt: int | None,
    batch_max: int,
    workspace: str | None,
    tactic_dram: str | None,
    level: int | None,
) -> "BuildOptions":
    from pdtool.artifacts import BuildOptions

    least = batch_min or 1
    best = batch_opt or least
    if not least <= best <= batch_max:
        raise UsageError(
            f"expected 1 <= --batch-min <= --batch-opt <= --batch-max, got {least}, {best} and {batch_max}"
        )
    return BuildOptions(
        precision=precision,
        batch_min=least,
        batch_opt=best,
        batch_max=batch_max,
        workspace=_size("--workspace", workspace),
        tactic_dram=_size("--tactic-dram", tactic_dram),
        level=level,
    )


def _size(option: str, text: str | None) -> int | None:
    """An option's bytes. Raises UsageError for what is no size."""
    from pdtool.devices.memory import parse_bytes

    try:
        return None if text is None else parse_bytes(text)
    except UsageError:
        raise UsageError(f"{option} should be a size such as 64MiB, is {text!r}") from None


@contextmanager
def _builder(format: Format, build: "BuildOptions | None") -> "Iterator[PlanBuild | None]":
    """TensorRT, opened before anything is exported: where it is missing, that is said at once."""
    if build is None or format == "onnx":
        yield None
        return
    from pdtool.export.engines import open_build

    with open_build(format, build) as plans:
        yield plans


def _show_trtexec(
    out: Path,
    names: list[str],
    preprocessing: "Preprocessing",
    build: "BuildOptions",
    format: Format,
    say: Callable[[str], None],
) -> None:
    """One command line a file."""
    from pdtool.export.engines import trtexec_line
    from pdtool.images import size_of

    if format == "onnx":
        return
    for name in names:
        onnx = str(out / "models" / f"{name}.onnx")
        say(trtexec_line(onnx, f"{name}.plan", size_of(preprocessing), build, library=format))
