"""Plots of a test's behaviour: the same bytes for the same numbers, every name and number in the picture as text."""

import re

import numpy as np
import pytest

from pdtool.calibration.exact import operating
from pdtool.calibration.response import reach
from pdtool.calibration.wald import compile_wald
from pdtool.evaluation import pictures
from pdtool.evaluation.curves import Panel, curves, panels, staircase

TABLE = compile_wald(0.1, 0.5, 0.05, 0.05, 12, "threshold")


def drawn() -> dict[str, str]:
    exact, bounds = operating(TABLE, np.linspace(0, 1, 21)), reach(TABLE)
    stairs = (bounds.low, bounds.clear_to, bounds.flag_from, bounds.high)
    return {
        "curves": curves(
            "Chance <p> & more",
            exact.p,
            {"flagged": exact.flag, "cleared": exact.clear},
            xlabel="p",
            ylabel="share",
            marks={"p0": 0.1},
            line=("promised", 0.05),
        ),
        "counts": staircase("Decisions", stairs, ylabel="changes", counts=True),
        "means": staircase("Decisions", [each / 13 + 0.05 for each in stairs], ylabel="mean", counts=False),
        "panels": panels(
            "Rules",
            ["wald", "none", "far off"],
            [
                Panel("members", [5.25, float("nan"), 12.0]),
                Panel(
                    "% flagged", [3.0, float("nan"), 98.5], upper=[4.0, float("nan"), 99.0], line=("5 %", 5), most=20
                ),
            ],
        ),
    }


@pytest.mark.parametrize("kind", ["curves", "counts", "means", "panels"])
def test_a_plot_is_one_svg_element_of_same_bytes_without_links(kind: str) -> None:
    first, again = drawn()[kind], drawn()[kind]
    assert first == again
    assert first.startswith("<svg ") and first.rstrip().endswith("</svg>") and first.count("<svg") == 1
    assert not re.search(r"http|<!DOCTYPE|<script|@import|file:", first)
    assert "currentColor" in first and "nan" not in first


def test_names_stand_in_the_pictures() -> None:
    plots = drawn()
    assert "Chance &lt;p&gt; &amp; more" in plots["curves"]
    for name in ("flagged", "cleared", "p0", "promised"):
        assert f">{name}<" in plots["curves"]
    for kind in ("counts", "means"):
        assert plots[kind].count(">ask the next member<") == 2  # in its region and in the legend
        assert ">flag<" in plots[kind] and ">clear<" in plots[kind]


def test_bars_say_their_numbers_where_they_are_cut_or_missing() -> None:
    text = drawn()["panels"]
    assert text.count(">no test<") == 2
    assert ">5.2<" in text and ">12.0<" in text and ">3.0<" in text
    assert ">→ 98.5<" in text and ">100<" not in text  # the axis ends at 20


def test_logarithmic_axes_have_plain_numbers() -> None:
    text = pictures.histogram("x", {"a": np.r_[np.zeros(999), 1.0]}, xlabel="x", span=(0, 1), log=True)
    assert ">0.001<" in text and "mathdefault" not in text
    text = pictures.bars("x", ["a", "b"], {"ms": [1.0, 500.0]}, ylabel="ms", log=True)
    assert ">100<" in text and "mathdefault" not in text


def test_an_estimate_is_drawn_over_its_bins() -> None:
    without = pictures.histogram("x", {"a": [0.0, 0.5]}, xlabel="x", span=(0, 1))
    text = pictures.histogram(
        "x", {"a": [0.0, 0.5]}, xlabel="x", span=(0, 1), expected={"estimated": ([0.0, 0.5], [0.4, 0.6])}
    )
    assert ">estimated<" in text and ">estimated<" not in without
