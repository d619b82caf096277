"""What every plot of a report shares: colours, text, and an SVG that needs nothing from elsewhere.

Axes and text take the page's own text colour (`currentColor`), so that one picture reads on light and on dark. The
same numbers give the same bytes. matplotlib comes with `pip install 'pdtool[evaluate]'`.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pdtool.extras import require

__all__ = ["COLOURS", "DASHES", "INK", "MARKERS", "Numbers", "colour", "legend", "log_scale", "svg", "svg_of"]

Numbers = Sequence[float] | NDArray[np.floating[Any]] | NDArray[np.integer[Any]]

COLOURS = ("#4a90d9", "#e07b39", "#3aa675", "#c4579a", "#8b7fd6", "#b8982a")  # tell apart on white and on black
MARKERS = ("o", "s", "^", "D", "v", "P")  # ... and without colour
DASHES = ("-", "--", ":", "-.")
INK = "#123456"  # stands for the page's text colour until the SVG is written


def colour(i: int) -> str:
    """The colour of the i-th series."""
    return COLOURS[i % len(COLOURS)]


def legend(axes: Any, entries: int) -> None:
    """Below the plot, where it hides nothing; none for a single series."""
    if entries > 1:
        axes.figure.legend(loc="outside lower center", ncols=4, frameon=False)


def log_scale(axes: Any, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, its numbers as people write them (matplotlib's own are formulas, here plain text)."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


_STYLE: dict[str, Any] = {
    "svg.hashsalt": "pdtool",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
}


def svg(title: str, draw: Callable[[Any], None]) -> str:
    """One plot: `draw` is given its axes."""

    def whole(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        draw(axes)

    return svg_of(title, whole)


def svg_of(title: str, draw: Callable[[Any], None], size: tuple[float, float] = (6.4, 3.5)) -> str:
    """One drawn figure as an `<svg>` element without links, dates or namespaces (HTML needs none).

    `draw` is given the empty figure, `size` inches wide and high. Raises MissingError without matplotlib.
    """
    matplotlib = require("matplotlib", "draw the plots of a report")
    figure_module = require("matplotlib.figure", "draw the plots of a report")
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc does not change the bytes
        matplotlib.rcParams.update(_STYLE)
        figure = figure_module.Figure(figsize=size, layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # two plots on a page would repeat them; nothing refers to them
    view = re.search(r'viewBox="[^"]*"', text)
    if view is None:
        raise RuntimeError("matplotlib wrote an SVG without viewBox")
    width = 46 * size[0] / 6.4
    head = (
        f'<svg {view[0]} role="img" aria-label="{html.escape(title)}" '
        f'style="width:100%;max-width:{width:g}rem;height:auto">'
    )
    text = head + text[text.index(">") + 1 :]
    return text.replace(INK, "currentColor")
