"""Members made by worker processes of a Dask cluster: on this machine, or on those that a scheduler knows.

Dask's messages are pickles: whoever can talk to the scheduler can run code on the workers and here. A `local:N` cluster
listens on the loopback device alone.
"""

import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import pdtool
from pdtool.compress.contract import Task
from pdtool.compress.making import Job, Make, Outcome, attempt
from pdtool.compress.member import CODE
from pdtool.compress.methods import METHODS
from pdtool.compress.models import build
from pdtool.errors import InputError, MissingError, UsageError
from pdtool.extras import require

__all__ = ["cluster", "device_of_worker"]

_TRIES = 3  # rounds in a row that may end without a member, because all workers were lost
_WAIT = 60  # seconds for a scheduler, and for its first worker
_ALONE = threading.Lock()  # torch's random state and its number of threads belong to the whole process


@dataclass(frozen=True)
class _Shipment:
    """What all members share. Sent once to every worker; `task` comes without its net, which `state` fills."""

    code: tuple[str, int]
    method: str
    task: Task
    state: dict[str, Tensor]
    cuda: bool
    threads: int | None  # of torch, in a worker; None: as the worker was started


@contextmanager
def cluster(spec: str) -> Iterator[Make]:
    """Workers as `--cluster` names them: `local:N`, N processes here, or a Dask scheduler's address.

    Yields the `Make` that has members made by them, one at a time in each process. A member whose worker dies is made
    again by another; one that outlives no worker fails alone. Raises UsageError for another spec, MissingError where
    Dask is not installed, InputError where no scheduler answers.
    """
    match = re.fullmatch(r"local:([1-9]\d{0,3})|((?:tcp|tls|ws|wss)://\S+:\d+)", spec)
    if match is None:
        raise UsageError(f"--cluster {spec!r}: expected local:N, such as local:2, or tcp://HOST:PORT of a scheduler")
    distributed: Any = require("distributed", "make members on a cluster")
    if match[2]:
        try:
            client = distributed.Client(match[2], timeout=_WAIT, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise InputError(
                f"--cluster {spec}: no scheduler answers ({error}); start one with: dask scheduler"
            ) from None
        with client:
            yield _maker(distributed, client, None)
        return
    count = int(match[1])
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    with (
        tempfile.TemporaryDirectory(prefix="pdtool-cluster-") as scratch,
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,  # of Dask: one member at a time
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None would listen on a fixed port
            memory_limit=0,  # or Dask kills workers that it thinks too large
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
        ) as workers,
        distributed.Client(workers, set_as_default=False) as client,
    ):
        yield _maker(distributed, client, threads)


def _maker(distributed: Any, client: Any, threads: int | None) -> Make:
    def make(method: str, task: Task, jobs: Sequence[Job], tick: Callable[[int], None]) -> Iterator[Outcome]:
        shipment, steps = _pack(method, task, threads), METHODS[method].steps(task)
        waiting, fruitless = {job.id: job for job in jobs}, 0
        while waiting:
            before = len(waiting)
            for outcome in _round(distributed, client, shipment, list(waiting.values())):
                del waiting[outcome.job.id]
                tick(steps)
                yield outcome
            fruitless = fruitless + 1 if len(waiting) == before else 0
            if fruitless == _TRIES:
                raise InputError(
                    f"the cluster lost all its workers {_TRIES} times before a member was finished; look at their "
                    f"logs and memory, then run this again: finished members are kept"
                )

    return make


def _round(distributed: Any, client: Any, shipment: _Shipment, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """The outcomes that come before the data on the workers is lost, if it is."""
    lost = (CancelledError, TimeoutError, OSError)  # OSError: a connection to a dead worker, or to the scheduler
    try:
        client.wait_for_workers(1, timeout=_WAIT)
        _check(client.run(_code))
        sent = client.scatter(shipment, broadcast=True, hash=False)
    except lost:
        return
    futures = {client.submit(_work, sent, job, pure=False): job for job in jobs}
    try:
        for future in distributed.as_completed(list(futures), loop=client.loop):
            job = futures.pop(future)
            try:
                outcome = future.result()
            except lost:
                continue
            except distributed.KilledWorker:
                error = InputError(f"{job.id}: every worker that made it died; look at their logs and memory")
                outcome = Outcome(job, error, 0.0)
            yield outcome
    finally:
        client.cancel(list(futures))


def _code() -> tuple[str, int]:
    """What must be the same here and on a worker."""
    return pdtool.__version__, CODE


def _check(answers: dict[str, tuple[str, int]]) -> None:
    """Raise MissingError for workers with another pdtool."""
    for worker, code in answers.items():
        if code != _code():
            raise MissingError(
                f"{worker}: has pdtool {code[0]}, here it is {pdtool.__version__}; install the same on every worker: "
                f"pip install 'pdtool[compress,cluster]=={pdtool.__version__}'"
            )


def _pack(method: str, task: Task, threads: int | None) -> _Shipment:
    original, data = task.original, task.training
    return _Shipment(
        code=_code(),
        method=method,
        task=replace(
            task,
            original=replace(original, net=nn.Identity()),
            training=data.to("cpu"),
            tick=_ignore,
        ),
        state={name: tensor.detach().cpu() for name, tensor in original.net.state_dict().items()},
        cuda=data.labels.is_cuda,
        threads=threads,
    )


def _ignore(steps: int) -> None:
    """A worker's progress: counted here, when the member is finished."""


_unpacked: dict[int, tuple[_Shipment, Task]] = {}  # a worker's own: the shipment it worked on last


def _work(shipment: _Shipment, job: Job) -> Outcome:
    """On a worker: make one member."""
    with _ALONE:
        if shipment.threads is not None:
            torch.set_num_threads(shipment.threads)
        return attempt(shipment.method, _unpack(shipment), job)


def _unpack(shipment: _Shipment) -> Task:
    """The task with its net and data on this worker's device, put together once."""
    if id(shipment) not in _unpacked:
        _unpacked.clear()
        task = shipment.task
        net = build(task.original.spec)
        net.load_state_dict(shipment.state)
        place = device_of_worker(_name(), torch.cuda.device_count()) if shipment.cuda else "cpu"
        task = replace(
            task, original=replace(task.original, net=net.eval().to(place)), training=task.training.to(place)
        )
        _unpacked[id(shipment)] = shipment, task  # the shipment, too: an id is its own only while it lives
    return _unpacked[id(shipment)][1]


def _name() -> object:
    return require("distributed", "make members on a cluster").get_worker().name


def device_of_worker(name: object, count: int) -> str:
    """The torch device of a worker among `count` visible GPUs.

    Workers of `local:N` are numbered and take turns. Others (started by hand or by dask-cuda, one a GPU) see their own
    GPU first, by CUDA_VISIBLE_DEVICES.
    """
    if count == 0:
        raise MissingError("a worker has no GPU that torch can use; start the members with --train-on cpu")
    return f"cuda:{name % count}" if isinstance(name, int) else "cuda:0"
