"""Other detectors on the very images that the pool is judged on: what `evaluate` prints beside its own figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pdtool.compress.watch import Watch, silent
from pdtool.data import Dataset
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.detectors import DETECTORS, fit_detector
from pdtool.evaluation.metrics import Area, Rate, auroc_interval, tpr_at
from pdtool.images import Images

__all__ = ["BaselineResult", "BaselineSet", "run_baselines"]


@dataclass(frozen=True, kw_only=True)
class BaselineSet:
    """How a detector's scores tell one set of attacked images from the clean ones."""

    name: str  # of the attack
    n: int  # attacked images
    auroc: Area
    tpr_1: Rate  # flagged at the threshold that at most 1 % of the clean images exceed
    tpr_5: Rate  # the same of 5 %


@dataclass(frozen=True, kw_only=True)
class BaselineResult:
    """What one detector made of every set."""

    name: str
    source: str  # the paper, and what differs from it
    passes: float  # forward passes of the original a frame, that which labels it included
    n_fit: int  # clean images that it was fitted on; 0 where nothing is fitted
    sets: tuple[BaselineSet, ...]


def run_baselines(
    names: Sequence[str],
    net: nn.Module,
    fit: Dataset,
    clean: Images,
    attacked: Mapping[str, tuple[Images, NDArray[np.bool_]]],
    *,
    seed: int = 0,
    batch: int = 128,
    watch: Watch = silent,
) -> tuple[BaselineResult, ...]:
    """Fit each detector named on the clean training images `fit`, score `clean` and every set of `attacked` images.

    `net` takes pixels in [0, 1]; images are (N, H, W, C), uint8 or float32 in [0, 1]. Of the attacked ones, by the
    attack's name, those count that are chosen (N,): the ones that fool `net`. Thresholds come from `clean` alone.

    Raises UsageError for an unknown or repeated name, InputError for `fit` without labels or with too few images and
    for images of different sizes, MissingError without scikit-learn or SciPy.
    """
    for name in names:
        if name not in DETECTORS:
            raise UsageError(f"unknown baseline {name!r}; expected one of {', '.join(DETECTORS)}")
    if len(set(names)) < len(names):
        raise UsageError(f"a baseline is given twice among {', '.join(names)}; give each once")
    if fit.labels is None:
        raise InputError(f"{fit.spec}: has no labels; a baseline is fitted on labelled clean images")
    return tuple(_run(name, net, fit, clean, attacked, seed, batch, watch) for name in names)


def _run(
    name: str,
    net: nn.Module,
    fit: Dataset,
    clean: Images,
    attacked: Mapping[str, tuple[Images, NDArray[np.bool_]]],
    seed: int,
    batch: int,
    watch: Watch,
) -> BaselineResult:
    assert fit.labels is not None
    with watch(f"baseline {name}", len(clean) + sum(int(chosen.sum()) for _, chosen in attacked.values())) as task:
        fitted = fit_detector(name, net, fit.images, fit.labels, seed=seed, batch=batch)
        below = fitted.score(clean, batch=batch, advance=task.advance)
        sets = []
        for attack, (images, chosen) in attacked.items():
            above = fitted.score(images[chosen], batch=batch, advance=task.advance)
            sets.append(
                BaselineSet(
                    name=attack,
                    n=len(above),
                    auroc=auroc_interval(below, above),
                    tpr_1=tpr_at(below, above, 0.01),
                    tpr_5=tpr_at(below, above, 0.05),
                )
            )
    detector = fitted.detector
    return BaselineResult(
        name=name, source=detector.source, passes=detector.passes, n_fit=fitted.n_fit, sets=tuple(sets)
    )
