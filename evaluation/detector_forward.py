"""The original as a detector sees it: probabilities and the activations of its layers, whatever its architecture."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdtool.compress.modes import evaluating
from pdtool.compress.training import device_of
from pdtool.errors import InputError
from pdtool.images import Images, as_input

__all__ = ["Planes", "halves", "halves_by_class", "layer_features", "layers", "probabilities"]

Planes = NDArray[np.float32]  # (N, C, H, W) in [0, 1]

LARGEST_LAYER = 2048  # features; the covariance of a wider layer takes too much memory and more images than there are
LEAST_IMAGES = 40  # clean images that a fit needs: half of them are measured against the other half


def probabilities(net: nn.Module, planes: Planes) -> NDArray[np.float64]:
    """The softmax (N, K) of one batch, in double precision: float32 rounds most of a sure net's answers to 1."""
    with torch.inference_mode(), evaluating(net):
        logits = net(torch.from_numpy(planes).to(device_of(net)))
    return torch.softmax(logits.double(), dim=1).cpu().numpy()


def layers(net: nn.Module, planes: Planes) -> list[NDArray[np.float64]]:
    """The activations of one batch at every layer: a list of (N, features), in the order in which they are computed.

    A layer is what goes into a convolution or linear layer (so after activation, norm and pooling, wherever the net
    calls them), each tensor once, the picture itself left out; the logits come last. Positions are averaged, as in
    Lee et al. 2018, which leaves a feature a channel. Layers of more than 2,048 features are left out.
    """
    with torch.inference_mode(), evaluating(net), _watched(net) as seen:
        logits = net(torch.from_numpy(planes).to(device_of(net)))
    inner = [means for means in seen[1:] if len(means) == len(planes) and means.shape[1] <= LARGEST_LAYER]
    return [means.double().cpu().numpy() for means in (*inner, logits)]


def layer_features(net: nn.Module, images: Images, batch: int) -> list[NDArray[np.float64]]:
    """`layers` of all the images (N, H, W, C), `batch` at a time. Raises InputError below 40 images."""
    if len(images) < LEAST_IMAGES:
        raise InputError(f"expected at least {LEAST_IMAGES} clean images to fit a detector on, got {len(images)}")
    pieces = [layers(net, as_input(images[start : start + batch])) for start in range(0, len(images), batch)]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def halves(count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of two halves drawn at random: one to fit on, one to learn what a clean image scores there."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def halves_by_class(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """As `halves`, each class (N,) split evenly, too: no class is in one half alone unless it has one image."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return np.sort(order[1::2]), np.sort(order[::2])


@contextmanager
def _watched(net: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, every forward pass appends the averaged input of each layer."""
    seen: list[Tensor] = []
    same: list[Tensor] = []  # held, so that no new tensor takes the identity of an old one

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given = inputs[0]
        if given.dim() < 2 or any(given is other for other in same):
            return
        same.append(given)
        if isinstance(module, nn.Linear):  # features last
            seen.append(given.flatten(1, -2).mean(1) if given.dim() > 2 else given.clone())
        else:
            seen.append(given.flatten(2).mean(2))

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    hooks = [module.register_forward_pre_hook(note) for module in net.modules() if isinstance(module, kinds)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
