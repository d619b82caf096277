"""One small classifier, trained once a session on scikit-learn's digits, and the odd nets that users bring."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdtool.artifacts import Preprocessing
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.original import Original, Trained, train_original
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.compress.training import RECIPES
from pdtool.compress.weights import save_weights
from pdtool.data import load_data

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """LeNet-5 on digits, 8 epochs (about a second)."""
    out = tmp_path_factory.mktemp("weights") / "lenet5.safetensors"
    return train_original("lenet5", "digits", out, recipe=replace(RECIPES["train"], epochs=8))


@pytest.fixture
def request_of(trained: Trained) -> PoolRequest:
    """Two quickly tuned members of it; tests change what they are about with `dataclasses.replace`."""
    recipe = replace(RECIPES["paper"], epochs=2)
    return PoolRequest(weights=Path(trained.file), data="digits", members=2, recipe=recipe, max_drop=0.5)


@pytest.fixture
def pool_of(request_of: PoolRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished pool of `request_of`, made once and copied for every test."""
    made = tmp_path_factory.getbasetemp() / "made-pool"
    if not made.exists():
        make_pool(request_of, made)
    copied = tmp_path_factory.mktemp("pool") / "POOL"
    shutil.copytree(made, copied)
    return copied


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> PoolRequest:
    """One member of a ResNet-18 of width 8 that was never trained, and 120 digits to train it on for an epoch."""
    folder = tmp_path_factory.mktemp("untrained")
    data = load_data("digits", (1, 32, 32), role="train")
    assert data.labels is not None
    few = np.concatenate([np.flatnonzero(data.labels == label)[:12] for label in range(10)])
    np.savez(folder / "few.npz", images=data.images[few], labels=data.labels[few])
    spec = ModelSpec.parse("resnet18:width=8,classes=10,input=1x32x32")
    preprocessing = Preprocessing(channels=1, height=32, width=32, mean=(0.3,), std=(0.35,))
    original = Original(spec, build(spec), tuple("0123456789"), preprocessing)
    save_weights(folder / "w.safetensors", original.net, original.metadata())
    recipe = replace(RECIPES["paper"], epochs=1)
    weights, few_digits = folder / "w.safetensors", str(folder / "few.npz")
    return PoolRequest(weights=weights, data=few_digits, members=1, max_drop=1.0, recipe=recipe)
