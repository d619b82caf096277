"""A small net trained on scikit-learn's scans of digits: what the attacks of these tests work on."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pdtool.artifacts import Preprocessing
from pdtool.compress.models import ModelSpec, Normalised, build
from pdtool.compress.training import RECIPES, TrainingSet, fit

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]


@pytest.fixture(scope="session")
def scans() -> tuple[Scans, Labels]:
    digits = load_digits()
    images = np.clip(np.rint(digits.images * 16), 0, 255).astype(np.uint8)
    return images.repeat(2, axis=1).repeat(2, axis=2)[..., None], digits.target.astype(np.int64)


@pytest.fixture(scope="session")
def net(scans: tuple[Scans, Labels]) -> torch.nn.Module:
    """Takes pixels in [0, 1], was trained on the first 800 scans."""
    images, labels = scans
    preprocessing = Preprocessing(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
    bare = build(ModelSpec.parse("lenet5:classes=10,input=1x16x16"), seed=0)
    fit(bare, TrainingSet.of(images[:800], labels[:800], preprocessing), RECIPES["train"], seed=0)
    return Normalised(bare, preprocessing).eval()


@pytest.fixture(scope="session")
def images(scans: tuple[Scans, Labels]) -> Scans:
    """64 scans that the net has not seen."""
    return scans[0][1000:1064]


@pytest.fixture(scope="session")
def labels(scans: tuple[Scans, Labels]) -> Labels:
    """Their labels."""
    return scans[1][1000:1064]
