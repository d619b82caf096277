"""The table of a pool has the columns that say something of its members."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdtool.artifacts import Pool
from pdtool.compress.hardening import Hardening
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.compress.summary import summary
from pdtool.compress.training import RECIPES

COLUMNS = {
    "random-channel": ("channels removed", "weights removed"),
    "lottery-ticket": ("without zeros", "weights zero"),
    "subnetwork": ("without zeros", "weights zero"),
    "mutation-nai": ("neurons mutated", "draws"),
    "mutation-gf": ("weights mutated", "draws"),
    "prune-and-scale": ("without zeros", "weights zero"),
}
OPTIONS: dict[str, dict[str, object]] = {
    "lottery-ticket": {"rounds": 1, "search_epochs": 1},
    "subnetwork": {"search_epochs": 1},
    "mutation-nai": {"rate": 0.03},
    "prune-and-scale": {"rounds": 1, "tau": 2.0, "members": 1},
}


def pool_by(method: str, request_of: PoolRequest, folder: Path) -> Pool:
    recipe = replace(request_of.recipe, epochs=1)
    changes = {"method": method, "max_drop": 1.0, "recipe": recipe, **OPTIONS.get(method, {})}
    return make_pool(replace(request_of, **changes), folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", COLUMNS)
def test_columns_are_those_of_the_method(method: str, request_of: PoolRequest, tmp_path: Path) -> None:
    pool = pool_by(method, request_of, tmp_path / "POOL")
    table = summary(pool)
    shared = {"model", "accuracy", "M MACs", "file"}
    assert {*table.headers} - shared == {*COLUMNS[method]}
    assert [row[0] for row in table.rows] == ["original", *(member.id for member in pool.members)]
    assert all(len(row) == len(table.headers) for row in (*table.rows, *table.used))
    assert [row[0] for row in table.used] == ([] if len(pool.members) == 1 else ["mean of 2 used", "least", "most"])
    original = dict(zip(table.headers, table.rows[0], strict=True))
    assert original[table.headers[-1]] == "–"  # nothing was done to it


def test_used_members_are_summed_up_by_hand(request_of: PoolRequest, tmp_path: Path) -> None:
    pool = pool_by("random-channel", replace(request_of, members=3), tmp_path / "POOL")
    first, second, third = pool.members
    pool = replace(pool, members=(first, replace(second, used=False, reason="so"), third))
    table = summary(pool)
    accuracies = [first.model.accuracy, third.model.accuracy]
    column = table.headers.index("accuracy")
    expected = [sum(accuracies) / 2, min(accuracies), max(accuracies)]
    assert [row[column] for row in table.used] == [f"{100 * share:.1f} %" for share in expected]
    assert summary(replace(pool, members=pool.members[:2])).used == ()


def test_a_hardened_pool_shows_its_parent_and_the_kinds_of_its_members(request_of: PoolRequest, tmp_path: Path) -> None:
    hardening = Hardening(crafted=0.1, robust=0.1, robust_members=0.5, parent=1)
    recipe = replace(RECIPES["hardened"], epochs=1)
    pool = make_pool(replace(request_of, recipe=recipe, hardening=hardening, max_drop=1.0), tmp_path / "POOL")
    names = [row[0] for row in summary(pool).rows]
    assert names == ["original", "parent", "m000 hardened", "m001 robust"]
    alike = replace(pool, parent=None, members=tuple(replace(member, kind="robust") for member in pool.members))
    assert [row[0] for row in summary(alike).rows] == ["original", "m000", "m001"]
