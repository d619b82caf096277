"""What one picture costs a net: multiply-accumulates, parameters and output bytes, a layer and in all."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pdtool.artifacts import LayerCost, ModelCosts
from pdtool.compress.masks import LAYERS
from pdtool.compress.modes import evaluating
from pdtool.images import Size

__all__ = ["Nonzero", "count", "count_nonzero"]


@dataclass(frozen=True, kw_only=True)
class Nonzero:
    """What of a net's costs is left where zeros cost nothing: weights a convolution or linear layer, and in all."""

    weights: dict[str, int]
    macs: int
    parameters: int


def count_nonzero(net: nn.Module, costs: ModelCosts) -> Nonzero:
    """Count what is not zero in a net that costs `costs` when it is dense.

    A convolution or linear layer uses each weight equally often (padding counted, as in `costs`), so that its share
    of multiply-accumulates is that of its weights; all other layers are dense.
    """
    weights, shares = {}, {}
    for name, module in net.named_modules():
        if isinstance(module, LAYERS):
            weights[name] = int(module.weight.count_nonzero())
            shares[name or type(net).__name__] = weights[name], module.weight.numel()
    macs = 0
    for layer in costs.layers:
        left, whole = shares.get(layer.name, (1, 1))
        macs += layer.macs * left // whole
    parameters = sum(int(parameter.count_nonzero()) for parameter in net.parameters())
    return Nonzero(weights=weights, macs=macs, parameters=parameters)


def count(net: nn.Module, size: Size) -> ModelCosts:
    """Count one forward pass of one picture of `size` in evaluation mode (mode and state are put back).

    Multiply-accumulates are half of what torch's `FlopCounterMode` counts: convolutions and matrix products,
    wherever they are called. A layer is a module without children, or one that computes or holds parameters
    itself; a layer called twice is counted twice. The layers' sums are the totals.
    """
    outputs: dict[str, int] = {}
    hooks = []
    for name, module in net.named_modules():
        hooks.append(module.register_forward_hook(_adder(outputs, name)))
    parameter = next(net.parameters(), torch.zeros(0))
    counter = FlopCounterMode(display=False)
    try:
        with evaluating(net), torch.no_grad(), counter:
            net(torch.zeros(1, *size, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    flops = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    root = type(net).__name__
    inside = {name: flops.get(f"{root}.{name}" if name else root, 0) for name, _ in net.named_modules()}
    inside[""] = counter.get_total_flops()
    layers, seen = [], set[int]()
    for name, module in net.named_modules():
        children = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        own_flops = inside[name] - sum(inside.get(child, 0) for child in children)
        parameters = 0
        for tensor in module.parameters(recurse=False):
            parameters += 0 if id(tensor) in seen else tensor.numel()
            seen.add(id(tensor))
        if not children or own_flops or parameters:
            layers.append(
                LayerCost(
                    name=name or root,
                    kind=type(module).__name__,
                    macs=own_flops // 2,
                    parameters=parameters,
                    output_bytes=outputs.get(name, 0),
                )
            )
    return ModelCosts(
        macs=sum(layer.macs for layer in layers),
        parameters=sum(layer.parameters for layer in layers),
        counted_by=f"torch {torch.__version__} flop_counter",
        layers=tuple(layers),
    )


def _adder(outputs: dict[str, int], name: str) -> Callable[[nn.Module, object, object], None]:
    """A forward hook that adds the float32 bytes of a module's output to `outputs[name]`."""

    def add(module: nn.Module, inputs: object, output: object) -> None:
        tensors = output if isinstance(output, (tuple, list)) else [output]
        size = sum(4 * tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))
        outputs[name] = outputs.get(name, 0) + size

    return add
