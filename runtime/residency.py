"""Which models are in memory: never more bytes than the budget, the first members of the order kept longest.

Members are asked in a fixed order and the test stops early, so access is a prefix scan: the model whose next use is
furthest away is the last of the order. Least-recently-used would evict exactly the one needed next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pdtool.artifacts import BundleModel
from pdtool.errors import GateError
from pdtool.runtime.engine import Engine

__all__ = ["Counters", "Need", "Residency", "need"]


@dataclass(frozen=True)
class Need:
    """What a bundle asks of a memory budget, in bytes."""

    scratch: int  # most that loading or running any one model takes beyond what it holds afterwards
    least: int  # original + largest member + scratch: below this nothing works
    everything: int  # all models resident + scratch


@dataclass
class Counters:
    """What residency did so far; `peak_bytes` is the most ever reserved, scratch included."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0
    peak_bytes: int = 0


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
    budget. `load` turns a model into an engine. Raises GateError where the budget can never hold the original and
    one member.
    """

    original: BundleModel
    members: Sequence[BundleModel]
    budget: int | None
    load: Callable[[BundleModel], Engine]
    counters: Counters = field(default_factory=Counters)
    _engines: dict[str, Engine] = field(default_factory=dict)
    _rank: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._need = need(self.original, self.members)
        if self.budget is not None and self.budget < self._need.least:
            largest = max(self.members, key=lambda model: model.resident_bytes)
            raise GateError(
                f"memory budget {self.budget} bytes is too small: the original ({self.original.resident_bytes}), one "
                f"member ({largest.id}: {largest.resident_bytes}) and the largest load peak ({self._need.scratch}) "
                f"need {self._need.least} bytes"
            )
        self._size = {model.id: model.resident_bytes for model in (self.original, *self.members)}
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
        engine = self.load(model)
        self.counters.loads += 1
        self._engines[model.id] = engine
        return engine

    @property
    def reserved(self) -> int:
        """Bytes that the loaded models and the scratch may hold now (0 when nothing is loaded)."""
        return sum(self._size[name] for name in self._engines) + self._need.scratch if self._engines else 0

    @property
    def resident(self) -> tuple[str, ...]:
        """Ids of the loaded models, in the order in which they are asked."""
        return tuple(sorted(self._engines, key=self._rank.__getitem__))

    def stays(self) -> int:
        """How many of the first members stay loaded while the whole order is scanned again and again."""
        if self.budget is None:
            return len(self.order)
        free = self.budget - self._need.scratch - self.original.resident_bytes
        sizes = [model.resident_bytes for model in self.order]
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

    def _evict(self) -> None:
        last = max((name for name in self._engines if name != self.original.id), key=self._rank.__getitem__)
        self._engines.pop(last).close()
        self.counters.evictions += 1
