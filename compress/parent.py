"""The parent of a hardened pool: the original with all of its channels, hardened once; members are cut from it.

What a member has to learn in its few epochs, its parent knows already. It is no member: nobody asks it for a verdict.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import nn

from pdtool.artifacts import PoolModel
from pdtool.compress.contract import Method, Task, fine_tune
from pdtool.compress.member import model_files
from pdtool.compress.training import made_on
from pdtool.compress.weights import fit_state, parse_weights
from pdtool.errors import InputError, IntegrityError
from pdtool.files import read_checked, read_limited, write_atomic
from pdtool.jsonform import canonical, decode, encode, parse

__all__ = ["FILES", "Parent", "ParentRecord", "parent_for", "parent_key", "parent_steps", "raise_parent", "read_parent"]

FILES = ("parent.safetensors", "parent.json", "parent.record.json")  # in the pool's folder


@dataclass(frozen=True, kw_only=True)
class ParentRecord:
    """`parent.record.json`: a finished parent, so that a run that was stopped need not make it again."""

    FORMAT: ClassVar[str] = "pdtool.parent/1"
    model: PoolModel
    recipe_key: str
    made_on: str  # as of a member: on another device the same request gives other bytes


@dataclass(frozen=True)
class Parent:
    """A finished parent; `kept` where an earlier run made it."""

    net: nn.Module
    record: ParentRecord
    kept: bool


def parent_steps(method: Method, task: Task) -> int:
    """How often `parent_for` ticks; 0 where none is wanted, or members do not begin with its weights."""
    if task.hardening is None or not method.inherits:
        return 0
    return replace(task.recipe, epochs=_epochs(task)).steps(len(task.training))


def parent_for(folder: Path, task: Task, *, key: str, tick: Callable[[int], None] = lambda steps: None) -> Parent:
    """The parent of that key: the finished one in the folder, or one made now, of the task's seed, and written there.

    Raises GateError where it diverges, InputError where the disk refuses.
    """
    kept = read_parent(folder, task, key=key)
    if kept is not None:
        tick(replace(task.recipe, epochs=_epochs(task)).steps(len(task.training)))
        return kept
    net = raise_parent(replace(task, tick=tick))
    model, files = model_files("parent", net, task.original, [], task.held, metadata={"member": "parent"})
    for path, data in files.items():
        write_atomic(folder / path, data)
    record = ParentRecord(model=model, recipe_key=key, made_on=made_on(net))
    write_atomic(folder / FILES[-1], canonical(encode(record)))
    return Parent(net, record, kept=False)


def raise_parent(task: Task) -> nn.Module:
    """A hardened copy of the original, by the task's recipe and seed. Raises GateError where it diverges."""
    net = copy.deepcopy(task.original.net)
    fine_tune(task, net, epochs=_epochs(task))
    return net


def parent_key(folder: Path) -> str | None:
    """The recipe key of the parent that the folder holds; None where there is none, or its record is damaged."""
    record = _read_record(folder)
    return None if record is None else record.recipe_key


def read_parent(folder: Path, task: Task, *, key: str) -> Parent | None:
    """The finished parent of that key, or None where there is none or its files are not the ones it wrote."""
    record, path = _read_record(folder), folder / FILES[0]
    if record is None or record.recipe_key != key:
        return None
    try:
        weights, _ = (
            read_checked(folder / entry.path, entry.bytes, entry.sha256)
            for entry in (record.model.file, record.model.plan)
        )
        net = copy.deepcopy(task.original.net)
        fit_state(net, parse_weights(weights, file=str(path))[0], file=str(path), model="the original")
    except (InputError, IntegrityError):
        return None
    return Parent(net, record, kept=True)


def _read_record(folder: Path) -> ParentRecord | None:
    path = folder / FILES[-1]
    if not path.exists():
        return None
    try:
        return decode(ParentRecord, parse(read_limited(path), file=str(path)), file=str(path))
    except InputError:
        return None


def _epochs(task: Task) -> int:
    assert task.hardening is not None
    return task.hardening.parent
