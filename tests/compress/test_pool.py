import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdtool.compress.models import Normalised
from pdtool.compress.original import Trained, load_original
from pdtool.compress.plan import plan_pool
from pdtool.compress.pool import PoolRequest, make_pool, open_pool
from pdtool.compress.training import predict
from pdtool.compress.weights import save_weights
from pdtool.data import load_data
from pdtool.errors import GateError, InputError, IntegrityError, UsageError
from pdtool.files import read_limited


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("method", ["random-channel", "l1-norm"])
def test_every_channel_method_makes_a_pool_that_opens(method: str, request_of: PoolRequest, tmp_path: Path) -> None:
    pool = make_pool(replace(request_of, method=method, members=1, max_drop=1.0), tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    assert folder.pool == pool
    data = load_data("digits", (1, 32, 32), role="test")
    (member,) = pool.members
    assert pool.method == method and member.channel_rate == pytest.approx(0.5, abs=0.01)
    labels = predict(folder.member(member.id), data.images)
    assert np.mean(labels == data.labels) == pytest.approx(member.model.accuracy, abs=0.15)
    assert len(set(labels.tolist())) == 10


def test_the_pool_says_what_was_made(pool_of: Path, request_of: PoolRequest) -> None:
    folder = open_pool(pool_of)
    pool = folder.pool
    assert pool.model == "lenet5:width=6,classes=10,input=1x32x32"
    assert pool.classes == tuple("0123456789")
    assert [member.id for member in pool.members] == ["m000", "m001"]
    assert pool.recipe["name"] == "paper" and pool.recipe["epochs"] == 2
    for member in pool.members:
        net = folder.member(member.id)
        assert sum(p.numel() for p in net.parameters()) == member.model.parameters < pool.original.parameters
        assert member.model.macs == folder.plan(member.model).costs.macs < pool.original.macs
        assert member.layer_rates == {"conv1": 0.5, "conv2": 0.5, "fc1": 0.5, "fc2": 0.5}
        assert member.parameter_rate == pytest.approx(1 - member.model.parameters / pool.original.parameters, abs=1e-6)
        assert member.used and member.reason is None
    kept = [set(range(6)) - set(folder.plan(m.model).history[0][2]) for m in pool.members]
    assert kept[0] != kept[1] or folder.plan(pool.members[0].model) != folder.plan(pool.members[1].model)


def test_models_come_ready_to_use(pool_of: Path, trained: Trained) -> None:
    folder = open_pool(pool_of)
    images, labels = folder.samples()
    assert images.dtype == np.uint8 and images.shape == (64, 32, 32, 1) and len(labels) == 64
    original = folder.original()
    assert isinstance(original, Normalised) and not original.training and not folder.member("m001").training
    first, _ = load_original(Path(trained.file))
    assert all(torch.equal(t, first.net.state_dict()[name]) for name, t in original.net.state_dict().items())
    assert np.mean(predict(original, images) == labels) > 0.9
    with pytest.raises(UsageError, match="has no member 'm9'"):
        folder.member("m9")


def test_the_same_seed_is_the_same_bytes(pool_of: Path, request_of: PoolRequest, tmp_path: Path) -> None:
    make_pool(request_of, tmp_path / "POOL")
    assert (files_of(tmp_path / "POOL")) == (files_of(pool_of))
    other = make_pool(replace(request_of, seed=1, members=1), tmp_path / "OTHER")
    assert other.members[0].model.file.sha256 != open_pool(pool_of).pool.members[0].model.file.sha256


def test_a_finished_pool_is_not_made_again_and_more_members_are_added(pool_of: Path, request_of: PoolRequest) -> None:
    before = files_of(pool_of)
    times = {name: (pool_of / name).stat().st_mtime_ns for name in before if name.startswith("members/")}
    make_pool(request_of, pool_of)
    assert files_of(pool_of) == before
    pool = make_pool(replace(request_of, members=3), pool_of)
    assert [member.id for member in pool.members] == ["m000", "m001", "m002"]
    assert {name: (pool_of / name).stat().st_mtime_ns for name in times} == times
    fewer = make_pool(replace(request_of, members=1), pool_of)
    assert [member.id for member in fewer.members] == ["m000"]


@pytest.mark.parametrize(
    "change", [{"rate": 0.25}, {"seed": 5}, {"method": "l1-norm"}, {"group_rates": {16: 0.25}}, {"ignore": ("conv1",)}]
)
def test_another_pool_is_refused_unless_forced(
    pool_of: Path, request_of: PoolRequest, change: dict[str, object]
) -> None:
    before = files_of(pool_of)
    other = replace(request_of, members=1, max_drop=1.0, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds another pool .*--force"):
        make_pool(other, pool_of)
    assert files_of(pool_of) == before
    pool = make_pool(other, pool_of, force=True)
    assert open_pool(pool_of).pool == pool and len(pool.members) == 1
    assert not (pool_of / "members" / "m001.record.json").exists()


def test_force_with_fewer_members_leaves_none_of_the_old(pool_of: Path, request_of: PoolRequest) -> None:
    make_pool(replace(request_of, members=1, rate=0.25, max_drop=1.0), pool_of, force=True)
    assert sorted(os.listdir(pool_of / "members")) == ["m000.json", "m000.record.json", "m000.safetensors"]
    assert os.listdir(pool_of.parent) == [pool_of.name]


def test_a_forced_pool_that_fails_leaves_the_old_one(pool_of: Path, request_of: PoolRequest) -> None:
    before = files_of(pool_of)
    recipe = replace(request_of.recipe, epochs=0)
    with pytest.raises(GateError, match="none of 1 members"):
        make_pool(replace(request_of, members=1, rate=0.95, recipe=recipe, max_drop=0.0), pool_of, force=True)
    assert files_of(pool_of) == before


def test_force_deletes_no_file_of_others(pool_of: Path, request_of: PoolRequest) -> None:
    for name in (".notes", "members/readme.txt"):
        (pool_of / name).write_text("mine")
        make_pool(request_of, pool_of)  # goes on in the folder, which deletes nothing
        with pytest.raises(InputError, match="which is no part of a pool"):
            make_pool(replace(request_of, rate=0.25), pool_of, force=True)
        assert (pool_of / name).read_text() == "mine"
        (pool_of / name).unlink()


def test_a_linked_pool_folder_stays_a_link(pool_of: Path, request_of: PoolRequest, tmp_path: Path) -> None:
    (tmp_path / "LINK").symlink_to(pool_of)
    made = make_pool(replace(request_of, members=1, rate=0.25, max_drop=1.0), tmp_path / "LINK", force=True)
    assert (tmp_path / "LINK").is_symlink() and open_pool(pool_of).pool == made


def test_other_fine_tuning_is_another_pool(pool_of: Path, request_of: PoolRequest) -> None:
    with pytest.raises(InputError, match="holds another pool"):
        make_pool(replace(request_of, recipe=replace(request_of.recipe, lr=0.001)), pool_of)


def test_a_damaged_member_is_noticed_and_made_again_with_force(pool_of: Path, request_of: PoolRequest) -> None:
    path = pool_of / "members" / "m001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="SHA-256 is not the recorded one"):
        open_pool(pool_of).member("m001")
    with pytest.raises(InputError, match="damaged members"):
        make_pool(request_of, pool_of)
    make_pool(request_of, pool_of, force=True)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["original.safetensors", "original.json", "members/m000.json", "samples.npz"])
def test_every_file_is_checked_before_it_is_parsed(pool_of: Path, name: str) -> None:
    (pool_of / name).write_bytes((pool_of / name).read_bytes() + b" ")
    folder = open_pool(pool_of)
    with pytest.raises(IntegrityError, match="expected .* bytes"):
        folder.original(), folder.member("m000"), folder.samples()


def test_resuming_can_be_turned_off(pool_of: Path, request_of: PoolRequest) -> None:
    with pytest.raises(InputError, match="--no-resume needs --force"):
        make_pool(request_of, pool_of, resume=False)
    stamp = (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns
    make_pool(replace(request_of, members=1), pool_of, resume=False, force=True)
    assert (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns > stamp


def test_a_folder_of_other_things_is_never_touched(request_of: PoolRequest, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(InputError, match="holds 'thesis.tex', which is no part of a pool"):
            make_pool(request_of, tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="cannot be made a folder"):
        make_pool(request_of, tmp_path / "thesis.tex")


def test_members_below_the_floor_are_recorded_and_not_used(pool_of: Path, request_of: PoolRequest) -> None:
    accuracies = [member.model.accuracy for member in open_pool(pool_of).pool.members]
    floor = max(accuracies)
    if min(accuracies) == floor:
        floor = np.nextafter(floor, 1)
    stamp = (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns
    request = replace(request_of, min_accuracy=float(floor), members=4)
    try:
        pool = make_pool(request, pool_of)
    except GateError:
        pytest.fail("one of four members should reach the best accuracy of two")
    assert 0 < sum(member.used for member in pool.members) < 4
    for member in pool.members:
        assert member.used == (member.model.accuracy >= floor)
        assert member.used or member.reason == f"accuracy {member.model.accuracy:.4f} is below the floor {floor:.4f}"
    assert (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns == stamp  # another floor remakes nothing


def test_no_usable_member_is_a_gate_error(request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(request_of, rate=0.95, recipe=replace(request_of.recipe, epochs=0), max_drop=0.02)
    with pytest.raises(GateError, match="none of 2 members reaches the accuracy floor .*lower --rate"):
        make_pool(request, tmp_path / "POOL")
    assert not (tmp_path / "POOL" / "pool.json").exists()


def test_a_pool_below_a_higher_floor_is_no_pool_any_more(pool_of: Path, request_of: PoolRequest) -> None:
    stamp = (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns
    with pytest.raises(GateError, match="none of 2 members"):
        make_pool(replace(request_of, min_accuracy=1.0), pool_of)
    with pytest.raises(InputError, match=r"has no pool\.json"):
        open_pool(pool_of)
    make_pool(request_of, pool_of)
    assert (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns == stamp  # the members were kept
    open_pool(pool_of)


def test_the_root_is_no_place_for_a_pool(request_of: PoolRequest) -> None:
    with pytest.raises(InputError, match="is the root of the file system"):
        make_pool(request_of, Path("/"), force=True)


def test_a_member_that_diverges_is_recorded_and_not_used(request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(request_of, members=1, recipe=replace(request_of.recipe, lr=1e9), max_drop=1.0)
    with pytest.raises(GateError, match="none of 1 members"):
        make_pool(request, tmp_path / "POOL")
    record = json.loads((tmp_path / "POOL" / "members" / "m000.record.json").read_text())
    assert record["member"]["used"] is False and "training diverged" in record["member"]["reason"]


def test_ignored_layers_stay_whole(request_of: PoolRequest, tmp_path: Path) -> None:
    pool = make_pool(replace(request_of, members=1, ignore=("conv2", "fc1"), max_drop=1.0), tmp_path / "POOL")
    assert pool.members[0].layer_rates.keys() == {"conv1", "fc2"}
    assert pool.recipe["ignore"] == ["conv2", "fc1"]
    with pytest.raises(UsageError, match="--ignore 'conv9': the model has no such layer; .*conv1"):
        plan_pool(replace(request_of, ignore=("conv9",)))
    with pytest.raises(UsageError, match="leaves no layer to prune"):
        plan_pool(replace(request_of, ignore=("conv1", "conv2", "fc1", "fc2")))


def test_held_out_data_can_be_given(request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(request_of, members=1, holdout="digits#test", max_drop=1.0)
    pool = make_pool(request, tmp_path / "POOL")
    assert pool.original.accuracy_images == len(load_data("digits", (1, 32, 32), role="test").images)
    data = load_data("digits", (1, 32, 32), role="train")
    assert pool.data_fingerprint == data.fingerprint


def test_foreign_weights_work_with_a_model(request_of: PoolRequest, trained: Trained, tmp_path: Path) -> None:
    original, _ = load_original(Path(trained.file))
    path = tmp_path / "foreign.pth"
    torch.save(original.net.state_dict(), path)
    with pytest.raises(UsageError, match="give --model"):
        plan_pool(replace(request_of, weights=path))
    pool = make_pool(replace(request_of, weights=path, model="lenet5", members=1), tmp_path / "POOL")
    assert pool.classes == tuple("0123456789") and pool.original.accuracy > 0.9


def test_a_net_of_the_user_s_own_works(
    request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownnets.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n"
        "    layers = [nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU()]\n"
        "    layers += [nn.Conv2d(8, 8, 3, 2, groups=4), nn.ReLU(), nn.Flatten()]\n"
        "    return nn.Sequential(*layers, nn.Linear(288, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    from pdtool.compress.models import ModelSpec, build

    spec = "ownnets:make:classes=10,input=1x32x32"
    save_weights(tmp_path / "own.safetensors", build(ModelSpec.parse(spec)), {})
    request = replace(request_of, weights=tmp_path / "own.safetensors", model=spec, members=1, max_drop=1.0)
    pool = make_pool(request, tmp_path / "POOL")
    with pytest.raises(UsageError, match="names ownnets:make, .* say so with --model ownnets:make"):
        open_pool(tmp_path / "POOL")
    with pytest.raises(UsageError, match="is of the model ownnets:make, --model says 'lenet5'"):
        open_pool(tmp_path / "POOL", model="lenet5")
    folder = open_pool(tmp_path / "POOL", model="ownnets:make")
    assert pool.model == spec and folder.member("m000").net.get_submodule("3").groups == 4
    assert pool.members[0].model.macs < pool.original.macs


def test_no_file_runs_code_that_the_user_did_not_name(
    pool_of: Path, request_of: PoolRequest, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evilmod.py").write_text(
        "import os, pathlib\npathlib.Path(os.environ['MARK']).touch()\n"
        "from pdtool.compress.models import ModelSpec, build\n"
        "def make(classes): return build(ModelSpec.parse(f'lenet5:classes={classes}'))\n"
    )
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.chdir(tmp_path)
    spec = "evilmod:make:classes=10,input=1x32x32"
    original, _ = load_original(Path(trained.file))
    evil = tmp_path / "evil.safetensors"
    save_weights(evil, original.net, original.metadata() | {"model": spec})
    refused = "names evilmod:make, which is code that would be run; if you trust it, say so with --model evilmod:make"
    with pytest.raises(UsageError, match=refused):
        make_pool(replace(request_of, weights=evil), tmp_path / "POOL")
    with pytest.raises(UsageError, match=refused):
        load_original(evil)
    document = json.loads((pool_of / "pool.json").read_text())
    (pool_of / "pool.json").write_text(json.dumps(document | {"model": spec}))
    with pytest.raises(UsageError, match=refused):
        open_pool(pool_of).original()
    assert not mark.exists() and "evilmod" not in sys.modules
    assert open_pool(pool_of, model="evilmod:make").original() is not None
    assert mark.exists()  # with the user's word it runs


def test_weights_are_read_once(request_of: PoolRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def counted(path: Path, largest: int) -> bytes:
        reads.append(path)
        return read_limited(path, largest)

    monkeypatch.setattr("pdtool.compress.weights.read_limited", counted)
    plan_pool(request_of)
    assert reads == [request_of.weights]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; expected one of random-channel, l1-norm"),
        ({"members": 0}, "members should be at least 1"),
        ({"rate": 1.0}, r"rate should be a share of channels to remove in \[0, 1\)"),
        ({"min_accuracy": 1.2}, r"min-accuracy should lie in \[0, 1\]"),
        ({"max_drop": -0.1}, r"max-drop should lie in \[0, 1\]"),
    ],
)
def test_senseless_settings_are_usage_errors(request_of: PoolRequest, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(request_of, **change)  # type: ignore[arg-type]


def test_an_unknown_group_is_refused_before_anything_is_written(request_of: PoolRequest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="groups are 6, 16, 84, 120"):
        make_pool(replace(request_of, group_rates={64: 0.5}), tmp_path / "POOL")
    assert not list(tmp_path.iterdir())


def test_what_is_no_pool_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no pool.json, expected a folder written by compress"):
        open_pool(tmp_path)
    (tmp_path / "pool.json").write_text('{"format": "pdtool.pool/9"}')
    with pytest.raises(InputError, match="field 'format' is 'pdtool.pool/9'"):
        open_pool(tmp_path)
