"""One member: made by its method, measured, written. And the record that lets a killed run go on."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import nn

from pdtool.artifacts import Plan, PoolMember, PoolModel, entry_of
from pdtool.compress.contract import Method, Task
from pdtool.compress.costs import count, count_nonzero
from pdtool.compress.masks import weight_layers, weight_of
from pdtool.compress.original import Original
from pdtool.compress.prune import achieved
from pdtool.compress.split import Labelled
from pdtool.compress.training import accuracy, made_on
from pdtool.compress.weights import weights_bytes
from pdtool.errors import GateError, InputError, IntegrityError
from pdtool.files import read_checked, read_limited, write_atomic
from pdtool.jsonform import JsonValue, canonical, decode, encode, parse

__all__ = [
    "CODE", "Made", "Record", "judge", "make_member", "member_seed", "model_files", "read_record", "recipe_key", "save",
]  # fmt: skip

CODE = 2  # raise when a change of this package changes what the same settings make


@dataclass(frozen=True, kw_only=True)
class Record:
    """`members/<id>.record.json`: a finished member, so that a run that was stopped need not make it again."""

    FORMAT: ClassVar[str] = "pdtool.record/1"
    member: PoolMember


def member_seed(seed: int, index: int) -> int:
    """The seed of the pool's member number `index`, independent of how many there are."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def recipe_key(settings: Mapping[str, JsonValue], seed: int) -> str:
    """SHA-256 of everything that is asked of a member."""
    return hashlib.sha256(canonical({"code": CODE, "seed": seed, **settings})).hexdigest()


@dataclass(frozen=True)
class Made:
    """A member, not yet saved: `files` are its weights and its plan, path in the pool's folder -> content."""

    member: PoolMember
    files: Mapping[str, bytes]


def make_member(id: str, method: Method, task: Task, *, key: str) -> Made:
    """Make a member. `task.original.net` is left as it is. One that the method gives up (diverged, say) is not used."""
    original = task.original
    draft = method.start(task)
    net = draft.net
    first, drawn, reason = copy.deepcopy(net.state_dict()), dict[str, JsonValue](), None
    try:
        drawn = method.tune(task, net)
    except GateError as error:
        net.load_state_dict(first)
        reason = str(error)
    net.eval()
    rates = achieved(original.net, net, task.units)
    zeros = {layer: 1 - _nonzero(net, layer) / weight_of(net, layer).numel() for layer in task.layers}
    left = sum(_nonzero(net, layer) for layer in weight_layers(net))
    weights = sum(weight_of(original.net, layer).numel() for layer in weight_layers(original.net))
    model, files = model_files(f"members/{id}", net, original, draft.history, task.held, metadata={"member": id})
    member = PoolMember(
        id=id,
        model=model,
        used=reason is None,
        reason=reason,
        seed=task.seed,
        recipe_key=key,
        made_on=made_on(net),
        drawn=drawn,
        kind=None if task.hardening is None else task.kind,
        layer_rates={name: round(share, 6) for name, share in (rates.layers or zeros).items()},
        channel_rate=round(rates.channels, 6),
        weight_rate=round(1 - left / max(weights, 1), 6),
        parameter_rate=round(rates.parameters, 6),
    )
    return Made(member, files)


def save(folder: Path, made: Made) -> None:
    """Write a member's files and, last, its record into the pool folder. Raises InputError where the disk refuses."""
    for path, data in made.files.items():
        write_atomic(folder / path, data)
    record = canonical(encode(Record(member=made.member)))
    write_atomic(folder / "members" / f"{made.member.id}.record.json", record)


def _nonzero(net: nn.Module, layer: str) -> int:
    return int(weight_of(net, layer).count_nonzero())


def model_files(
    stem: str,
    net: nn.Module,
    original: Original,
    history: JsonValue,
    held: Labelled,
    metadata: dict[str, str],
) -> tuple[PoolModel, dict[str, bytes]]:
    """Measure the net on the held-out images; and its files `stem`.safetensors and `stem`.json (the plan)."""
    costs = count(net, original.spec.input)
    left = count_nonzero(net, costs)
    plan = Plan(history=history, costs=costs, nonzero_weights=left.weights)
    files = {
        f"{stem}.safetensors": weights_bytes(net, original.metadata() | metadata),
        f"{stem}.json": canonical(encode(plan)),
    }
    weights, plan_file = (entry_of(path, data) for path, data in files.items())
    model = PoolModel(
        file=weights,
        plan=plan_file,
        macs=costs.macs,
        nonzero_macs=left.macs,
        parameters=costs.parameters,
        nonzero_parameters=left.parameters,
        accuracy=round(accuracy(net, held.images, held.labels, original.preprocessing), 6),
        accuracy_images=len(held),
    )
    return model, files


def read_record(folder: Path, id: str) -> PoolMember | None:
    """The finished member of that id, or None where there is none or its files are not the ones it wrote."""
    path = folder / "members" / f"{id}.record.json"
    if not path.exists():
        return None
    try:
        member = decode(Record, parse(read_limited(path), file=str(path)), file=str(path)).member
        for entry in (member.model.file, member.model.plan):
            read_checked(folder / entry.path, entry.bytes, entry.sha256)
    except (InputError, IntegrityError):
        return None
    return member


def judge(member: PoolMember, floor: float) -> PoolMember:
    """A recorded member with `used` and `reason` as the accuracy floor says; one that was given up stays unused."""
    if member.reason is not None or member.model.accuracy >= floor:
        return member
    reason = f"accuracy {member.model.accuracy:.4f} is below the floor {floor:.4f}"
    return replace(member, used=False, reason=reason)
