"""A profile for people: tables for the terminal and Markdown, one self-contained HTML page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pdtool.errors import InputError, UsageError
from pdtool.evaluation.pictures import bars, scatter
from pdtool.evaluation.profile import ModelProfile, Profile
from pdtool.extras import require
from pdtool.files import write_atomic
from pdtool.jsonform import encode
from pdtool.wording import percent, size

__all__ = ["Table", "check_out", "html", "layer_tables", "markdown", "summary", "tables", "write"]

SUFFIXES = (".html", ".md", ".json")


@dataclass(frozen=True)
class Table:
    """A table of ready text; the first column is a name, the others are numbers."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def check_out(out: Path) -> None:
    """Refuse a file that could not be written, before anything is measured. Raises UsageError or InputError."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: expected a name that ends in {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; make it or choose another")
    if out.suffix == ".html":
        require("jinja2", "write an HTML report")
        require("matplotlib", "draw the plots of a report")


def write(profile: Profile, out: Path) -> None:
    """Write the report `out`, its form by its suffix. Raises as `check_out`, InputError where the disk refuses."""
    check_out(out)
    if out.suffix == ".html":
        text = html(profile)
    elif out.suffix == ".md":
        text = markdown(profile)
    else:
        text = json.dumps(encode(profile), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(out, text.encode())


def tables(profile: Profile) -> tuple[Table, ...]:
    """The models as counted, as measured, and the cost of a frame."""
    return _counted_table(profile), _measured_table(profile), _frame_table(profile)


def layer_tables(profile: Profile) -> tuple[Table, ...]:
    """A table a model: every layer that computes or holds parameters."""
    headers = ("layer", "kind", "MACs", "FLOPs", "share", "parameters", "output")
    return tuple(
        Table(
            f"{model.id}: layers of one image",
            headers,
            tuple(
                (
                    layer.name,
                    layer.kind,
                    _count(layer.macs),
                    _count(2 * layer.macs),
                    percent(layer.macs / model.macs),
                    f"{layer.parameters:,}",
                    size(layer.output_bytes),
                )
                for layer in model.layers
                if layer.macs or layer.parameters
            ),
        )
        for model in profile.models
    )


def summary(profile: Profile) -> tuple[str, ...]:
    """What a reader should take along, a sentence a line; estimates are called so."""
    frame = profile.frame
    if frame.calibrated:
        row = frame.rows[1]
        lines = [
            f"a clean frame asks {row.members:.2f} members on average: {_count(row.macs)} MACs, {row.ms:.3g} ms, "
            f"{row.originals_macs:.2f} x one run of the original by MACs, {row.originals_ms:.2f} x by time"
        ]
    else:
        lines = []
    lines.append(
        f"memory: {size(profile.least_bytes)} at least (original, one member, load peak), "
        f"{size(profile.all_bytes)} with every model loaded; the process itself comes on top"
    )
    if profile.device is not None:
        board = profile.device
        if board.all_loaded.fits:
            verdict = f"all models fit at once ({percent(board.all_loaded.share)} of its memory)"
        elif board.least.fits:
            verdict = f"not all models fit at once, {size(board.least.need_bytes)} do: screen with --memory-budget"
        else:
            verdict = "does not fit, not even the original and one member"
        lines.append(f"{board.name}, {board.all_loaded.memory_bytes / 1e9:g} GB: {verdict}; {board.all_loaded.note}")
        lines.append(f"times on {board.id} at {board.precision}: {board.caveat}")
    lines.append(f"MACs and parameters counted by {profile.counted_by}; FLOPs = 2 x MACs")
    lines.append(
        f"measured at {profile.precision} with {profile.measured_with}: memory with {profile.batch} "
        f"{'image' if profile.batch == 1 else 'images'} at once, latency over {profile.runs} single images"
    )
    return (*lines, *profile.notes)


def markdown(profile: Profile) -> str:
    """The profile as Markdown, layers included."""
    parts = [f"# Cost of the {profile.kind} {_cell(profile.name)}", "\n".join(f"- {line}" for line in summary(profile))]
    for table in (*tables(profile), *layer_tables(profile)):
        lines = [f"## {_cell(table.title)}", "", _line(table.headers), "|---|" + "---:|" * (len(table.headers) - 1)]
        parts.append("\n".join(lines + [_line(row) for row in table.rows]))
    return "\n\n".join(parts) + "\n"


def html(profile: Profile) -> str:
    """The profile as one HTML page: no script, nothing fetched, light or dark as the reader's system is."""
    jinja2 = require("jinja2", "write an HTML report")
    source = (files("pdtool.evaluation") / "profile_page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page: str = environment.from_string(source).render(
        profile=profile,
        tiles=_tiles(profile),
        summary=summary(profile),
        tables=tables(profile),
        layers=layer_tables(profile),
        plots=[jinja2.utils.markupsafe.Markup(plot) for plot in _plots(profile)],
    )
    return page


def _counted_table(profile: Profile) -> Table:
    headers = ("model", "accuracy", "MACs", "of original", "FLOPs", "parameters", "file")
    whole, firsts = profile.models[0].macs, {model.id for _, model, _ in _files(profile)}
    rows = tuple(
        (
            model.id,
            percent(model.accuracy),
            _count(model.macs),
            percent(model.macs / whole),
            _count(model.flops),
            _count(model.parameters),
            size(model.file_bytes) if model.id in firsts else "in its pack",
        )
        for model in profile.models
    )
    return Table(f"Counted: one image (by {profile.counted_by})", headers, rows)


def _measured_table(profile: Profile) -> Table:
    board = profile.device
    headers = ["model", "load", "load peak", "resident", "p50", "p90", "p99"]
    headers += [f"estimate, {board.precision}"] if board else []
    rows = []
    for name, model, estimated in _files(profile):
        row = [name, f"{model.load_ms:.3g} ms", size(model.load_peak_bytes), size(model.resident_bytes)]
        row += [f"{ms:.3g} ms" for ms in model.latency_ms]
        row += [f"{estimated:.2g} ms"] if estimated is not None else []
        rows.append(tuple(row))
    there = f"; estimate: at best on {board.id}" if board else ""
    return Table(f"Measured here: memory, and time for one image{there}", tuple(headers), tuple(rows))


def _frame_table(profile: Profile) -> Table:
    board = profile.device
    headers = ["frame", "members", "MACs", "FLOPs", "time", "x MACs", "x time"]
    headers += [f"estimate, {board.precision}"] if board else []
    rows = []
    for row in profile.frame.rows:
        cells = [row.what, f"{row.members:.2f}".removesuffix(".00"), _count(row.macs), _count(2 * row.macs)]
        cells += [f"{row.ms:.3g} ms", f"{row.originals_macs:.2f}", f"{row.originals_ms:.2f}"]
        cells += [f"{row.estimate_ms:.2g} ms"] if row.estimate_ms is not None else []
        rows.append(tuple(cells))
    how = "calibrated" if profile.frame.calibrated else "not calibrated"
    packed = len(_files(profile)) < len(profile.models)
    member = "packs x mean pack" if packed else "members x mean member"
    return Table(
        f"Cost of one frame = original + {member} ({how}); x: in runs of the original",
        tuple(headers),
        tuple(rows),
    )


def _tiles(profile: Profile) -> list[tuple[str, str]]:
    """The figures of the page's head: (value, what it is)."""
    frame = profile.frame
    row = frame.rows[1]
    asked = "a clean frame costs" if frame.calibrated else "if one member is asked, a frame costs"
    original, members = profile.models[0], profile.models[1:]
    mean = sum(member.macs for member in members) / len(members)
    return [
        (f"{row.originals_macs:.2f} ×", f"{asked}, in runs of the original (MACs)"),
        (f"{row.ms:.3g} ms", f"{asked}, measured here"),
        (size(profile.all_bytes), f"with all {len(profile.models)} models loaded"),
        (percent(mean / original.macs), "of the original's MACs: the mean member"),
    ]


def _plots(profile: Profile) -> list[str]:
    original, members = profile.models[0], profile.models[1:]
    files = _files(profile)
    names = [name for name, _, _ in files]
    latency = {name: [file.latency_ms[i] for _, file, _ in files] for i, name in ((0, "p50"), (2, "p99"))}
    resident = [file.resident_bytes / 2**20 for _, file, _ in files]
    peaks = [file.load_peak_bytes / 2**20 for _, file, _ in files]
    return [
        scatter(
            "Accuracy against cost",
            {"original": [_point(original)], "members": [_point(member) for member in members]},
            xlabel="million MACs for one image",
            ylabel="accuracy",
        ),
        bars("Time for one image", names, latency, ylabel="ms", log=_spread(latency) > 20),
        bars("Memory", names, {"once loaded": resident, "most while loading": peaks}, ylabel="MiB"),
    ]


def _files(profile: Profile) -> list[tuple[str, ModelProfile, float | None]]:
    """What is measured: each file's name (the model's id, or that of the pack), its first model, which holds the
    figures, and the estimate of all its models.
    """
    models: dict[str, list[ModelProfile]] = {}
    for model in profile.models:
        models.setdefault(model.file, []).append(model)
    files = []
    for path, inside in models.items():
        estimates = [model.estimate.ms for model in inside if model.estimate is not None]
        name = inside[0].id if len(inside) == 1 else f"{Path(path).stem}: {inside[0].id} to {inside[-1].id}"
        files.append((name, inside[0], sum(estimates) if estimates else None))
    return files


def _spread(series: Mapping[str, Sequence[float]]) -> float:
    """Largest over smallest: one slow run on a busy machine would flatten all other bars."""
    values = [value for numbers in series.values() for value in numbers]
    return max(values) / min(values)


def _point(model: ModelProfile) -> tuple[float, float]:
    return model.macs / 1e6, model.accuracy


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _count(number: float) -> str:
    """A count for people: 416.5 k, 12.3 M, 1.82 G."""
    for unit, scale in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if number >= scale:
            return f"{number / scale:.4g}{unit}"
    return f"{number:g}"
