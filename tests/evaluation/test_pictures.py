"""Plots: the same bytes for the same numbers, nothing fetched from elsewhere, every number's name in the picture."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pdtool.evaluation import pictures

DIGITS = load_digits()


def drawn() -> dict[str, str]:
    ink = DIGITS.images.mean(axis=(1, 2))
    of = {str(d): ink[DIGITS.target == d] for d in (0, 1)}
    means = [float(ink[DIGITS.target == d].mean()) for d in range(10)]
    labels = [str(d) for d in range(10)]
    return {
        "bars": pictures.bars(
            "Mean <ink> & more",
            labels,
            {"mean": means},
            ylabel="ink",
            intervals={"mean": [(m - 0.1, m + 0.1) for m in means]},
            line=("all", float(ink.mean())),
        ),
        "histogram": pictures.histogram("Ink", of, xlabel="ink", lines={"threshold": 5.0}),
        "scatter": pictures.scatter(
            "Ink", {"digits": list(enumerate(means))}, xlabel="digit", ylabel="ink", names={"digits": labels}
        ),
    }


@pytest.mark.parametrize("kind", ["bars", "histogram", "scatter"])
def test_a_plot_is_one_svg_element_of_same_bytes_without_links(kind: str) -> None:
    first, again = drawn()[kind], drawn()[kind]
    assert first == again
    assert first.startswith("<svg ") and first.rstrip().endswith("</svg>")
    assert not re.search(r"http|<!DOCTYPE|<script|@import|file:", first)
    assert all(reference.startswith("#") for reference in re.findall(r'href="([^"]*)"', first))
    assert "currentColor" in first


def test_text_is_escaped_and_names_are_readable() -> None:
    plots = drawn()
    assert "<ink>" not in plots["bars"] and "Mean &lt;ink&gt; &amp; more" in plots["bars"]
    assert "threshold" in plots["histogram"] and "1 (n = 182)" in plots["histogram"]


def test_a_dollar_sign_is_text_and_an_empty_series_is_allowed() -> None:
    assert "$x_1$" in pictures.bars("$x_1$", ["a"], {"b": [1.0]}, ylabel="y")
    assert pictures.histogram("none", {"empty": []}, xlabel="x", span=(0, 1)).startswith("<svg")
    assert pictures.scatter("none", {"empty": []}, xlabel="x", ylabel="y").startswith("<svg")


def test_a_scatter_may_begin_at_nothing_and_have_a_line_across() -> None:
    points = {"a": [(5.0, 0.9), (5.0, 0.8)], "none": []}
    plain = pictures.scatter("t", points, xlabel="x", ylabel="y")
    whole = pictures.scatter("t", points, xlabel="x", ylabel="y", from_zero=True, line=("floor", 0.5))
    assert "floor" in whole and "floor" not in plain
    assert re.search(r">0(\.0+)?<", whole) and not re.search(r">0(\.0+)?<", plain)  # a tick at 0


@pytest.mark.parametrize("channels", [1, 3])
def test_png_data_uri_holds_the_same_pixels(channels: int) -> None:
    image = np.repeat((DIGITS.images[7][:, :, None] * 15).astype(np.uint8), channels, axis=2)
    uri = pictures.png_data_uri(image, scale=3)
    prefix, data = uri.split(",")
    assert prefix == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        back = np.asarray(opened).reshape(24, 24, channels)
    np.testing.assert_array_equal(back[::3, ::3], image)


def test_png_data_uri_refuses_floats() -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 1 or 3\), is float64"):
        pictures.png_data_uri(DIGITS.images[0])
