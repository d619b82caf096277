"""The one place that prints: results to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pdtool.jsonform import encode
from pdtool.wording import percent
from pdtool.wording import size as mib

quiet = False  # set by a command's --quiet


def set_quiet(value: bool) -> None:
    """Silence notes and progress for the rest of the process."""
    global quiet
    quiet = value


def emit(document: object) -> None:
    """One JSON document (or one line of a stream of them) to stdout."""
    print(json.dumps(encode(document), ensure_ascii=False, allow_nan=False), flush=True)


def note(text: str) -> None:
    """A line for the person who watches, on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[object]], last: Sequence[Sequence[object]] = ()
) -> None:
    """A result as a table on stdout; the first column is text, the others are right-aligned; a line before `last`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # brackets in a folder's name are not markup

    drawn = Table()
    for i, header in enumerate(headers):
        drawn.add_column(Text(header), justify="left" if i == 0 else "right")
    for i, row in enumerate((*rows, *last)):
        drawn.add_row(*(Text(str(cell)) for cell in row), end_section=i == len(rows) - 1)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(Text(title, style="bold"), soft_wrap=True)  # a table's own title is broken at the table's width
    console.print(drawn)
    sys.stdout.flush()  # before notes on stderr that come after it


class Progress:
    """What a long task calls: `advance` by finished steps, `say` for a line that stays."""

    def __init__(self, advance: object = None) -> None:
        self._advance = advance

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as finished."""
        if callable(self._advance):
            self._advance(steps)

    def say(self, text: str) -> None:
        """A line above the bar."""
        note(text)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Progress]:
    """A bar with the time left on stderr; nothing where stderr is no terminal or under --quiet."""
    if quiet or not sys.stderr.isatty():
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield Progress(lambda steps: bar.advance(task, steps))


__all__ = ["Progress", "emit", "mib", "note", "percent", "progress", "set_quiet", "table"]
