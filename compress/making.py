"""How members get made: one after another in this process, or by whatever else keeps to `Make`."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pdtool.artifacts import Kind
from pdtool.compress.contract import Task
from pdtool.compress.member import Made, make_member
from pdtool.compress.methods import METHODS
from pdtool.devices.memory import give_back
from pdtool.errors import PdtoolError

__all__ = ["Job", "Make", "Outcome", "here"]


@dataclass(frozen=True)
class Job:
    """A member to make: id, seed, the recipe key that says what it is made of, and its kind in a hardened pool."""

    id: str
    seed: int
    key: str
    kind: Kind = "hardened"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: the member, or the error that its making ended with; and the seconds that it took."""

    job: Job
    made: Made | Exception
    seconds: float


class Make(Protocol):
    """Makes the members of `jobs` by the method of that name, in any order."""

    def __call__(self, method: str, task: Task, jobs: Sequence[Job], tick: Callable[[int], None]) -> Iterator[Outcome]:
        """Each job's outcome as soon as there is one. Raises PdtoolError where no member can be made any more."""


def here(method: str, task: Task, jobs: Sequence[Job], tick: Callable[[int], None]) -> Iterator[Outcome]:
    """Make members one after another in this process; memory does not grow with their number."""
    for job in jobs:
        yield attempt(method, replace(task, tick=tick), job)


def attempt(method: str, task: Task, job: Job) -> Outcome:
    """One job in this process, which is left as large as it was.

    Raises PdtoolError; any other error is this member's own and its outcome.
    """
    begun = time.perf_counter()
    try:
        made: Made | Exception = make_member(
            job.id, METHODS[method], replace(task, seed=job.seed, kind=job.kind), key=job.key
        )
    except PdtoolError:
        raise
    except Exception as error:  # whatever it is, the other members can still be made
        made = error
    gc.collect()  # a net is full of cycles
    give_back()
    return Outcome(job, made, time.perf_counter() - begun)
