"""An evaluation as Markdown, for a pull request: the same tables as the HTML report."""

from pdtool.evaluation.report_tables import Table, tables
from pdtool.evaluation.report_words import LIMITS, summary
from pdtool.evaluation.results import Evaluation

__all__ = ["markdown_report"]


def markdown_report(e: Evaluation) -> str:
    """Every figure with its n, its interval and the seed."""
    s, m = e.subject, e.machine
    lines = [
        f"# Evaluation of {s.model} with {s.members} members ({s.method})",
        "",
        *(f"- {line}" for line in summary(e)),
        "",
        f"Data `{e.data}`, {e.clean.every.count} images, seed {e.seed}, pdtool {e.pdtool}, bundle `{s.bundle_digest}` "
        f"({s.precision}), {m.engines} on {', '.join((m.cpu, *m.gpus))}, {m.cores} cores.",
    ]
    if e.command:
        lines += ["", "```", e.command, "```"]
    for table in tables(e):
        lines += ["", f"## {table.title}", "", *_rows(table), "", table.note]
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in LIMITS), ""])


def _rows(table: Table) -> list[str]:
    wide = len(table.headers)
    lines = [_line(table.headers), "|" + "|".join(["---", *["--:"] * (wide - 1)]) + "|"]
    for row in table.rows:
        cells = [" ".join(filter(None, (figure.strip(), f"({beside})" if beside else ""))) for figure, beside in row]
        cells += [""] * (wide - len(cells))
        lines.append(_line([f"*{cells[0]}*" if len(row) == 1 else cells[0], *cells[1:]]))
    return lines


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
