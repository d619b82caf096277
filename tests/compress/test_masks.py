"""Which weights stay: against brute force."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pdtool.compress.masks import best_of_four, drop_smallest, weight_layers


def test_the_smallest_go_over_all_layers_and_what_went_stays_away() -> None:
    rng = np.random.default_rng(0)
    values = {"a": torch.from_numpy(rng.random((5, 7))), "b": torch.from_numpy(rng.random((3, 2, 3, 3)))}
    masks = {name: torch.from_numpy(rng.random(tuple(tensor.shape)) < 0.8) for name, tensor in values.items()}
    gone = sum(int((~mask).sum()) for mask in masks.values())
    for zeros in (gone, gone + 1, 40, 88, 89):
        came = drop_smallest(values, masks, zeros)
        flat = np.concatenate([came[name].numpy().ravel() for name in values])
        keys = np.concatenate([np.where(masks[n].numpy(), values[n].numpy(), -1).ravel() for n in values])
        assert set(np.flatnonzero(~flat)) == set(np.argsort(keys)[:zeros])


def test_ties_are_broken_and_the_count_is_exact() -> None:
    came = drop_smallest({"a": torch.ones(10, 10)}, {"a": torch.ones(10, 10, dtype=torch.bool)}, 37)
    assert int((~came["a"]).sum()) == 37
    assert torch.equal(best_of_four(torch.zeros(3, 8, 2)).sum(1), torch.full((3, 2), 4))


@pytest.mark.parametrize("shape", [(6, 8), (3, 12, 3, 3), (2, 4, 5)])
@pytest.mark.parametrize("keep", [2, 3])
def test_the_best_of_every_four_stay(shape: tuple[int, ...], keep: int) -> None:
    values = np.random.default_rng(1).random(shape)
    mask = best_of_four(torch.from_numpy(values), keep).numpy()
    for out in range(shape[0]):
        for place in np.ndindex(*shape[2:]):
            for first in range(0, shape[1], 4):
                at = (out, slice(first, first + 4), *place)
                assert set(np.flatnonzero(mask[at])) == set(np.argsort(values[at])[-keep:])


def test_layers_are_those_with_a_weight_of_their_own_once() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[3].weight = net[2].weight
    weight_norm(net[4])
    assert weight_layers(net) == ("0", "2")
