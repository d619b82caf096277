"""What a worker of a cluster does: take the shipment that all members share, make one member at a time."""

import threading
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import pdtool
from pdtool.compress.contract import Draft, Task
from pdtool.compress.making import Job, Outcome, attempt
from pdtool.compress.member import CODE
from pdtool.compress.models import build
from pdtool.compress.prune import replay
from pdtool.errors import MissingError
from pdtool.extras import require
from pdtool.jsonform import JsonValue

__all__ = ["Shipment", "device_of_worker", "pack", "version", "work"]

SHIPMENT = 3  # raise when what is sent changes
_ALONE = threading.Lock()  # torch's random state and its number of threads belong to the whole process


@dataclass(frozen=True)
class Shipment:
    """What all members share; sent once to every worker. `task` comes without nets: `state`, `parent` and
    `scouts` (of each its history, too) are theirs."""

    version: str
    method: str
    task: Task
    state: dict[str, Tensor]
    parent: dict[str, Tensor] | None
    scouts: tuple[tuple[JsonValue, dict[str, Tensor]], ...]
    cuda: bool
    threads: int | None  # of torch, in a worker; None: as the worker was started


def version() -> str:
    """What must be the same here and on a worker."""
    return f"pdtool {pdtool.__version__} ({CODE}.{SHIPMENT}) with torch {torch.__version__.partition('+')[0]}"


def pack(method: str, task: Task, threads: int | None) -> Shipment:
    """The task as a shipment."""
    original, data = task.original, task.training
    return Shipment(
        version=version(),
        method=method,
        task=replace(
            task,
            original=replace(original, net=nn.Identity()),
            training=data.to("cpu"),
            crafted=None if task.crafted is None else task.crafted.to("cpu"),
            scouts=(),
            parent=None,
            tick=_ignore,
        ),
        state=_state(original.net),
        parent=None if task.parent is None else _state(task.parent),
        scouts=tuple((scout.history, _state(scout.net)) for scout in task.scouts),
        cuda=data.labels.is_cuda,
        threads=threads,
    )


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}


def _ignore(steps: int) -> None:
    """Steps are counted where the pool is written, a member at a time."""


def work(shipment: Shipment, job: Job) -> Outcome:
    """On a worker: make one member. Raises MissingError where the worker has another pdtool or torch."""
    if shipment.version != version():
        raise MissingError(
            f"a worker has {version()}, expected {shipment.version}; install the same on every worker: "
            f"pip install 'pdtool[compress,cluster]=={pdtool.__version__}'"
        )
    with _ALONE:
        if shipment.threads is not None:
            torch.set_num_threads(shipment.threads)
        return attempt(shipment.method, _unpack(shipment), job)


_unpacked: dict[int, tuple[Shipment, Task]] = {}  # the shipment that this worker worked on last


def _unpack(shipment: Shipment) -> Task:
    """The task with its net and data on this worker's device, put together once."""
    if id(shipment) not in _unpacked:
        _unpacked.clear()
        task = shipment.task
        net, parent, scouts = build(task.original.spec), None, list[Draft]()
        net.load_state_dict(shipment.state)
        if shipment.parent is not None:
            parent = build(task.original.spec)
            parent.load_state_dict(shipment.parent)
        for history, state in shipment.scouts:
            scout = build(task.original.spec)
            replay(scout, task.original.spec.input, history)
            scout.load_state_dict(state)
            scouts.append(Draft(net=scout.eval(), history=history))
        name = require("distributed", "make members on a cluster").get_worker().name
        place = device_of_worker(name, torch.cuda.device_count()) if shipment.cuda else "cpu"
        task = replace(
            task,
            original=replace(task.original, net=net.eval().to(place)),
            training=task.training.to(place),
            crafted=None if task.crafted is None else task.crafted.to(place),
            scouts=tuple(replace(scout, net=scout.net.to(place)) for scout in scouts),
            parent=None if parent is None else parent.eval().to(place),
        )
        _unpacked[id(shipment)] = shipment, task  # the shipment, too: an id is its own only while it lives
    return _unpacked[id(shipment)][1]


def device_of_worker(name: object, count: int) -> str:
    """The torch device of a worker among `count` visible GPUs.

    Workers of `local:N` are numbered and take turns. Others (started by hand or by dask-cuda, one a GPU) see their own
    GPU first, by CUDA_VISIBLE_DEVICES. Raises MissingError where there is none.
    """
    if count == 0:
        raise MissingError("a worker has no GPU that torch can use; start the members with --train-on cpu")
    return f"cuda:{name % count}" if isinstance(name, int) else "cuda:0"
