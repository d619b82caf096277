"""Which weights stay: masks by magnitude or score, without a pattern or two of every four; held during training.

A pattern of 2:4 is what NVIDIA's sparse tensor cores (Ampere and later, Jetson Orin among them) run faster: for each
output channel and each position of the kernel, at most two of every four consecutive input channels are not zero
(TensorRT developer guide, "Structured Sparsity"). It lies along the input dimension, dimension 1 of a weight, whose
size must be a multiple of four; a layer of another size has no sparse kernel.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pdtool.compress.training import Hooks
from pdtool.errors import UsageError

__all__ = [
    "LAYERS", "PATTERN", "Masks", "best_of_four", "check_pattern", "drop_smallest", "fits_pattern", "hold",
    "pattern_notes", "weight_layers", "weight_of", "whole_masks", "zero_masked",
]  # fmt: skip

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
PATTERN = "2:4"
Masks = dict[str, Tensor]  # layer name -> bool, of its weight's shape: True where the weight stays


def weight_layers(net: nn.Module) -> tuple[str, ...]:
    """The names of the net's convolutions and linear layers, those that share a weight once, in the net's order.

    A layer whose weight is computed from other parameters (weight norm) is none of them.
    """
    names, seen = [], set[int]()
    for name, module in net.named_modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if isinstance(module, LAYERS) and weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            names.append(name)
    return tuple(names)


def weight_of(net: nn.Module, layer: str) -> nn.Parameter:
    """The weight of a layer of `weight_layers`."""
    return net.get_submodule(layer).get_parameter("weight")


def whole_masks(net: nn.Module, layers: Sequence[str]) -> Masks:
    """Masks under which every weight stays."""
    return {layer: torch.ones_like(weight_of(net, layer), dtype=torch.bool) for layer in layers}


def drop_smallest(values: Mapping[str, Tensor], masks: Masks, zeros: int) -> Masks:
    """Masks with exactly `zeros` False in all: those that are, and of the others those of the smallest values.

    `values` are at least 0 (magnitudes, scores), of the masks' shapes; one threshold goes over all the layers.
    """
    if zeros == 0:
        return masks
    sizes = [mask.numel() for mask in masks.values()]
    flat = torch.cat([values[layer].detach().masked_fill(~mask, -1).flatten() for layer, mask in masks.items()])
    stays = torch.ones_like(flat, dtype=torch.bool)
    stays[torch.topk(flat, zeros, largest=False, sorted=False).indices] = False
    return {
        layer: part.reshape(mask.shape)
        for (layer, mask), part in zip(masks.items(), torch.split(stays, sizes), strict=True)
    }


def fits_pattern(weight: Tensor) -> bool:
    """Whether every four of the weight's inputs can be a group."""
    return weight.ndim > 1 and weight.shape[1] % 4 == 0


def best_of_four(values: Tensor, keep: int = 2) -> Tensor:
    """The mask (bool, of the shape of `values`) that keeps the `keep` largest of every four along dimension 1."""
    last = values.detach().movedim(1, -1)
    fours = last.reshape(-1, 4)
    stays = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, fours.topk(keep, dim=1).indices, True)
    return stays.reshape(last.shape).movedim(-1, 1)


def check_pattern(pattern: str | None, rate: float | None) -> None:
    """Raise UsageError for a pattern that there is not, or that removes another share than `rate`."""
    if pattern not in (None, PATTERN):
        raise UsageError(f"unknown pattern {pattern!r}; expected {PATTERN}, or leave --pattern out")
    if pattern is not None and rate != 0.5:
        raise UsageError(f"--pattern {pattern} removes exactly half of the weights; leave --rate out, it is {rate}")


def pattern_notes(net: nn.Module, layers: Sequence[str], pattern: str | None) -> tuple[str, ...]:
    """What the user should know about zeros and speed. Raises UsageError where no layer can have the pattern."""
    if pattern is None:
        return (
            "zeros do not make an engine smaller or faster: members cost what the original costs; "
            f"--pattern {PATTERN} zeroes weights in the way that NVIDIA's sparse tensor cores make use of",
        )
    without = [layer for layer in layers if not fits_pattern(weight_of(net, layer))]
    if len(without) == len(layers):
        raise UsageError(f"--pattern {pattern}: no layer has a multiple of four inputs; leave --pattern out")
    note = f"{pattern} lies along the inputs; engines without sparse tensor cores run members as dense as the original"
    if without:
        note += (
            f"; as many weights, but without the pattern, are zeroed in {', '.join(without)} (inputs no multiple of 4)"
        )
    return (note,)


def zero_masked(net: nn.Module, masks: Masks) -> None:
    """Set the weights that do not stay to zero, in place."""
    with torch.no_grad():
        for layer, mask in masks.items():
            weight_of(net, layer).masked_fill_(~mask, 0.0)


def hold(masks: Masks) -> Hooks:
    """Hooks that keep masked weights at zero while a net is trained."""
    return Hooks(after_step=lambda net: zero_masked(net, masks))
