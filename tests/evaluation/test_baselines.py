"""Baselines on the images that the pool is judged on: counts as by hand, thresholds from clean images alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdtool.compress.watch import Steps
from pdtool.data import Dataset
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attacks import run_attack
from pdtool.evaluation.baselines import BaselineResult, run_baselines
from pdtool.evaluation.detectors import DETECTORS, FIT_IMAGES, fit_detector
from pdtool.evaluation.metrics import auroc
from pdtool.jsonform import decode, encode

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def fit(scans: tuple[Scans, Labels]) -> Dataset:
    images, labels = scans
    return Dataset(
        spec="digits",
        images=images[:400],
        labels=labels[:400],
        classes=tuple(map(str, range(10))),
        groups=np.arange(400),
        skipped=(),
    )


@pytest.fixture(scope="module")
def attacked(net: torch.nn.Module, images: Scans, labels: Labels) -> dict[str, Floats]:
    found = {name: run_attack(net, images, labels, name) for name in ("deepfool", "fgsm:epsilon=0.1")}
    return {name: each.images[each.success] for name, each in found.items()}


def every(attacked: dict[str, Floats]) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
    """All of the images, behind one that does not count."""
    return {
        name: (np.concatenate([images[:1], images]), np.arange(len(images) + 1) > 0)
        for name, images in attacked.items()
    }


@pytest.fixture(scope="module")
def clean(scans: tuple[Scans, Labels]) -> Scans:
    return scans[0][1100:1400]


@pytest.fixture(scope="module")
def results(
    net: torch.nn.Module, fit: Dataset, clean: Scans, attacked: dict[str, Floats]
) -> tuple[BaselineResult, ...]:
    return run_baselines(tuple(DETECTORS), net, fit, clean, every(attacked), seed=4)


def test_every_detector_meets_every_attack(results: tuple[BaselineResult, ...], attacked: dict[str, Floats]) -> None:
    assert [result.name for result in results] == list(DETECTORS)
    for result in results:
        assert [(each.name, each.n) for each in result.sets] == [(name, len(of)) for name, of in attacked.items()]
        assert (result.source, result.passes) == (DETECTORS[result.name].source, DETECTORS[result.name].passes)
        assert result.n_fit == (400 if DETECTORS[result.name].fit else 0)
        deepfool = result.sets[0].auroc
        assert deepfool.value is not None and deepfool.value > 0.7
        assert (deepfool.clean, deepfool.attacked) == (300, len(attacked["deepfool"]))


def test_figures_are_those_of_the_scores(
    net: torch.nn.Module, fit: Dataset, clean: Scans, attacked: dict[str, Floats], results: tuple[BaselineResult, ...]
) -> None:
    assert fit.labels is not None
    for result in results:
        fitted = fit_detector(result.name, net, fit.images, fit.labels, seed=4)
        below = fitted.score(clean)
        for each in result.sets:
            above = fitted.score(attacked[each.name])
            assert each.auroc.value == auroc(below, above)
            for counted, allowed in ((each.tpr_1, 3), (each.tpr_5, 15)):  # of 300 clean images
                threshold = np.sort(below)[-1 - allowed]
                assert (below > threshold).sum() <= allowed
                assert (counted.events, counted.count) == ((above > threshold).sum(), len(above))


def test_a_set_s_figures_do_not_depend_on_the_other_sets(
    net: torch.nn.Module, fit: Dataset, clean: Scans, attacked: dict[str, Floats], results: tuple[BaselineResult, ...]
) -> None:
    (alone,) = run_baselines(["mahalanobis"], net, fit, clean, every({"deepfool": attacked["deepfool"]}), seed=4)
    assert alone.sets == results[list(DETECTORS).index("mahalanobis")].sets[:1]


def test_results_go_through_json(results: tuple[BaselineResult, ...]) -> None:
    for result in results:
        assert decode(BaselineResult, encode(result), file="report.json") == result


def test_an_attack_that_never_succeeded_has_no_figures(net: torch.nn.Module, fit: Dataset, clean: Scans) -> None:
    (result,) = run_baselines(["softmax"], net, fit, clean, {"none": (clean[:0], np.zeros(0, dtype=bool))})
    (none,) = result.sets
    assert (none.n, none.auroc.value, none.tpr_5.share) == (0, None, None)


def test_progress_counts_every_image_scored(
    net: torch.nn.Module, fit: Dataset, clean: Scans, attacked: dict[str, Floats]
) -> None:
    seen: dict[str, list[int]] = {}

    class Counting:
        def __init__(self, steps: list[int]) -> None:
            self.steps = steps

        def advance(self, steps: int = 1) -> None:
            self.steps.append(steps)

        def say(self, text: str) -> None:
            raise AssertionError(text)

    @contextmanager
    def watch(label: str, total: int | None) -> Iterator[Steps]:
        steps: list[int] = []
        yield Counting(steps)
        assert sum(steps) == total
        seen[label] = steps

    run_baselines(["softmax", "squeezing"], net, fit, clean, every(attacked), watch=watch)
    assert list(seen) == ["baseline softmax", "baseline squeezing"]


def test_a_large_set_is_thinned_evenly(net: torch.nn.Module, scans: tuple[Scans, Labels]) -> None:
    images, labels = scans
    many = np.resize(np.arange(len(images)), FIT_IMAGES + 1000)
    assert fit_detector("mahalanobis", net, images[many], labels[many]).n_fit == FIT_IMAGES


def test_wrong_calls_are_refused(net: torch.nn.Module, fit: Dataset, clean: Scans) -> None:
    with pytest.raises(UsageError, match="unknown baseline 'kd'; expected one of softmax, squeezing, lid, mahalanobis"):
        run_baselines(["softmax", "kd"], net, fit, clean, {})
    with pytest.raises(UsageError, match="a baseline is given twice among softmax, softmax"):
        run_baselines(["softmax", "softmax"], net, fit, clean, {})
    with pytest.raises(InputError, match="digits: has no labels; a baseline is fitted on labelled clean images"):
        run_baselines(["lid"], net, replace(fit, labels=None), clean, {})
    with pytest.raises(InputError, match=r"got \(8, 16, 1\)"):
        run_baselines(["softmax"], net, fit, clean[:, ::2], {})
