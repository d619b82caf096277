"""Members made by worker processes of a Dask cluster: on this machine, or on those that a scheduler knows.

Dask's messages are pickles: whoever can talk to the scheduler can run code on the workers and here. A `local:N` cluster
listens on the loopback device alone.
"""

import logging
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch

from pdtool.compress.contract import Task
from pdtool.compress.making import Job, Make, Outcome
from pdtool.compress.methods import METHODS
from pdtool.compress.worker import Shipment, pack, work
from pdtool.errors import InputError, UsageError
from pdtool.extras import require

__all__ = ["check_cluster", "cluster"]

_ROUNDS = 3  # in a row that may end without a member
_WAIT_SCHEDULER, _WAIT_WORKER = 10, 60  # seconds
_SPEC = re.compile(r"local:([1-9]\d{0,3})|tcp://\S+:\d+")
# a worker's death, the scheduler's or a connection's, as Dask reports it
_LOST = (CancelledError, TimeoutError, OSError)


def check_cluster(spec: str) -> int | None:
    """N of `local:N`, None for a scheduler's address. Raises UsageError for anything else."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"--cluster {spec!r}: expected local:N, such as local:2, or tcp://HOST:PORT of a scheduler")
    return int(match[1]) if match[1] else None


@contextmanager
def cluster(spec: str) -> Iterator[Make]:
    """Workers as `--cluster` names them: `local:N`, N processes here, or a Dask scheduler's address.

    Yields the `Make` that has members made by them, one at a time in each process; it starts or reaches the workers
    when the first member is to be made. A member whose worker dies is made again by another; one whose every worker
    dies fails alone. Raises UsageError for another spec, MissingError where Dask is not installed; making raises
    InputError where no scheduler answers, workers do not start or all are lost.
    """
    count = check_cluster(spec)
    require("distributed", "make members on a cluster")
    clients: list[Any] = []
    with ExitStack() as stack:

        def make(method: str, task: Task, jobs: Sequence[Job], tick: Callable[[int], None]) -> Iterator[Outcome]:
            if not jobs:
                return
            if not clients:
                clients.append(_reach(spec, stack) if count is None else _start(count, stack))
            # what one process would use, unless that were more threads than cores: threads change the bytes
            cores = len(os.sched_getaffinity(0))
            threads = None if count is None else max(1, min(torch.get_num_threads(), cores // count))
            steps = METHODS[method].steps(task)
            yield from _rounds(clients[0], pack(method, task, threads), jobs, lambda: tick(steps))

        yield make


def _reach(address: str, stack: ExitStack) -> Any:
    distributed: Any = require("distributed", "make members on a cluster")
    try:
        client = distributed.Client(address, timeout=_WAIT_SCHEDULER, set_as_default=False)
    except _LOST as error:
        raise InputError(f"--cluster {address}: no scheduler answers ({error}); start one: dask scheduler") from None
    return stack.enter_context(client)


def _start(count: int, stack: ExitStack) -> Any:
    distributed: Any = require("distributed", "make members on a cluster")
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="pdtool-cluster-"))
    with _deaf_to_ctrl_c():
        try:
            workers = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,  # of Dask: one member at a time
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # None would listen on a fixed port
                memory_limit=0,  # or Dask kills workers that it thinks too large
                local_directory=scratch,
                silence_logs=logging.CRITICAL,
            )
        except (RuntimeError, *_LOST) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"--cluster local:{count}: the workers did not start ({reason}); try fewer") from None
        stack.enter_context(workers)
        return stack.enter_context(distributed.Client(workers, set_as_default=False))


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes and threads that start inside never hear of Ctrl-C: their parent stops them. It hears at the end."""
    resource_tracker.ensure_running()  # started by the first worker, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, also by workers started again
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _rounds(client: Any, shipment: Shipment, jobs: Sequence[Job], made: Callable[[], None]) -> Iterator[Outcome]:
    """Outcomes of all jobs; a round ends early when no worker is left that holds the shipment."""
    waiting, fruitless = {job.id: job for job in jobs}, 0
    while waiting:
        before = len(waiting)
        for outcome in _round(client, shipment, list(waiting.values())):
            del waiting[outcome.job.id]
            made()
            yield outcome
        fruitless = fruitless + 1 if len(waiting) == before else 0
        if client.status != "running":
            raise InputError("the cluster's scheduler went away; finished members are kept, run this again")
        if fruitless == _ROUNDS:
            raise InputError(
                f"the cluster was without workers {_ROUNDS} times before a member was finished; look at their logs and "
                f"memory, then run this again: finished members are kept"
            )


def _round(client: Any, shipment: Shipment, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """The outcomes that come before the shipment is lost, if it is."""
    distributed: Any = require("distributed", "make members on a cluster")
    try:
        client.wait_for_workers(1, timeout=_WAIT_WORKER)
        sent = client.scatter(shipment, broadcast=True, hash=False)
        futures = {client.submit(work, sent, job, pure=False): job for job in jobs}
    except (RuntimeError, *_LOST):  # RuntimeError: the connections of a client without its scheduler
        return
    try:
        for future in distributed.as_completed(list(futures), loop=client.loop):
            job = futures.pop(future)
            try:
                outcome = future.result()
            except _LOST:
                continue
            except distributed.KilledWorker:
                error = InputError(f"{job.id}: every worker that made it died; look at their logs and memory")
                outcome = Outcome(job, error, 0.0)
            yield outcome
    finally:
        if client.status == "running":
            client.cancel(list(futures))
