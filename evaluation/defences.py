"""Defences that change the image before the original sees it, by name, and what the original then answers.

The rows of a defence table: each function takes images (N, H, W, C) float32 in [0, 1] and returns such images. They are
applied to attacked images that were made without knowing of them; who knows them can break each (Athalye et al. 2018).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.compress.training import predict
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.defence_bit_depth import bit_depth
from pdtool.evaluation.defence_jpeg import do_jpeg, jpeg
from pdtool.evaluation.defence_median import median
from pdtool.evaluation.defence_quilting import patch_library, quilt
from pdtool.evaluation.defence_total_variation import total_variation
from pdtool.evaluation.metrics import Rate, rate
from pdtool.images import Images, as_input

__all__ = ["Defence", "accuracy_of", "accuracy_under", "defences", "defend"]


@dataclass(frozen=True, kw_only=True)
class Defence:
    """A change of images, its settings (printed beside each number) and whether it draws from a seed."""

    name: str
    function: Callable[..., NDArray[np.float32]]
    description: str
    source: str
    settings: Mapping[str, float | int]
    random: bool = False


def defences(clean: Images, *, patches: int = 20_000, seed: int = 0) -> dict[str, Defence]:
    """Every defence by name. `clean` training images (N, H, W, C) give quilting its patches, drawn from `seed`.

    Other settings: `dataclasses.replace(row, settings={**row.settings, "bits": 3})`. Raises InputError for images
    smaller than a patch.
    """
    library = patch_library(clean, size=5, count=patches, seed=seed)
    rows = (
        Defence(
            name="median",
            function=median,
            description="median of a window",
            source="Xu et al. 2018",
            settings={"size": 2},
        ),
        Defence(
            name="bit-depth",
            function=bit_depth,
            description="fewer levels a channel",
            source="Xu et al. 2018",
            settings={"bits": 5},
        ),
        Defence(
            name="jpeg",
            function=jpeg,
            description="JPEG compression",
            source="Das et al. 2017; quality of Guo et al. 2018",
            settings={"quality": 75},
        ),
        Defence(
            name="do-jpeg",
            function=do_jpeg,
            description="JPEG compression with a table against attacks",
            source="Liu et al. 2019",
            settings={"low": 25, "high": 30, "band": 4},
        ),
        Defence(
            name="total-variation",
            function=total_variation,
            description="rebuilt from half of the pixels with least total variation",
            source="Guo et al. 2018",
            settings={"keep": 0.5, "weight": 0.03, "steps": 200},
            random=True,
        ),
        Defence(
            name="quilting",
            function=partial(quilt, library=library),
            description=f"put together from {len(library):,} patches of 5x5 pixels of clean images",
            source="Guo et al. 2018",
            settings={"overlap": 2, "neighbours": 1},
            random=True,
        ),
    )
    return {row.name: row for row in rows}


def defend(defence: Defence, images: Images, *, seed: int = 0) -> NDArray[np.float32]:
    """Images (N, H, W, C), uint8 or float32 in [0, 1], as the defence leaves them: float32 in [0, 1]."""
    given = np.ascontiguousarray(np.moveaxis(as_input(images), 1, 3))
    drawn = {"seed": seed} if defence.random else {}
    return defence.function(given, **drawn, **defence.settings)


def accuracy_under(
    defence: Defence | None, net: nn.Module, attacked: Attacked, *, seed: int = 0, batch: int = 256
) -> Rate:
    """How many of the attacked images that fooled the net it labels rightly behind the defence.

    Without a defence that is none of them, for the net that was attacked. `net` takes pixels in [0, 1].
    """
    fooled = attacked.success
    return accuracy_of(defence, net, attacked.images[fooled], attacked.labels[fooled], seed=seed, batch=batch)


def accuracy_of(
    defence: Defence | None,
    net: nn.Module,
    images: Images,
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    batch: int = 256,
) -> Rate:
    """How many images (N, H, W, C) the net labels rightly behind the defence: of clean ones, what it costs."""
    seen = images if defence is None else defend(defence, images, seed=seed)
    return rate(predict(net, seen, batch=batch) == labels)
