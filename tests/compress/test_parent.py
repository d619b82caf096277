"""The parent of a hardened pool: made once, members are cut from it, and a run that was stopped keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pdtool.compress.hardening import Hardening
from pdtool.compress.parent import FILES
from pdtool.compress.plan import plan_pool
from pdtool.compress.pool import PoolRequest, make_pool, open_pool
from pdtool.compress.prune import replay
from pdtool.compress.training import RECIPES
from pdtool.compress.watch import Steps
from pdtool.compress.weights import load_weights
from pdtool.errors import InputError, UsageError
from pdtool.images import size_of


@pytest.fixture
def hard(request_of: PoolRequest) -> PoolRequest:
    """Two members of digits of an epoch, their parent of one."""
    hardening = Hardening(crafted=0.2, parent=1, robust=0.1)
    return replace(request_of, recipe=replace(RECIPES["hardened"], epochs=1), hardening=hardening, max_drop=1.0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state_of(path: Path) -> dict[str, Tensor]:
    return load_weights(path)[0]


@contextmanager
def stop_after_the_parent(label: str, total: int | None) -> Iterator[Steps]:
    class Stop:
        def advance(self, steps: int = 1) -> None: ...

        def say(self, text: str) -> None:
            if text.startswith("parent:"):
                raise KeyboardInterrupt

    yield Stop()


def test_members_are_cut_from_the_parent(hard: PoolRequest, tmp_path: Path) -> None:
    """Untrained members have its weights, not the original's, in the channels that are left."""
    pool = make_pool(replace(hard, members=1, recipe=replace(hard.recipe, epochs=0)), tmp_path / "P")
    assert pool.parent is not None and pool.parent.accuracy_images == pool.original.accuracy_images
    folder = open_pool(tmp_path / "P")
    assert folder.pool == pool
    (member,) = pool.members
    net = folder.original().net
    net.load_state_dict(state_of(tmp_path / "P" / "parent.safetensors"))
    replay(net, size_of(pool.preprocessing), folder.plan(member.model).history, file="P")
    cut, found = net.state_dict(), state_of(tmp_path / "P" / member.model.file.path)
    convolutions = [name for name, tensor in cut.items() if tensor.ndim == 4]
    assert convolutions and all(torch.equal(cut[name], found[name]) for name in convolutions)
    first, whole = state_of(tmp_path / "P" / "original.safetensors"), state_of(tmp_path / "P" / "parent.safetensors")
    assert not any(torch.equal(first[name], whole[name]) for name in convolutions)


def test_a_stopped_run_keeps_the_parent(hard: PoolRequest, tmp_path: Path) -> None:
    out = tmp_path / "P"
    with pytest.raises(KeyboardInterrupt):
        make_pool(hard, out, watch=stop_after_the_parent)
    assert not list((out / "members").iterdir())
    stamp = (out / "parent.safetensors").stat().st_mtime_ns
    make_pool(hard, out)
    assert (out / "parent.safetensors").stat().st_mtime_ns == stamp
    make_pool(hard, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    again = make_pool(hard, out)  # nothing is left to be made
    assert again.parent is not None and files_of(out) == files_of(tmp_path / "whole")


def test_a_damaged_parent_is_made_again(hard: PoolRequest, tmp_path: Path) -> None:
    """Before the members, and when all of them are there."""
    out = tmp_path / "P"
    with pytest.raises(KeyboardInterrupt):
        make_pool(hard, out, watch=stop_after_the_parent)
    make_pool(hard, tmp_path / "whole")
    path = out / "parent.safetensors"
    for _ in range(2):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        make_pool(hard, out)
        assert files_of(out) == files_of(tmp_path / "whole")


def test_the_parent_of_another_recipe_is_not_replaced_unasked(hard: PoolRequest, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_pool(hard, tmp_path / "P", watch=stop_after_the_parent)
    before = files_of(tmp_path / "P")
    other = replace(hard, hardening=Hardening(crafted=0.2, parent=1))
    for request in (other, replace(hard, hardening=None)):
        with pytest.raises(InputError, match="holds another pool"):
            make_pool(request, tmp_path / "P")
    assert files_of(tmp_path / "P") == before
    make_pool(other, tmp_path / "P", force=True)
    make_pool(other, tmp_path / "other")
    assert files_of(tmp_path / "P") == files_of(tmp_path / "other")


def test_who_does_not_resume_makes_the_parent_again(hard: PoolRequest, tmp_path: Path) -> None:
    out = tmp_path / "P"
    with pytest.raises(KeyboardInterrupt):
        make_pool(hard, out, watch=stop_after_the_parent)
    stamp = (out / "parent.safetensors").stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        make_pool(hard, out, resume=False, watch=stop_after_the_parent)
    assert (out / "parent.safetensors").stat().st_mtime_ns > stamp


def test_the_parent_is_attacked_itself_where_members_are(hard: PoolRequest, tmp_path: Path) -> None:
    files = []
    for robust in (0.1, 0.0):
        request = replace(hard, hardening=Hardening(crafted=0.2, parent=1, robust=robust))
        with pytest.raises(KeyboardInterrupt):
            make_pool(request, tmp_path / str(robust), watch=stop_after_the_parent)
        files.append((tmp_path / str(robust) / "parent.safetensors").read_bytes())
    assert files[0] != files[1]


def test_a_forced_run_goes_on_with_the_old_pools_parent(hard: PoolRequest, tmp_path: Path) -> None:
    make_pool(hard, tmp_path / "whole")
    make_pool(hard, tmp_path / "P")
    (tmp_path / "P" / "members" / "m001.record.json").write_text("{}")  # a damaged member: another pool
    made = (tmp_path / "P" / "parent.safetensors").read_bytes()
    make_pool(hard, tmp_path / "P", force=True)
    assert (tmp_path / "P" / "parent.safetensors").read_bytes() == made
    assert files_of(tmp_path / "P") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("hardening", [Hardening(parent=1), Hardening(fresh=0.5)])
@pytest.mark.parametrize("method", ["lottery-ticket", "subnetwork", "prune-and-scale"])
def test_members_with_weights_of_their_own_get_no_parent(hard: PoolRequest, method: str, hardening: Hardening) -> None:
    with pytest.raises(UsageError, match=f"those of {method} do not"):
        replace(hard, members=1, method=method, hardening=hardening)


def test_a_pool_without_a_parent_has_none(hard: PoolRequest, tmp_path: Path) -> None:
    pool = make_pool(replace(hard, members=1, hardening=Hardening(crafted=0.2)), tmp_path / "P")
    assert pool.parent is None and not any((tmp_path / "P" / name).exists() for name in FILES)


def test_a_plan_counts_the_parent(hard: PoolRequest) -> None:
    def planned(epochs: int) -> float:
        hardening = Hardening(crafted=0.01, parent=epochs, robust=0.1)
        return plan_pool(replace(hard, members=1, hardening=hardening)).seconds.mean

    assert planned(40) > 5 * planned(0)
