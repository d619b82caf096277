"""Which models are in memory: never more bytes than the budget, the first members of the order kept longest.

Members are asked in a fixed order and the test stops early, so access is a prefix scan: the model whose next use is
furthest away is the last of the order. Least-recently-used would evict exactly the one needed next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import BundleModel
from pdtool.errors import GateError
from pdtool.runtime.engine import Engine

__all__ = ["Counters", "Need", "Residency", "expected_loads", "need"]

WARM = 200  # frames after which what can stay loaded is
NOISE = 2**19  # bytes; loading one file again and again takes up to 0.2 MiB more or less


@dataclass(frozen=True)
class Need:
    """What a bundle asks of a memory budget, in bytes."""

    scratch: int  # most that loading or running any one model takes beyond what it holds afterwards
    least: int  # original + largest member + scratch: below this nothing works
    everything: int  # all models resident + scratch


@dataclass
class Counters:
    """What residency did so far."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0
    peak_bytes: int = 0  # most ever reserved, scratch included
    larger: int = 0  # models that took more than was recorded; what they took is reserved from then on


def need(original: BundleModel, members: Sequence[BundleModel]) -> Need:
    """What these models ask of a budget, from the figures measured at export."""
    models = (original, *members)
    scratch = max(model.load_peak_bytes - model.resident_bytes for model in models)
    largest = max(model.resident_bytes for model in members)
    return Need(
        scratch=scratch,
        least=original.resident_bytes + largest + scratch,
        everything=sum(model.resident_bytes for model in models) + scratch,
    )


@dataclass
class Residency:
    """Loaded engines within `budget` bytes (None: no limit). The original is loaded first and stays.

    Space is reserved before a model is loaded: what is loaded + the new one + the largest load peak never exceeds the
    budget. `load` turns a model into an engine; `held` gives the process's memory in bytes, and a model that takes
    more than was recorded at export is reserved as measured (None: the records are taken as they are). Raises
    GateError where the budget can never hold the original and one member.
    """

    original: BundleModel
    members: Sequence[BundleModel]
    budget: int | None
    load: Callable[[BundleModel], Engine]
    held: Callable[[], int | None] | None = None
    counters: Counters = field(default_factory=Counters)
    _engines: dict[str, Engine] = field(default_factory=dict)
    _rank: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scratch = need(self.original, self.members).scratch
        self._size = {model.id: model.resident_bytes for model in (self.original, *self.members)}
        self._check_budget()
        self.set_order(range(len(self.members)))

    def set_order(self, order: Sequence[int]) -> None:
        """The order in which members are asked from now on: position k holds the index of the k-th member asked."""
        self.order = tuple(self.members[i] for i in order)
        self._rank = {model.id: rank for rank, model in enumerate(self.order)} | {self.original.id: -1}

    def engine(self, model: BundleModel) -> Engine:
        """The model's engine, loaded now if it is not resident, after evicting the last of the order until it fits."""
        engine = self._engines.get(model.id)
        if engine is not None:
            self.counters.hits += 1
            return engine
        while self.budget is not None and self.reserved + self._size[model.id] > self.budget:
            self._evict()
        self.counters.peak_bytes = max(self.counters.peak_bytes, self.reserved + self._size[model.id])
        engine, taken = self._load_measured(model)
        self.counters.loads += 1
        self._engines[model.id] = engine
        if taken > self._size[model.id] + NOISE:
            self._enlarge(model, taken)
        return engine

    @property
    def reserved(self) -> int:
        """Bytes that the loaded models and the scratch may hold now (0 when nothing is loaded)."""
        return sum(self._size[name] for name in self._engines) + self._scratch if self._engines else 0

    @property
    def resident(self) -> tuple[str, ...]:
        """Ids of the loaded models, in the order in which they are asked."""
        return tuple(sorted(self._engines, key=self._rank.__getitem__))

    def stays(self) -> int:
        """How many of the first members stay loaded while the whole order is scanned again and again."""
        if self.budget is None:
            return len(self.order)
        free = self.budget - self._scratch - self._size[self.original.id]
        sizes = [self._size[model.id] for model in self.order]
        if sum(sizes) <= free:
            return len(sizes)
        largest = max(sizes)  # one place must remain for whichever member comes next
        count = 0
        while sum(sizes[: count + 1]) + largest <= free:
            count += 1
        return count

    def close(self) -> None:
        """Close every engine; afterwards nothing is reserved."""
        for name in list(self._engines):
            self._engines.pop(name).close()

    def _load_measured(self, model: BundleModel) -> tuple[Engine, int]:
        """The engine and the bytes that the process grew by.

        Growth beyond the record is checked by a second load, and the smaller one counts: the first session of a
        process also pays for the runtime's own machinery, and frames may arrive while a model is loaded.
        """
        before = self._held()
        engine = self.load(model)
        taken = self._held() - before
        if taken > self._size[model.id] + NOISE:
            engine.close()
            before = self._held()
            engine = self.load(model)
            taken = min(taken, self._held() - before)
        return engine, taken

    def _held(self) -> int:
        """0 where nothing depends on it, or the system does not say: the records are then taken as they are."""
        return (self.held() if self.held is not None and self.budget is not None else None) or 0

    def _enlarge(self, model: BundleModel, taken: int) -> None:
        """Reserve what a loaded model really takes; evict others until that fits."""
        self.counters.larger += self._size[model.id] == model.resident_bytes  # counted once a model
        self._size[model.id] = taken
        self.counters.peak_bytes = max(self.counters.peak_bytes, self.reserved - self._scratch)
        self._check_budget()
        while self.budget is not None and self.reserved > self.budget:
            self._evict(keep=model.id)
        self.counters.peak_bytes = max(self.counters.peak_bytes, self.reserved)

    def _check_budget(self) -> None:
        original = self._size[self.original.id]
        largest = max(self.members, key=lambda member: self._size[member.id])
        least = original + self._size[largest.id] + self._scratch
        if self.budget is not None and self.budget < least:
            larger = f"; {self.counters.larger} take more here than at export" if self.counters.larger else ""
            raise GateError(
                f"memory budget {self.budget} bytes is too small: the original ({original}), one member "
                f"({largest.id}: {self._size[largest.id]}) and the largest load peak ({self._scratch}) need {least} "
                f"bytes{larger}; give at least that many"
            )

    def _evict(self, keep: str | None = None) -> None:
        others = [name for name in self._engines if name not in (self.original.id, keep)]
        self._engines.pop(max(others, key=self._rank.__getitem__)).close()
        self.counters.evictions += 1


def expected_loads(residency: Residency, models_clean: Sequence[float], *, frames: int = 2000) -> float:
    """Loads a clean frame under the residency's budget and sizes, frames coming one by one, once it is warm.

    `models_clean`: the share of clean frames that ask exactly 1, 2, ... members. Counted over `frames` frames drawn
    from it, with engines that do nothing.
    """
    rng = np.random.default_rng(0)
    shares = np.asarray(models_clean) / sum(models_clean)
    played = Residency(residency.original, residency.members, residency.budget, lambda model: _Nothing())
    played.set_order([residency.members.index(model) for model in residency.order])
    loads = 0
    for frame, asked in enumerate(rng.choice(len(shares), size=frames + WARM, p=shares) + 1):
        if frame == WARM:
            loads = played.counters.loads
        for model in (played.original, *played.order[:asked]):
            played.engine(model)
    return (played.counters.loads - loads) / frames


class _Nothing:
    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Never called."""
        return batch

    def close(self) -> None:
        """Nothing was opened."""
