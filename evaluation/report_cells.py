"""What the tables of an evaluation's reports are made of: cells of a figure and what stands beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from pdtool.evaluation.metrics import Area, Rate
from pdtool.evaluation.report_words import GROUPS, labels
from pdtool.evaluation.results import AttackResult, Evaluation
from pdtool.wording import number, percent

__all__ = ["EMPTY", "Cell", "Table", "by_group", "told"]

Cell = tuple[str, str]  # the figure; count and interval
EMPTY: Cell = ("", "")


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; a row of a single cell is a heading over those that follow."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str


def by_group(e: Evaluation, rows: list[tuple[Cell, ...]]) -> Iterator[tuple[str, AttackResult]]:
    """The attacks group by group, each with what it is called; a group's heading goes into `rows` before its first."""
    called = labels(e.attacks)
    for group, what in GROUPS.items():
        inside = [a for a in e.attacks if a.group == group]
        if inside:
            rows.append(((group, what),))
        yield from ((called[a.name], a) for a in inside)


def told(auroc: Area, tpr: Rate) -> Cell:
    """An AUROC with the TPR at 5 % FPR beside it."""
    return number(auroc.value, 3), f"TPR {percent(tpr.share)}"
