"""Plots as inline SVG and images as data URIs: what a self-contained HTML report is drawn with.

The same numbers give the same bytes. matplotlib and Pillow come with `pip install 'pdtool[evaluate]'`.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdtool.evaluation.canvas import INK, MARKERS, Numbers, colour, legend, log_scale, svg
from pdtool.extras import require

__all__ = ["bars", "histogram", "png_data_uri", "scatter"]


def bars(
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Numbers],
    *,
    ylabel: str,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    line: tuple[str, float] | None = None,
    top: float | None = None,
    log: bool = False,
) -> str:
    """Bars side by side: `series` name -> one height a label, as inline SVG.

    `intervals` name -> (low, high) a label draws whiskers; `line` (name, height) a dashed line across; `top` fixes the
    axis (1.0 for shares). A missing bar is NaN.
    """

    def draw(axes: Any) -> None:
        width = 0.8 / max(1, len(series))
        places = np.arange(len(labels))
        for i, (name, heights) in enumerate(series.items()):
            values = np.asarray(heights, dtype=float)
            left = places + (i - (len(series) - 1) / 2) * width
            whiskers = None
            if intervals and name in intervals:
                low, high = np.asarray(intervals[name], dtype=float).T
                whiskers = np.maximum(0.0, np.stack([values - low, high - values]))
            axes.bar(left, values, width * 0.92, label=name, color=colour(i), yerr=whiskers, ecolor=INK, capsize=2)
        if line is not None:
            axes.axhline(line[1], color=INK, linestyle="--", linewidth=1, label=line[0])
        crowded = sum(map(len, labels)) > 60
        axes.set_xticks(places, labels, rotation=35 if crowded else 0, ha="right" if crowded else "center")
        axes.set_ylabel(ylabel)
        if log:
            log_scale(axes, "y")
        if top is not None:
            axes.set_ylim(0, top)
        axes.grid(axis="y")
        legend(axes, len(series) + (line is not None))

    return svg(title, draw)


def histogram(
    title: str,
    series: Mapping[str, Numbers],
    *,
    xlabel: str,
    bins: int | Sequence[float] = 20,
    span: tuple[float, float] | None = None,
    lines: Mapping[str, float] | None = None,
    expected: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    log: bool = False,
) -> str:
    """Distributions over common bins, each as the share of its own frames (so sets of unlike size compare), inline SVG.

    `span` fixes the range of the bins; `lines` name -> x draws dashed lines (thresholds); `expected` name -> (x, share)
    draws what an estimate says of the bins at x as points; `log` scales the shares by their logarithm (rare ones show).
    """

    def draw(axes: Any) -> None:
        arrays = [np.asarray(values, dtype=float) for values in series.values()]
        pooled = np.concatenate(arrays) if arrays else np.zeros(0)
        edges = np.histogram_bin_edges(pooled, bins=bins, range=span)
        least = 1.0
        for i, (name, values) in enumerate(zip(series, arrays, strict=True)):
            shares = np.histogram(values, bins=edges)[0] / max(1, len(values))
            axes.stairs(shares, edges, fill=True, color=colour(i), alpha=0.35)
            axes.stairs(shares, edges, color=colour(i), label=f"{name} (n = {len(values)})")
            least = min([least, *shares[shares > 0]])
        for i, (name, (at, share)) in enumerate((expected or {}).items()):
            axes.plot(at, share, linestyle="", marker=MARKERS[i], markersize=3.5, color=INK, label=name)
        for i, (name, x) in enumerate((lines or {}).items()):
            axes.axvline(x, color=INK, linestyle=("--", ":", "-.")[i % 3], linewidth=1, label=name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("share")
        if log:
            log_scale(axes, "y")
        axes.set_ylim(bottom=least / 2 if log else 0)
        axes.grid(axis="y")
        legend(axes, 2)

    return svg(title, draw)


def scatter(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    from_zero: bool = False,
    names: Mapping[str, Sequence[str]] | None = None,
    line: tuple[str, float] | None = None,
) -> str:
    """Points (x, y), a colour and a marker a series, as inline SVG; `names` series -> one word beside each point.

    `from_zero` begins the x axis at 0 (costs); `line` (name, height) draws a dashed line across.
    """

    def draw(axes: Any) -> None:
        for i, (name, points) in enumerate(series.items()):
            if not points:
                continue
            x, y = np.asarray(points, dtype=float).T
            marker = MARKERS[i % len(MARKERS)]
            axes.scatter(x, y, s=36, color=colour(i), marker=marker, label=name, alpha=0.85, linewidths=0)
            for word, at in zip((names or {}).get(name, ()), points, strict=False):
                axes.annotate(word, at, xytext=(5, 4), textcoords="offset points", fontsize=8)
        if line is not None:
            axes.axhline(line[1], color=INK, linestyle="--", linewidth=1, label=line[0])
        if log_x:
            log_scale(axes, "x")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.margins(0.08)
        if from_zero:
            axes.set_xlim(left=0)
        axes.grid()
        legend(axes, len(series) + (line is not None))

    return svg(title, draw)


def png_data_uri(image: NDArray[np.uint8], *, scale: int = 1) -> str:
    """An image uint8 (H, W, C), C 1 or 3, as `data:image/png;base64,...`, every pixel `scale` x `scale` pixels large.

    Raises ValueError for any other shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"image should be uint8 (H, W, 1 or 3), is {image.dtype} {image.shape}")
    pillow = require("PIL.Image", "write images into a report")
    pixels = image.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    pillow.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
