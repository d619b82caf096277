"""Which models are in memory: never more bytes than the budget, the first members of the order kept longest.

Members are asked in a fixed order and the test stops early, so access is a prefix scan: the model whose next use is
furthest away is the last of the order. Least-recently-used would evict exactly the one needed next.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pdtool.artifacts import BundleModel
from pdtool.calibration.kinds import kinds_of, orders
from pdtool.errors import GateError
from pdtool.runtime.ahead import Ahead
from pdtool.runtime.engine import Engine
from pdtool.runtime.need import need

__all__ = ["Counters", "Residency", "draw_order"]


@dataclass
class Counters:
    """What residency did so far."""

    hits: int = 0
    loads: int = 0
    ahead: int = 0  # of the loads, those that were under way or done when the engine was asked for
    evictions: int = 0
    peak_bytes: int = 0  # most ever reserved, scratch included
    larger: int = 0  # files that take more here than the bundle says; what they take is reserved


@dataclass
class Residency:
    """Loaded engines within `budget` bytes (None: no limit). The original is loaded first and stays.

    Space is reserved before a model is loaded: what is loaded + the new one + the scratch of runs and loads never
    exceeds the budget. `load` turns a model into an engine; members that share a file share an engine. With
    `in_background`, the next member is loaded on a thread while others run, where it fits (`prefetch`). Raises
    GateError where the budget can never hold the original and one member. One thread uses a Residency.
    """

    original: BundleModel
    members: Sequence[BundleModel]
    budget: int | None
    load: Callable[[BundleModel], Engine]
    in_background: bool = False
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._engines: dict[str, Engine] = {}  # by file
        self._ahead = Ahead(lambda model: self.load(model))
        self._scratch = need(self.original, self.members).scratch
        self._size = {model.file.path: model.resident_bytes for model in (self.original, *self.members)}
        self._sharing = Counter(model.file.path for model in (self.original, *self.members))
        self._check_budget()
        self.set_order(range(len(self.members)))

    def set_order(self, order: Sequence[int]) -> None:
        """The order in which members are asked from now on: position k holds the index of the k-th member asked."""
        self.order = tuple(self.members[i] for i in order)
        self._rank = {model.file.path: rank for rank, model in reversed(list(enumerate(self.order)))}
        self._rank[self.original.file.path] = -1
        self._stays: int | None = None

    def sharing(self, model: BundleModel) -> int:
        """How many members its file holds."""
        return self._sharing[model.file.path]

    def rank(self, model: BundleModel) -> int:
        """Where in the order its file is asked for first; -1 for the original."""
        return self._rank[model.file.path]

    def engine(self, model: BundleModel) -> Engine:
        """The model's engine, loaded now if it is not resident, after evicting the last of the order until it fits.

        Raises what loading raises; the other engines are not harmed.
        """
        file = model.file.path
        engine = self._engines.get(file)
        if engine is not None:
            self.counters.hits += 1
            return engine
        if self._ahead.model is not None:
            waited_for = self._ahead.model.file.path == file
            self._settle()
            if waited_for and file in self._engines:
                self.counters.ahead += 1
                return self._engines[file]
        self._make_room(model)
        engine = self._engines[file] = self.load(model)
        self.counters.loads += 1
        return engine

    def prefetch(self, after: int) -> None:
        """Begin to load the first member behind the first `after` of the order that is not resident, if it fits.

        Only members that come later still are evicted for it. Nothing happens without a budget, where every member is
        loaded once and stays, nor while another load is under way.
        """
        if not self.in_background or self.budget is None or self._ahead.model is not None:
            return
        for model in self.order[after:]:
            if model.file.path not in self._engines:
                break
        else:
            return
        file = model.file.path
        later = sum(self._size[name] for name in self._engines if self._rank[name] > self._rank[file])
        if self.reserved - later + self._size[file] > self.budget:
            return
        self._make_room(model)
        self._ahead.start(model)

    @property
    def reserved(self) -> int:
        """Bytes that the loaded models and the scratch may hold now (0 when nothing is loaded)."""
        coming = self._size[self._ahead.model.file.path] if self._ahead.model is not None else 0
        held = sum(self._size[name] for name in self._engines) + coming
        return held + self._scratch if held else 0

    @property
    def resident(self) -> tuple[str, ...]:
        """Ids of the models that are loaded, in the order in which they are asked."""
        return tuple(model.id for model in (self.original, *self.order) if model.file.path in self._engines)

    def stays(self) -> int:
        """How many of the first members stay loaded while the whole order is scanned again and again."""
        if self._stays is None:
            self._stays = self._count_stays()
        return self._stays

    def close(self) -> None:
        """Close every engine; afterwards nothing is reserved."""
        self._settle()
        self._ahead.close()
        for name in list(self._engines):
            self._engines.pop(name).close()

    def _count_stays(self) -> int:
        if self.budget is None:
            return len(self.order)
        free = self.budget - self._scratch - self._size[self.original.file.path]
        sizes = {model.file.path: self._size[model.file.path] for model in self.order}
        if sum(sizes.values()) <= free:
            return len(self.order)
        largest = max(sizes.values())  # one place must remain for whichever member comes next
        kept, used = set[str](), 0
        for file, size in sizes.items():
            used += size
            if used + largest > free:
                break
            kept.add(file)
        return next(k for k, model in enumerate(self.order) if model.file.path not in kept)

    def _settle(self) -> None:
        """Take over what was loaded in the background."""
        model = self._ahead.model
        if model is not None and (engine := self._ahead.take()) is not None:
            self._engines[model.file.path] = engine
            self.counters.loads += 1

    def _make_room(self, model: BundleModel) -> None:
        """Evict until the model fits, and write down the peak."""
        size = self._size[model.file.path]
        while self.budget is not None and max(self.reserved, self._scratch) + size > self.budget:
            self._evict()
        peak = max(self.reserved, self._scratch) + size
        if model is self.original:  # loaded before anything runs
            peak = max(peak, model.load_peak_bytes)
        self.counters.peak_bytes = max(self.counters.peak_bytes, peak)

    def _check_budget(self) -> None:
        original = self._size[self.original.file.path]
        largest = max(self.members, key=lambda member: self._size[member.file.path])
        size = self._size[largest.file.path]
        least = max(original + size + self._scratch, self.original.load_peak_bytes)
        if self.budget is not None and self.budget < least:
            larger = f"; {self.counters.larger} take more here than at export" if self.counters.larger else ""
            what = f"the original ({original}), one file of members ({largest.file.path}: {size}) and the scratch of "
            what += f"running and loading ({self._scratch})"
            if least > original + size + self._scratch:
                what = "the bytes, weights and temporaries of loading the original"
            raise GateError(
                f"memory budget {self.budget} bytes is too small: {what} need {least} bytes{larger}; give at least "
                f"that many"
            )

    def _evict(self) -> None:
        others = [name for name in self._engines if name != self.original.file.path]
        self._engines.pop(max(others, key=self._rank.__getitem__)).close()
        self.counters.evictions += 1


def draw_order(rng: np.random.Generator, members: Sequence[BundleModel]) -> list[int]:
    """A random order of the members, by index, in which those of one file stay together.

    In a mixed pool kinds take turns instead, as they did when it was calibrated (`pdtool.calibration.kinds.turns`): a
    file of several members is then run for the first of them, for all frames that are open.
    """
    kinds = kinds_of([member.kind for member in members])
    if kinds is not None:
        return [int(i) for i in orders(len(members), kinds, 1, rng)[0]]
    files: dict[str, list[int]] = {}
    for i, member in enumerate(members):
        files.setdefault(member.file.path, []).append(i)
    groups = list(files.values())
    return [int(i) for k in rng.permutation(len(groups)) for i in rng.permutation(groups[k])]
