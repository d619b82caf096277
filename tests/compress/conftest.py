"""One small classifier, trained once a session on scikit-learn's digits, and the odd nets that users bring."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pdtool.compress.original import Trained, train_original
from pdtool.compress.pool import PoolRequest
from pdtool.compress.training import RECIPES

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
