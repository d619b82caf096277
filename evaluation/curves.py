"""Plots of what a test does: curves, its decisions as a staircase, rules side by side. Inline SVG as in `pictures`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pdtool.evaluation.canvas import DASHES, INK, Numbers, colour, legend, svg, svg_of

__all__ = ["Panel", "curves", "panels", "staircase"]

REGIONS = (("flag", 1), ("ask the next member", None), ("clear", 0))  # top to bottom, with the number of the colour
GREY = "#8a949e"
ROOT_TICKS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Panel:
    """Lying bars, one a label: `values` (NaN: none), a whisker up to `upper`, and a dashed `line` (name, x) across.

    Bars longer than `most` are cut there (one that is far off would flatten all others); their number is still shown.
    """

    title: str
    values: Numbers
    upper: Numbers | None = None
    line: tuple[str, float] | None = None
    most: float | None = None


def curves(
    title: str,
    x: Numbers,
    series: Mapping[str, Numbers],
    *,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, float] | None = None,
    line: tuple[str, float] | None = None,
    top: float | None = None,
    bottom: float = 0.0,
    counts: bool = False,
) -> str:
    """Curves over a common x. `marks` name -> x draws upright lines, `line` (name, height) one across; `bottom` below
    0 keeps curves at 0 off the axis.

    The heights are `counts`: whole numbers beside the axis.
    """

    def draw(axes: Any) -> None:
        for i, (name, y) in enumerate(series.items()):
            axes.plot(x, y, color=colour(i), linestyle=DASHES[i % len(DASHES)], linewidth=2, label=name)
        for i, (name, at) in enumerate((marks or {}).items(), start=1):
            axes.axvline(at, color=INK, linestyle=DASHES[i % len(DASHES)], linewidth=1, label=name)
        if line is not None:
            axes.axhline(line[1], color=INK, linewidth=0.8, linestyle=(0, (6, 3)), label=line[0])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_xlim(min(x), max(x))
        axes.set_ylim(bottom, top)
        axes.yaxis.get_major_locator().set_params(integer=counts)
        axes.grid()
        legend(axes, len(series) + len(marks or {}) + (line is not None))

    return svg(title, draw)


def staircase(title: str, bounds: Sequence[Numbers], *, ylabel: str, counts: bool) -> str:
    """What a test decides after n = 1..N members: a column a number of members, three regions in it.

    `bounds`: (low, clear_to, flag_from, high), each (N,): a column reaches from low to high; up to clear_to it clears,
    from flag_from on it flags. They are bounds of whole `counts`, or of means in [0, 1], which are drawn by their
    square root, so that small ones show.
    """
    low, clear_to, flag_from, high = (np.asarray(values, dtype=float) for values in bounds)
    edges = np.arange(len(low) + 1) + 0.5

    def draw(axes: Any) -> None:
        axes.set_xlim(edges[0], edges[-1])
        if counts:
            axes.yaxis.get_major_locator().set_params(integer=True)
        else:
            axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
            axes.set_yticks(ROOT_TICKS, [f"{tick:g}" for tick in ROOT_TICKS])
        axes.set_ylim(low.min(), high.max())
        for (name, number), bottom, top in zip(
            REGIONS, (flag_from, clear_to, low), (high, flag_from, clear_to), strict=True
        ):
            paint, alpha = (GREY, 0.25) if number is None else (colour(number), 0.7)
            axes.stairs(top, edges, baseline=bottom, fill=True, color=paint, alpha=alpha, label=name, linewidth=0)
            _write_inside(axes, name, bottom, top)
        axes.set_xlabel("members asked n")
        axes.set_ylabel(ylabel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend(axes, len(REGIONS))

    return svg(title, draw)


def panels(title: str, labels: Sequence[str], given: Sequence[Panel]) -> str:
    """Panels of lying bars side by side over the same labels; every number is written at its panel's right."""

    def draw(figure: Any) -> None:
        figure.suptitle(title, x=0.01, ha="left")
        figure.get_layout_engine().set(wspace=0.06)
        places = np.arange(len(labels))
        for i, (axes, panel) in enumerate(zip(figure.subplots(1, len(given), sharey=True), given, strict=True)):
            values = np.asarray(panel.values, dtype=float)
            upper = values if panel.upper is None else np.asarray(panel.upper, dtype=float)
            longest = max(1e-9, np.nanmax(np.append(upper, 0.0 if panel.line is None else panel.line[1])))
            longest = longest if panel.most is None else min(longest, panel.most)
            axes.barh(places, np.minimum(values, longest), 0.66, color=colour(i))
            if panel.upper is not None:
                shown = upper <= longest
                whiskers = np.stack([np.zeros(shown.sum()), (upper - values)[shown]])
                axes.errorbar(
                    values[shown], places[shown], xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2
                )
            for place, value in zip(places, values, strict=True):
                word = "no test" if np.isnan(value) else f"→ {value:.1f}" if value > longest else f"{value:.1f}"
                axes.text(1, place, word, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=9)
            if panel.line is not None:
                axes.axvline(panel.line[1], color=INK, linestyle="--", linewidth=1)
                axes.set_xlabel(f"dashed: {panel.line[0]}", fontsize=9)
            axes.set_title(panel.title, loc="left", fontsize=9.5)
            axes.locator_params(axis="x", nbins=5)
            axes.set_xlim(0, 1.25 * longest)
            axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= longest])
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()

    return svg_of(title, draw, size=(11.0, 1.2 + 0.3 * len(labels)))


def _write_inside(axes: Any, name: str, bottom: NDArray[np.float64], top: NDArray[np.float64]) -> None:
    """A region's name where it has most room over a few columns; nowhere where it has none."""
    to_axes = axes.transScale.transform
    heights = [to_axes(np.stack([np.ones(len(bottom)), each], axis=1))[:, 1] for each in (bottom, top)]
    width = min(len(bottom), 1 + len(bottom) // 3)
    low = sliding_window_view(heights[0], width).max(axis=1)
    high = sliding_window_view(heights[1], width).min(axis=1)
    place = int((high - low).argmax())
    whole = np.ptp(to_axes([(1, edge) for edge in axes.get_ylim()])[:, 1])
    if high[place] - low[place] > 0.07 * whole:
        y = axes.transScale.inverted().transform((1, (high[place] + low[place]) / 2))[1]
        axes.text(place + (width + 1) / 2, y, name, ha="center", va="center", fontsize=9, fontweight="bold")
