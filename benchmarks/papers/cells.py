"""Cells of the tables: the paper's figure beside ours, ours with its interval; and Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from pdtool.evaluation.metrics import Area, Mean, Rate, wilson
from pdtool.wording import NOTHING

__all__ = ["beside", "figure", "markdown", "mean_figure", "plain", "share_of"]


def beside(paper: float | None, ours: str, digits: int = 2) -> str:
    """`98.67 / **95.1** (93.2–96.4)`."""
    return f"{NOTHING if paper is None else f'{paper:.{digits}f}'} / {ours}"


def figure(of: Rate | Area | Mean | None, digits: int = 1) -> str:
    """A share or an area in percent, a mean as it is; bold, its 95 % interval behind it."""
    if of is None:
        return NOTHING
    value = of.share if isinstance(of, Rate) else of.value
    return _written(value, of.low, of.high, 1 if isinstance(of, Mean) else 100, digits)


def mean_figure(of: Iterable[Rate | Area | Mean | None], digits: int = 1) -> str:
    """The mean of several figures; its bounds are the means of theirs, which is wider than a 95 % interval."""
    given = [each for each in of if each is not None]
    values = [each.share if isinstance(each, Rate) else each.value for each in given]
    known = [(v, e.low, e.high) for v, e in zip(values, given, strict=True) if v is not None]
    if not known:
        return NOTHING
    lows, highs = [low for _, low, _ in known if low is not None], [high for _, _, high in known if high is not None]
    low = fmean(lows) if len(lows) == len(known) else None
    high = fmean(highs) if len(highs) == len(known) else None
    return _written(fmean(value for value, _, _ in known), low, high, 1 if isinstance(given[0], Mean) else 100, digits)


def _written(value: float | None, low: float | None, high: float | None, scale: int, digits: int) -> str:
    if value is None:
        return NOTHING
    interval = "" if low is None or high is None else f" ({scale * low:.{digits}f}–{scale * high:.{digits}f})"
    return f"**{scale * value:.{digits}f}**{interval}"


def share_of(rate: Rate | None, whole: int) -> Rate | None:
    """The events of a rate as a share of a larger count, with its interval; None of nothing."""
    if rate is None or whole == 0:
        return None
    low, high = wilson(rate.events, whole)
    return Rate(events=rate.events, count=whole, share=rate.events / whole, low=low, high=high)


def plain(value: float | None, digits: int = 1) -> str:
    """A number of ours without an interval."""
    return NOTHING if value is None else f"**{value:.{digits}f}**"


def markdown(headers: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table; the first `left` columns lean left, the others right. No cell may hold a `|` or a line break."""
    lines = [headers, [*["---"] * left, *["--:"] * (len(headers) - left)], *rows]
    width = len(headers)
    for cells in lines:
        if len(cells) != width or any("|" in cell or "\n" in cell for cell in cells):
            raise ValueError(f"expected {width} cells without | and line breaks, got {list(cells)}")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
