"""A pool as a table of ready text: the original, every member, and what the used members come to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pdtool.artifacts import Pool, PoolMember, PoolModel
from pdtool.wording import NOTHING, percent, size

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Summary:
    """`rows`: the original, the parent where there is one, then the members, each with its kind where they are of
    several; `used`: mean, least and most of the used members, where two are used."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    used: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Column:
    """`of` is given a model and, unless it is the original, its member; None where the column says nothing of it."""

    header: str
    of: Callable[[PoolModel, PoolMember | None], float | None]
    text: Callable[[float], str]

    def cell(self, values: Sequence[float | None], fold: Callable[[Sequence[float]], float] = max) -> str:
        """One value, or what several fold into."""
        known = [value for value in values if value is not None]
        return self.text(fold(known)) if known else NOTHING


def summary(pool: Pool) -> Summary:
    """The columns are those that say something of this pool's members."""
    columns = _costs(pool) + _changes(pool)
    rows = [("original", *(column.cell([column.of(pool.original, None)]) for column in columns))]
    if pool.parent is not None:
        rows.append(("parent", *(column.cell([column.of(pool.parent, None)]) for column in columns)))
    mixed = len({member.kind for member in pool.members}) > 1
    for member in pool.members:
        name = f"{member.id} {member.kind}" if mixed else member.id
        rows.append((name, *(column.cell([column.of(member.model, member)]) for column in columns)))
    used = [member for member in pool.members if member.used]
    return Summary(
        headers=("model", *(column.header for column in columns)),
        rows=tuple(rows),
        used=tuple(
            (name, *(column.cell([column.of(m.model, m) for m in used], fold) for column in columns))
            for name, fold in ((f"mean of {len(used)} used", _mean), ("least", min), ("most", max))
            if len(used) > 1
        ),
    )


def _costs(pool: Pool) -> list[_Column]:
    columns = [
        _Column("accuracy", lambda model, member: model.accuracy, percent),
        _Column("M MACs", lambda model, member: model.macs, _millions),
    ]
    if any(model.nonzero_macs < model.macs for model in (pool.original, *(member.model for member in pool.members))):
        columns.append(_Column("without zeros", lambda model, member: model.nonzero_macs, _millions))
    return [*columns, _Column("file", lambda model, member: model.file.bytes, size)]


def _changes(pool: Pool) -> list[_Column]:
    """What was done to the members."""
    mutated = [of for member in pool.members if "draws" in member.drawn for of in member.drawn if of != "draws"]
    if mutated:
        return [_drawn(f"{mutated[0]} mutated", mutated[0]), _drawn("draws", "draws")]
    smaller = any(member.model.parameters < pool.original.parameters for member in pool.members)
    zeros = any(member.model.nonzero_macs < member.model.macs for member in pool.members)
    how = "removed or zero" if smaller == zeros else "removed" if smaller else "zero"
    weights = _Column(f"weights {how}", lambda model, member: member.weight_rate if member else None, percent)
    channels = _Column("channels removed", lambda model, member: member.channel_rate if member else None, percent)
    return [channels, weights] if smaller else [weights]


def _drawn(header: str, key: str) -> _Column:
    def of(model: PoolModel, member: PoolMember | None) -> float | None:
        value = member.drawn.get(key) if member else None
        return float(value) if isinstance(value, (int, float)) else None

    return _Column(header, of, lambda value: f"{value:,.1f}".removesuffix(".0"))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _millions(macs: float) -> str:
    return f"{macs / 1e6:.2f}"
