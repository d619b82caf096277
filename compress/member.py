"""One member: choose channels, prune, fine-tune, measure, write. And the record that lets a killed run go on."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import nn

from pdtool.artifacts import Plan, PoolMember, PoolModel, write_entry
from pdtool.compress.costs import count
from pdtool.compress.original import Original
from pdtool.compress.prune import Unit, achieved, prune
from pdtool.compress.split import Labelled
from pdtool.compress.training import Recipe, TrainingSet, accuracy, fit
from pdtool.compress.weights import weights_bytes
from pdtool.errors import GateError, InputError, IntegrityError
from pdtool.files import read_checked, read_limited, write_atomic
from pdtool.jsonform import JsonValue, canonical, decode, encode, parse

__all__ = ["Method", "Record", "make_member", "member_seed", "read_record", "recipe_key", "write_model"]

CODE = 1  # raise when a change of this package changes what the same settings make

Method = Callable[
    [Sequence[Unit], nn.Module, float, Mapping[int, float], np.random.Generator], dict[str, tuple[int, ...]]
]


@dataclass(frozen=True, kw_only=True)
class Record:
    """`members/<id>.record.json`: a finished member, so that a run that was stopped need not make it again."""

    FORMAT: ClassVar[str] = "pdtool.record/1"
    member: PoolMember


def member_seed(seed: int, index: int) -> int:
    """The seed of the pool's member number `index`, independent of how many there are."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def recipe_key(settings: Mapping[str, JsonValue], seed: int) -> str:
    """SHA-256 of everything that makes a member what it is."""
    return hashlib.sha256(canonical({"code": CODE, "seed": seed, **settings})).hexdigest()


def make_member(
    folder: Path,
    id: str,
    original: Original,
    units: Sequence[Unit],
    method: Method,
    rate: float,
    group_rates: Mapping[int, float],
    recipe: Recipe,
    training: TrainingSet,
    held: Labelled,
    *,
    seed: int,
    key: str,
    tick: Callable[[int], None],
) -> PoolMember:
    """Make a member and write its weights, plan and, last, its record into the pool folder.

    `original.net` is the teacher and is left as it is. A member whose fine-tuning diverges is not used.
    """
    net = copy.deepcopy(original.net)
    chosen = method(units, original.net, rate, group_rates, np.random.default_rng(seed))
    history = prune(net, original.spec.input, chosen)
    rates = achieved(original.net, net, units)
    pruned, reason = copy.deepcopy(net.state_dict()), None
    try:
        fit(net, training, recipe, seed=seed, teacher=original.net, tick=tick)
    except GateError as error:
        net.load_state_dict(pruned)
        net.eval()
        reason = str(error)
    model = write_model(folder, f"members/{id}", net, original, history, held, metadata={"member": id})
    member = PoolMember(
        id=id,
        model=model,
        used=reason is None,
        reason=reason,
        seed=seed,
        recipe_key=key,
        layer_rates={name: round(share, 6) for name, share in rates.layers.items()},
        channel_rate=round(rates.channels, 6),
        parameter_rate=round(rates.parameters, 6),
    )
    write_atomic(folder / "members" / f"{id}.record.json", canonical(encode(Record(member=member))))
    return member


def write_model(
    folder: Path,
    stem: str,
    net: nn.Module,
    original: Original,
    history: JsonValue,
    held: Labelled,
    metadata: dict[str, str],
) -> PoolModel:
    """Write `stem`.safetensors and `stem`.json (the plan) and measure the net on the held-out images."""
    costs = count(net, original.spec.input)
    return PoolModel(
        file=write_entry(folder, f"{stem}.safetensors", weights_bytes(net, original.metadata() | metadata)),
        plan=write_entry(folder, f"{stem}.json", canonical(encode(Plan(history=history, costs=costs)))),
        macs=costs.macs,
        parameters=costs.parameters,
        accuracy=round(accuracy(net, held.images, held.labels, original.preprocessing), 6),
        accuracy_images=len(held),
    )


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
    """The member with `used` and `reason` as the accuracy floor says; one that diverged stays unused."""
    if member.reason is not None and member.reason.startswith("training diverged"):
        return member
    if member.model.accuracy >= floor:
        return replace(member, used=True, reason=None)
    reason = f"accuracy {member.model.accuracy:.4f} is below the floor {floor:.4f}"
    return replace(member, used=False, reason=reason)
