from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pdtool.compress import scouting
from pdtool.compress.crafting import craft
from pdtool.compress.hardening import Hardening
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.compress.prepare import prepare
from pdtool.compress.scouting import craft_for, crafted_count, crafting_steps
from pdtool.compress.training import RECIPES, crafted_of_batch
from pdtool.errors import UsageError


@pytest.fixture
def hard(request_of: PoolRequest) -> PoolRequest:
    """Two members of digits, hardened in two epochs."""
    return replace(
        request_of, recipe=replace(RECIPES["hardened"], epochs=2), hardening=Hardening(crafted=0.5, parent=1)
    )


def test_a_pool_that_is_not_hardened_gets_nothing(request_of: PoolRequest) -> None:
    ready = prepare(request_of)
    assert crafted_count(ready.method, ready.task) == crafting_steps(ready.method, ready.task) == 0
    assert craft_for(ready.method, ready.task, 5, tick=lambda steps: None) is ready.task


def test_images_are_crafted_once_for_a_seed(hard: PoolRequest) -> None:
    ready = prepare(hard)
    ticks: list[int] = []
    one, same, other = (craft_for(ready.method, ready.task, seed, tick=ticks.append).crafted for seed in (5, 5, 6))
    assert ready.task.crafted is None and one is not None and same is not None and other is not None
    assert len(one) == round(0.5 * len(ready.task.training))
    assert torch.equal(one.images, same.images) and not torch.equal(one.images, other.images)
    assert sum(ticks) == 3 * crafting_steps(ready.method, ready.task)


def test_no_more_is_crafted_than_one_member_sees(hard: PoolRequest) -> None:
    ready = prepare(replace(hard, hardening=Hardening(crafted=100.0, share=0.25)))
    steps, batch = ready.method.steps(ready.task), ready.task.recipe.batch
    assert batch == 32 and crafted_count(ready.method, ready.task) == steps * 8
    none = replace(hard.recipe, epochs=0)
    idle = prepare(replace(hard, recipe=none, hardening=Hardening(crafted=0.5)))
    assert crafted_count(idle.method, idle.task) == 1
    raised = prepare(replace(hard, recipe=none, hardening=Hardening(crafted=100.0, parent=3)))
    assert crafted_count(raised.method, raised.task) == 3 * (len(raised.task.training) // batch) * 16


def test_some_of_a_batch_are_crafted_but_never_all(hard: PoolRequest) -> None:
    assert [crafted_of_batch(share, 32) for share in (0.0, 0.01, 0.02, 0.5, 0.98, 0.99)] == [0, 0, 1, 16, 31, 31]
    ready = prepare(replace(hard, hardening=Hardening(crafted=100.0, share=0.99)))
    assert crafted_count(ready.method, ready.task) == ready.method.steps(ready.task) * 31
    with pytest.raises(UsageError, match=r"at least one image of a batch of 32, got 0\.01; raise share or leave"):
        small = prepare(replace(hard, hardening=Hardening(share=0.01)))
        crafted_count(small.method, small.task)


def test_scouts_are_made_and_attacked(hard: PoolRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    victims = list[list[nn.Module]]()

    def noting(nets: list[nn.Module], *rest: object, **more: object) -> object:
        victims.append(list(nets))
        return craft(nets, *rest, **more)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(scouting, "craft", noting)
    request = replace(hard, hardening=Hardening(crafted=0.5, parent=1, scouts=2))
    ready, ticks = prepare(request), list[int]()
    task = craft_for(ready.method, ready.task, 5, tick=ticks.append)
    assert sum(ticks) == crafting_steps(ready.method, ready.task)
    assert [len(nets) for nets in victims] == [1, 3] and victims[0][0] is victims[1][0] is ready.task.original.net
    first, second = (net.state_dict() for net in victims[1][1:])
    assert any(
        not torch.equal(tensor, second[name]) for name, tensor in first.items() if tensor.shape == second[name].shape
    )
    assert task.seed == ready.task.seed and task.tick is ready.task.tick

    pool = make_pool(request, tmp_path / "P")
    again = make_pool(request, tmp_path / "again")
    assert pool.recipe["hardening"] == vars(request.hardening)
    assert [m.model.file.sha256 for m in pool.members] == [m.model.file.sha256 for m in again.members]
    plain = make_pool(hard, tmp_path / "plain")
    assert pool.members[0].model.file.sha256 != plain.members[0].model.file.sha256
