"""Structured pruning: whole channels go. The one module that knows torch-pruning (1.6.1).

torch-pruning's dependency graph says which layers must lose the same channels; which channels go is decided
elsewhere (`random_channel`, `l1_norm`). Its pruner classes are not used: they write into mutable default
arguments, ignore types given as ignored layers, and skip narrow layers without a word.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from pdtool.compress.modes import evaluating
from pdtool.errors import InputError
from pdtool.images import Size
from pdtool.jsonform import JsonValue

__all__ = ["Rates", "Unit", "achieved", "find_units", "prune", "replay"]

# what a unit may run through; anything else (attention, embeddings, bare parameters, ...) leaves the unit whole
_FOLLOWED = {
    OPTYPE.CONV, OPTYPE.DEPTHWISE_CONV, OPTYPE.LINEAR, OPTYPE.BN, OPTYPE.PRELU, OPTYPE.GN, OPTYPE.IN,
    OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE,
}  # fmt: skip
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Layers that can only lose the same output channels (residual connections couple them), named by the first.

    `filters` is the number of output channels of all of them together. Channels come in `blocks` equal parts
    (grouped convolutions, group norm) which must lose the same positions; 1 where any channel may go.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    filters: int
    blocks: int = 1


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What pruning removed, as shares: of each layer's output channels, of all units' channels, of parameters."""

    layers: dict[str, float]
    channels: float
    parameters: float


def find_units(net: nn.Module, size: Size) -> tuple[tuple[Unit, ...], dict[str, str]]:
    """The prunable units in the net's own order, and the layers left whole with the reason why.

    The head (what the net's output comes from) is always left whole. Raises InputError where the net cannot be
    traced or nothing can be pruned.
    """
    with _graph(net, size) as graph:
        names = {module: name for name, module in net.named_modules()}
        units, whole, seen = [], dict[str, str](), set[str]()
        for module, name in names.items():
            if not isinstance(module, _LAYERS) or name in seen:
                continue
            if module not in graph.module2node:
                whole[name] = "it is not on the way from input to output"
                continue
            channels = _width(module)
            group = _group(graph, module, list(range(channels)))
            coupled = [
                (names[dep.target.module], list(indices))
                for dep, indices in group
                if isinstance(dep.target.module, _LAYERS) and graph.is_out_channel_pruning_fn(dep.handler)
            ]
            coupled.sort(key=lambda item: list(names.values()).index(item[0]))
            seen.update(layer for layer, _ in coupled)
            blocks, reason = _blocks(graph, group, channels)
            if reason is None and channels // blocks < 2:
                reason = "it has one channel a block"
            if reason is not None:
                whole.update({layer: reason for layer, _ in coupled})
                continue
            units.append(
                Unit(
                    name=name,
                    channels=channels,
                    layers=tuple(layer for layer, indices in coupled if sorted(indices) == list(range(channels))),
                    filters=sum(len(indices) for _, indices in coupled),
                    blocks=blocks,
                )
            )
    if units and not _follows(net, size, units):
        broken = [unit for unit in units if not _follows(net, size, [unit])]
        whole.update(
            {layer: "the model without its channels does not compute the same" for u in broken for layer in u.layers}
        )
        units = [unit for unit in units if unit not in broken]
    if not units:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(whole.items())[:3])
        raise InputError(
            f"the model has no layer that can lose channels ({reasons or 'no convolution or linear layer'})"
        )
    return tuple(units), whole


def prune(net: nn.Module, size: Size, channels: Mapping[str, Sequence[int]]) -> JsonValue:
    """Remove channels of units (root layer name -> indices) from the net in place.

    Returns the history that `replay` takes: [[layer, True, [index, ...]], ...] in the given order.
    Raises InputError where the pruned net does not run or changes its output's shape.
    """
    history = [[name, True, sorted(map(int, indices))] for name, indices in channels.items() if len(indices)]
    replay(net, size, history)
    return history


def replay(net: nn.Module, size: Size, history: JsonValue, *, file: str = "the model") -> None:
    """Remove the channels of a history from the net in place; mode and `requires_grad` stay as they are.

    Raises InputError (naming `file`) for a history that does not fit the net or changes its output's shape.
    """
    steps = _check_history(net, history, file)
    expected = _run(net, size, "the model does not run on one picture")[1]
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    try:
        with _graph(net, size) as graph:
            for name, indices in steps:
                if max(indices) >= _width(net.get_submodule(name)):
                    raise InputError(f"{file}: layer {name!r} is named twice or coupled to a layer named before")
                _group(graph, net.get_submodule(name), indices).prune(record_history=False)
    except (AssertionError, RuntimeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: pruning cannot follow this model ({type(error).__name__}: {error})") from error
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
        parameter.grad = None
    _, came = _run(
        net, size, f"{file}: the pruned model does not run; its layers are connected in a way pruning cannot follow"
    )
    if came != expected:
        raise InputError(f"{file}: pruning changed the output's shape from {expected} to {came}; leave the head whole")


def achieved(before: nn.Module, after: nn.Module, units: Sequence[Unit]) -> Rates:
    """The rates between a net and its pruned copy; no units, no channels."""
    layers = {}
    removed = total = 0
    for unit in units:
        for name in unit.layers:
            width, left = _width(before.get_submodule(name)), _width(after.get_submodule(name))
            layers[name] = 1 - left / width
            removed, total = removed + width - left, total + width
    parameters = [sum(parameter.numel() for parameter in net.parameters()) for net in (before, after)]
    return Rates(layers=layers, channels=removed / max(total, 1), parameters=1 - parameters[1] / parameters[0])


@contextmanager
def _graph(net: nn.Module, size: Size) -> Iterator[torch_pruning.DependencyGraph]:
    """torch-pruning's graph of the net, traced with one picture. Modes and `requires_grad` are put back."""
    frozen = [parameter for parameter in net.parameters() if not parameter.requires_grad]
    try:
        with torch.inference_mode(False), torch.enable_grad(), evaluating(net):
            for parameter in frozen:  # a frozen parameter leaves no trace, and its layer would never be pruned
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            picture, _ = _run(net, size, "the model does not run on one picture")
            try:  # a tuple: a bare tensor would be tried unbatched first
                graph = torch_pruning.DependencyGraph().build_dependency(net, (picture,), verbose=False)
            except Exception as error:  # tracing runs the user's own forward, which may raise anything
                raise InputError(f"the model cannot be traced ({type(error).__name__}: {error})") from error
            yield graph
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _group(graph: torch_pruning.DependencyGraph, module: nn.Module, indices: list[int]) -> torch_pruning.Group:
    return graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, indices)


def _follows(net: nn.Module, size: Size, units: Sequence[Unit]) -> bool:
    """Whether cutting a channel a block from each unit gives what the whole net gives when nobody reads that channel.

    torch-pruning takes any operation it does not know for one that leaves channels where they are; this notices.
    """
    with torch.inference_mode(False):
        cut, tolerance = copy.deepcopy(net).double(), 1e-9
        try:
            _run(cut, size, "")
        except InputError:  # it insists on single precision
            cut, tolerance = copy.deepcopy(net), 1e-4
        silenced = copy.deepcopy(cut)
    parts = {unit.name: unit.channels // unit.blocks for unit in units}
    chosen = {unit.name: range(parts[unit.name] // 2, unit.channels, parts[unit.name]) for unit in units}
    readers: list[tuple[nn.Module, list[int]]] = []
    exact = True
    with _graph(silenced, size) as graph:
        for name, indices in chosen.items():
            for dep, found in _group(graph, silenced.get_submodule(name), list(indices)):
                module = dep.target.module
                exact &= not isinstance(module, nn.GroupNorm)  # its statistics see the channels that nobody reads
                if isinstance(module, _LAYERS) and not graph.is_out_channel_pruning_fn(dep.handler):
                    readers.append((module, list(found)))
    with torch.no_grad():
        for module, found in readers:
            weight = module.get_parameter("weight")
            # torch's stubs take a module's attributes for tensors
            groups = 1 if isinstance(module, nn.Linear) else int(module.groups)  # type: ignore[arg-type]
            for index in found:
                group, column = divmod(index, weight.shape[1])
                weight[group * len(weight) // groups : (group + 1) * len(weight) // groups, column] = 0
    try:
        prune(cut, size, chosen)
    except InputError:
        return False
    picture = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    picture = picture.to(next(cut.parameters()))
    with torch.no_grad():
        expected, came = silenced.eval()(picture), cut.eval()(picture)
    return not exact or bool(torch.allclose(came, expected, rtol=0, atol=tolerance * float(expected.abs().max())))


def _blocks(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group, channels: int) -> tuple[int, str | None]:
    """(blocks, reason to leave the unit whole)."""
    blocks = 1
    for dep, indices in group:
        node, module = dep.target, dep.target.module
        if not node.outputs and graph.is_out_channel_pruning_fn(dep.handler):
            return 1, "the output comes from it"
        if node.type == OPTYPE.OUTPUT:
            return 1, "the output comes from it"
        if node.type not in _FOLLOWED:
            return 1, f"it runs into {type(module).__name__}, which pruning does not follow"
        parts = 1
        if isinstance(module, nn.GroupNorm):
            parts = module.num_groups
        elif isinstance(module, _LAYERS) and not isinstance(module, nn.Linear) and node.type == OPTYPE.CONV:
            parts = module.groups
        if parts > 1 and list(indices) != list(range(channels)):
            return 1, f"it meets {type(module).__name__} with {parts} groups beside other layers"
        blocks = lcm(blocks, parts)
    return blocks, None if channels % blocks == 0 else f"{channels} channels do not fall into {blocks} blocks"


def _check_history(net: nn.Module, history: JsonValue, file: str) -> list[tuple[str, list[int]]]:
    layers = {name: module for name, module in net.named_modules() if isinstance(module, _LAYERS)}
    if not isinstance(history, list):
        raise InputError(f"{file}: history should be a list, is {type(history).__name__}")
    steps = []
    for i, step in enumerate(history):
        match step:
            case [str(name), True, [*indices]] if name in layers and indices:
                width = _width(layers[name])
                whole = all(type(index) is int and 0 <= index < width for index in indices)
                if whole and len(set(indices)) == len(indices) < width:
                    steps.append((name, list(indices)))
                    continue
        raise InputError(
            f"{file}: history[{i}] should be [layer, true, [channels to remove]] of this model, is {step!r:.80}"
        )
    return steps


def _run(net: nn.Module, size: Size, failure: str) -> tuple[Tensor, tuple[int, ...]]:
    """Run one picture and check the output; returns the picture and the output's shape."""
    parameter = next(net.parameters(), torch.zeros(0))
    picture = torch.zeros(1, *size, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad(), evaluating(net):
            output = net(picture)
    except Exception as error:  # the user's own forward may raise anything
        raise InputError(f"{failure} ({type(error).__name__}: {error})") from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise InputError(f"{failure} (expected logits (1, classes), got {getattr(output, 'shape', type(output))})")
    return picture, tuple(output.shape)


def _width(module: nn.Module) -> int:
    # torch's stubs take a module's attributes for tensors
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]
