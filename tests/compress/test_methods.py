"""One contract for every method, on digits with LeNet-5 and a small ResNet-18; then what is special of each."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import Tensor, nn

from pdtool.artifacts import Preprocessing
from pdtool.compress import mutation
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.head import last_linear
from pdtool.compress.masks import best_of_four, drop_smallest, fits_pattern, weight_layers, weight_of
from pdtool.compress.member import member_seed
from pdtool.compress.methods import METHODS
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.original import Original, load_original
from pdtool.compress.pool import PoolRequest, make_pool, plan_pool
from pdtool.compress.split import align, hold_back
from pdtool.compress.subnetwork import METHOD as SUBNETWORK
from pdtool.compress.subnetwork import _Choice
from pdtool.compress.training import RECIPES, accuracy
from pdtool.compress.weights import parse_weights, save_weights
from pdtool.data import load_data
from pdtool.errors import GateError, UsageError
from pdtool.export.bundle import export_pool
from pdtool.runtime.bundle import open_bundle

# what is asked of each method, with every option that changes how it works; two members where it makes more than one
CASES: dict[str, dict[str, Any]] = {
    "random-channel": {},
    "random-channel --round-to 8": {"round_to": 8, "rate": 0.6},
    "l1-norm": {"rate": 0.4},
    "lottery-ticket": {"rate": 0.6, "rounds": 2, "search_epochs": 1},
    "lottery-ticket --pattern 2:4": {"pattern": "2:4", "search_epochs": 1},
    "subnetwork": {"rate": 0.6, "search_epochs": 2},
    "subnetwork --pattern 2:4": {"pattern": "2:4", "search_epochs": 2},
    "mutation-nai": {"rate": 0.02},
    "mutation-gf": {"rate": 0.02},
    "mutation-ws": {"rate": 0.02},
    "mutation-ns": {"rate": 0.02},
    "prune-and-scale": {"rounds": 3, "tau": 4.0, "members": 1},
}
ZEROING = [case for case in CASES if METHODS[case.split()[0]].removes == "weights"]
PATTERN = [case for case in CASES if "2:4" in case]
SHORT = replace(RECIPES["paper"], epochs=1)


def of_case(request: PoolRequest, case: str) -> PoolRequest:
    changes = {"recipe": SHORT, "members": 2, "max_drop": 1.0, **CASES[case]}
    return replace(request, method=case.split()[0], **changes)


@pytest.fixture
def made(request_of: PoolRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PoolFolder]:
    """The pool of a case, made once; to be read only."""

    def make(case: str) -> PoolFolder:
        out = tmp_path_factory.getbasetemp() / f"made-{list(CASES).index(case)}"
        if not (out / "pool.json").exists():
            make_pool(of_case(request_of, case), out)
        return open_pool(out)

    return make


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state_of(folder: PoolFolder, id: str) -> dict[str, Tensor]:
    return folder.member(id).net.state_dict()


def own_seed(index: int) -> int:
    return member_seed(0, index)


def test_every_method_is_among_the_cases() -> None:
    assert {case.split()[0] for case in CASES} == set(METHODS)


@pytest.mark.parametrize("case", CASES)
def test_the_pool_says_what_was_asked_and_made(case: str, made: Callable[[str], PoolFolder]) -> None:
    pool = made(case).pool
    assert pool.method == case.split()[0]
    assert len(pool.members) == CASES[case].get("members", 2)
    assert all(member.used for member in pool.members)
    asked = {name: value for name, value in CASES[case].items() if name not in ("rate", "members")}
    assert asked.items() <= pool.options.items()
    if "rate" in CASES[case]:
        assert pool.rate == CASES[case]["rate"]
    assert ("epochs" in pool.recipe) == ("epochs" in METHODS[pool.method].options)
    assert pool.original.nonzero_macs == pool.original.macs and pool.original.parameters == 61_706


@pytest.mark.parametrize("case", CASES)
def test_a_member_is_rebuilt_bit_for_bit(case: str, made: Callable[[str], PoolFolder]) -> None:
    folder = made(case)
    data = load_data("digits", (1, 32, 32), role="train")
    held = hold_back(align(data, folder.pool.classes), data.groups, spec="digits")[1]
    for member in folder.pool.members:
        stored, _ = parse_weights((folder.folder / member.model.file.path).read_bytes(), file="")
        rebuilt = state_of(folder, member.id)
        assert all(torch.equal(stored[name], rebuilt[name]) for name in stored)
        net = folder.member(member.id).net
        measured = accuracy(net, held.images, held.labels, folder.pool.preprocessing)
        assert measured == pytest.approx(member.model.accuracy, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_is_the_same_bytes_and_another_is_another_member(
    case: str, made: Callable[[str], PoolFolder], request_of: PoolRequest, tmp_path: Path
) -> None:
    folder = made(case)
    request = replace(of_case(request_of, case), members=1)
    again = make_pool(request, tmp_path / "AGAIN")
    assert again.members[0] == folder.pool.members[0]
    for name in ("m000.safetensors", "m000.json", "m000.record.json"):
        assert (tmp_path / "AGAIN/members" / name).read_bytes() == (folder.folder / "members" / name).read_bytes()
    other = make_pool(replace(request, seed=1), tmp_path / "OTHER").members[0]
    files = [member.model.file.sha256 for member in (*folder.pool.members, other)]
    assert len(set(files)) == len(files)


@contextmanager
def stopping(label: str, total: int | None) -> Iterator[Any]:
    """Ctrl-C in the last member, late."""

    class Stop:
        steps = 0

        def advance(self, steps: int = 1) -> None:
            self.steps += steps
            if self.steps >= total_steps:
                raise KeyboardInterrupt

        def say(self, text: str) -> None:
            pass

    assert total is not None
    total_steps = total
    yield Stop()


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    case: str, made: Callable[[str], PoolFolder], request_of: PoolRequest, tmp_path: Path
) -> None:
    whole, request, out = made(case), of_case(request_of, case), tmp_path / "POOL"
    with pytest.raises(KeyboardInterrupt):  # so every method ticks as often as it said
        make_pool(request, out, watch=stopping)
    finished = sorted(path.name for path in (out / "members").glob("*.record.json"))
    assert finished == [f"m{i:03d}.record.json" for i in range(request.members - 1)]
    stamps = {name: (out / "members" / name).stat().st_mtime_ns for name in finished}
    make_pool(request, out)
    assert files_of(out) == files_of(whole.folder)
    assert {name: (out / "members" / name).stat().st_mtime_ns for name in finished} == stamps


def test_a_killed_run_goes_on_to_the_same_bytes(
    made: Callable[[str], PoolFolder], request_of: PoolRequest, tmp_path: Path
) -> None:
    case, out = "subnetwork", tmp_path / "POOL"
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path;"
        "from pdtool.compress.pool import *; from pdtool.compress.training import RECIPES;"
        "make_pool(PoolRequest(weights=Path(sys.argv[1]), data='digits', method='subnetwork', members=2, max_drop=1.0,"
        "rate=0.6, search_epochs=2, recipe=replace(RECIPES['paper'], epochs=1)), Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(request_of.weights), str(out)])
    deadline = time.monotonic() + 60
    while not (out / "members" / "m000.record.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "pool.json").exists()
    make_pool(of_case(request_of, case), out)
    left = {name: data for name, data in files_of(out).items() if not name.endswith(".tmp")}
    assert left == files_of(made(case).folder)


@pytest.mark.parametrize("case", CASES)
def test_the_rate_is_achieved(case: str, made: Callable[[str], PoolFolder]) -> None:
    folder = made(case)
    pool, removes = folder.pool, METHODS[case.split()[0]].removes
    for member in pool.members:
        if removes == "channels":
            tolerance = 0.08 if "round-to" in case else 0.5 / 226  # multiples of 8 of 6, 16, 84 and 120 channels
            assert member.channel_rate == pytest.approx(pool.rate, abs=tolerance)
            assert member.parameter_rate > 0 and member.model.macs < pool.original.macs
        else:
            assert member.channel_rate == member.parameter_rate == 0
            assert member.model.macs == pool.original.macs  # a dense engine gains nothing
            assert member.model.file.bytes == pytest.approx(pool.original.file.bytes, abs=100)
        if removes == "weights":
            # a layer's count is rounded where layers are pruned one by one
            tolerance = 0 if case == "lottery-ticket" else 5 * 0.5 / 61_470
            assert member.weight_rate == pytest.approx(pool.rate, abs=tolerance + 1e-6)
        if removes == "nothing":
            assert member.weight_rate == 0
            total = 61_470 if case == "mutation-gf" else 220 if case == "mutation-ns" else 236
            assert member.drawn["mutated"] == pytest.approx(pool.rate * total, abs=1)


def test_rounded_layers_keep_multiples_of_eight(made: Callable[[str], PoolFolder]) -> None:
    folder = made("random-channel --round-to 8")
    for member in folder.pool.members:
        net = folder.member(member.id).net
        assert isinstance(net.conv1, nn.Conv2d) and net.conv1.out_channels == 6  # eight there are not
        for name in ("conv2", "fc1", "fc2"):
            assert len(weight_of(net, name)) % 8 == 0


@pytest.mark.parametrize("case", ZEROING)
def test_zeros_are_zero_in_the_file_the_plan_and_the_costs(case: str, made: Callable[[str], PoolFolder]) -> None:
    folder = made(case)
    positions = {"conv1": 28 * 28, "conv2": 10 * 10, "fc1": 1, "fc2": 1, "fc3": 1}
    for member in folder.pool.members:
        net, plan = folder.member(member.id).net, folder.plan(member.model)
        assert plan.history == []
        left = {layer: int(np.count_nonzero(weight_of(net, layer).detach().numpy())) for layer in positions}
        assert plan.nonzero_weights == left
        assert member.model.nonzero_macs == sum(count * left[layer] for layer, count in positions.items())
        assert 0 < member.model.nonzero_macs < member.model.macs == plan.costs.macs
        everything = sum(int(np.count_nonzero(p.detach().numpy())) for p in net.parameters())
        assert member.model.nonzero_parameters == everything < member.model.parameters
        for layer, share in member.layer_rates.items():
            assert share == pytest.approx(1 - left[layer] / weight_of(net, layer).numel(), abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_export_agrees_and_keeps_the_zeros(case: str, made: Callable[[str], PoolFolder], tmp_path: Path) -> None:
    folder = made(case)
    bundle = export_pool(folder.folder, tmp_path / "BUNDLE")
    for exported, member in zip(bundle.members, folder.pool.members, strict=True):
        assert exported.parity.label_agreement == 1.0 and exported.parity.max_difference < 1e-3
        graph = onnx.load_from_string(open_bundle(tmp_path / "BUNDLE").read(exported.file)).graph
        arrays = [onnx.numpy_helper.to_array(initializer) for initializer in graph.initializer]
        kept = sorted(int(np.count_nonzero(array)) for array in arrays if array.ndim > 1 and array.size > 1)
        assert kept == sorted(folder.plan(member.model).nonzero_weights.values())


@pytest.mark.parametrize("case", PATTERN)
def test_of_every_four_weights_along_the_inputs_two_are_zero(case: str, made: Callable[[str], PoolFolder]) -> None:
    folder = made(case)
    for member in folder.pool.members:
        net = folder.member(member.id).net
        for layer in ("fc1", "fc2", "fc3"):  # 400, 120 and 84 inputs
            rows = weight_of(net, layer).detach().numpy()
            for row in rows:
                assert all(np.count_nonzero(row[i : i + 4]) == 2 for i in range(0, len(row), 4))
        for layer in ("conv1", "conv2"):  # 1 and 6 inputs: half of the weights, wherever they are
            weight = weight_of(net, layer)
            assert int(weight.count_nonzero()) == weight.numel() / 2


def tiny_data(folder: Path) -> str:
    data = load_data("digits", (1, 32, 32), role="train")
    assert data.labels is not None
    few = np.concatenate([np.flatnonzero(data.labels == label)[:12] for label in range(10)])
    np.savez(folder / "few.npz", images=data.images[few], labels=data.labels[few])
    return str(folder / "few.npz")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> PoolRequest:
    """A ResNet-18 of width 8 that was never trained, and a few digits."""
    folder = tmp_path_factory.mktemp("resnet")
    spec = ModelSpec.parse("resnet18:width=8,classes=10,input=1x32x32")
    preprocessing = Preprocessing(channels=1, height=32, width=32, mean=(0.3,), std=(0.35,))
    original = Original(spec, build(spec), tuple("0123456789"), preprocessing)
    save_weights(folder / "w.safetensors", original.net, original.metadata())
    weights = folder / "w.safetensors"
    return PoolRequest(weights=weights, data=tiny_data(folder), members=1, max_drop=1.0, recipe=SHORT)


@pytest.mark.parametrize("case", CASES)
def test_every_method_follows_a_residual_net(case: str, resnet: PoolRequest, tmp_path: Path) -> None:
    method = METHODS[case.split()[0]]
    pool = make_pool(replace(resnet, method=case.split()[0], **(CASES[case] | {"members": 1})), tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    (member,), net = pool.members, folder.member("m000").net
    if method.removes == "channels":
        # of 8 channels none can go where multiples of 8 stay
        assert member.channel_rate == pytest.approx(pool.rate, abs=0.1 if "round-to" in case else 0.005)
        assert member.model.macs < pool.original.macs
    if method.removes == "weights":
        assert member.weight_rate == pytest.approx(pool.rate, abs=0.001)
    for layer in weight_layers(net) if case in PATTERN else ():
        weight = weight_of(net, layer).detach()
        if layer == "conv1":
            assert not fits_pattern(weight) and int(weight.count_nonzero()) == weight.numel() / 2
            continue
        for out in range(weight.shape[0]):
            for place in np.ndindex(*weight.shape[2:]):
                column = weight[(out, slice(None), *place)].numpy()
                assert all(np.count_nonzero(column[i : i + 4]) == 2 for i in range(0, len(column), 4))


@pytest.mark.parametrize("case", CASES)
def test_a_plan_writes_nothing(case: str, resnet: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_pool(replace(resnet, method=case.split()[0], **(CASES[case] | {"members": 1})))
    assert plan.seconds > 0 and plan.units > 5 and plan.steps > 0
    if METHODS[case.split()[0]].removes != "channels":
        assert plan.member_bytes == plan.original_bytes
        assert plan.notes  # that engines will be no smaller
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["lottery-ticket", "subnetwork", "mutation-nai", "prune-and-scale"])
def test_ignored_layers_stay_whole(case: str, request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(of_case(request_of, case), members=1, ignore=("conv1", "fc3"))
    make_pool(request, tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    assert folder.pool.members[0].layer_rates.keys() == {"conv2", "fc1", "fc2"}
    assert folder.plan(folder.pool.members[0].model).nonzero_weights["conv1"] == 150
    with pytest.raises(UsageError, match=r"--ignore 'conv9': the model has no such layer; its layers are conv1, conv2"):
        plan_pool(replace(request, ignore=("conv9",)))


@pytest.mark.parametrize("case", ["lottery-ticket", "prune-and-scale"])
def test_a_member_that_diverges_is_recorded_as_it_began(case: str, request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(of_case(request_of, case), members=1, recipe=replace(SHORT, lr=1e30, clip=1e30))
    with pytest.raises(GateError, match="none of 1 members can be used; m000: training diverged"):
        make_pool(request, tmp_path / "POOL")
    state, _ = parse_weights((tmp_path / "POOL/members/m000.safetensors").read_bytes(), file="")
    assert set(state) == set(build(ModelSpec.parse("lenet5:classes=10")).state_dict())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("random-channel", {"pattern": "2:4"}, "--pattern does not go with --method random-channel; it is for lottery"),
        ("l1-norm", {"tau": 2.0}, "--tau does not go with --method l1-norm; it is for prune-and-scale"),
        ("lottery-ticket", {"round_to": 8}, "--round-to does not go with --method lottery-ticket; it is for random-ch"),
        (
            "subnetwork",
            {"group_rates": {6: 0.5}},
            "--group-rate does not go with --method subnetwork; it is for random",
        ),
        ("subnetwork", {"rounds": 2}, "--rounds does not go with --method subnetwork; it is for lottery-ticket, prune"),
        ("mutation-ns", {"search_epochs": 2}, "--search-epochs does not go with --method mutation-ns"),
        ("prune-and-scale", {"rate": 0.5, "tau": 1.0}, "--rate does not go with --method prune-and-scale"),
        ("prune-and-scale", {"tau": 1.0, "members": 2}, "makes one model, not a pool; give --members 1, not 2"),
        ("prune-and-scale", {}, "needs --tau"),
        ("prune-and-scale", {"tau": 0.0}, "tau should be a number above 0, is 0.0"),
        ("prune-and-scale", {"tau": float("nan")}, "tau should be a number above 0, is nan"),
        ("lottery-ticket", {"pattern": "1:4"}, "unknown pattern '1:4'; expected 2:4"),
        ("lottery-ticket", {"pattern": "2:4", "rate": 0.6}, "removes exactly half of the weights; leave --rate out"),
        ("lottery-ticket", {"pattern": "2:4", "rounds": 3}, "takes one round or two, not 3"),
        ("subnetwork", {"pattern": "2:4", "ignore": ("fc1", "fc2", "fc3")}, "no layer has a multiple of four inputs"),
        ("lottery-ticket", {"rate": 1.0}, r"rate should be a share of weights to remove in \[0, 1\), is 1.0"),
        ("mutation-gf", {"rate": 1.0}, r"rate should be a share of neurons or weights to mutate in \[0, 1\), is 1.0"),
        ("mutation-gf", {"rate": 0.0}, "rate 0 would mutate nothing"),
        ("mutation-ns", {"ignore": ("conv2", "fc1", "fc2")}, "in hidden layers of 10 at least; this model has none"),
        ("random-channel", {"preset": "wang-2021", "rate": 0.5}, "sets all rates; leave --rate and --group-rate out"),
        ("random-channel", {"preset": "chen-2021"}, "is for layers of c, 2c, 4c and 8c channels"),
        ("random-channel", {"preset": "chen"}, "unknown preset 'chen'"),
        ("random-channel", {"round_to": 0}, "round-to should be at least 1, is 0"),
        ("l1-norm", {"round_to": 200}, "--round-to 200: no layer has more channels than that"),
        ("lottery-ticket", {"search_epochs": 0}, "search-epochs should be at least 1, is 0"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    method: str, change: dict[str, Any], message: str, request_of: PoolRequest, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        make_pool(replace(request_of, method=method, **({"members": 1} | change)), tmp_path / "POOL")
    assert not list(tmp_path.iterdir())


def test_a_preset_is_recorded_with_its_rates(resnet: PoolRequest, tmp_path: Path) -> None:
    recipe = replace(SHORT, epochs=0)
    for method in ("random-channel", "l1-norm"):
        pool = make_pool(replace(resnet, method=method, preset="chen-2021", recipe=recipe), tmp_path / method)
        assert pool.options == {"preset": "chen-2021", "round_to": 1}
        assert pool.group_rates == {"8": 0.5, "16": 0.6, "32": 0.7, "64": 0.8}
        (member,) = pool.members
        assert member.channel_rate == pytest.approx(pool.rate, abs=0.003)
        assert pool.rate == pytest.approx((5 * 8 * 0.5 + 5 * 16 * 0.6 + 5 * 32 * 0.7 + 5 * 64 * 0.8) / 600, abs=1e-6)


# masks


def test_the_smallest_go_over_all_layers_and_what_went_stays_away() -> None:
    rng = np.random.default_rng(0)
    values = {"a": torch.from_numpy(rng.random((5, 7))), "b": torch.from_numpy(rng.random((3, 2, 3, 3)))}
    masks = {name: torch.from_numpy(rng.random(tuple(tensor.shape)) < 0.8) for name, tensor in values.items()}
    gone = sum(int((~mask).sum()) for mask in masks.values())
    for zeros in (gone, gone + 1, 40, 88, 89):
        came = drop_smallest(values, masks, zeros)
        flat = np.concatenate([came[name].numpy().ravel() for name in values])
        keys = np.concatenate([np.where(masks[n].numpy(), values[n].numpy(), -1).ravel() for n in values])
        assert set(np.flatnonzero(~flat)) == set(np.argsort(keys)[:zeros])


def test_ties_are_broken_and_the_count_is_exact() -> None:
    came = drop_smallest({"a": torch.ones(10, 10)}, {"a": torch.ones(10, 10, dtype=torch.bool)}, 37)
    assert int((~came["a"]).sum()) == 37
    assert torch.equal(best_of_four(torch.zeros(3, 8, 2)).sum(1), torch.full((3, 2), 4))


@pytest.mark.parametrize("shape", [(6, 8), (3, 12, 3, 3), (2, 4, 5)])
@pytest.mark.parametrize("keep", [2, 3])
def test_the_best_of_every_four_stay(shape: tuple[int, ...], keep: int) -> None:
    values = np.random.default_rng(1).random(shape)
    mask = best_of_four(torch.from_numpy(values), keep).numpy()
    for out in range(shape[0]):
        for place in np.ndindex(*shape[2:]):
            for first in range(0, shape[1], 4):
                at = (out, slice(first, first + 4), *place)
                assert set(np.flatnonzero(mask[at])) == set(np.argsort(values[at])[-keep:])


# lottery tickets


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_a_ticket_is_rewound_to_its_own_initialisation(
    pattern: str | None, request_of: PoolRequest, tmp_path: Path
) -> None:
    request = replace(of_case(request_of, "lottery-ticket"), recipe=replace(SHORT, epochs=0), pattern=pattern)
    make_pool(replace(request, rate=0.5), tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    for index, member in enumerate(folder.pool.members):
        first = build(ModelSpec.parse(folder.pool.model), seed=own_seed(index)).state_dict()
        zeros = 0
        for name, tensor in state_of(folder, member.id).items():
            if name.removesuffix(".weight") in member.layer_rates and name.endswith("weight"):
                zeros += int((tensor == 0).sum())
                assert torch.equal(tensor[tensor != 0], first[name][tensor != 0])
            else:
                assert torch.equal(tensor, first[name])
        assert zeros == 61_470 // 2


def test_a_ticket_loses_what_training_left_smallest(request_of: PoolRequest, tmp_path: Path) -> None:
    """One round, followed by hand with the same training."""
    from pdtool.compress.prepare import prepare
    from pdtool.compress.training import fit

    request = replace(of_case(request_of, "lottery-ticket"), members=1, rounds=1, recipe=replace(SHORT, epochs=0))
    make_pool(request, tmp_path / "POOL")
    task = prepare(request).task
    net = build(task.original.spec, seed=own_seed(0))
    fit(net, task.training, replace(task.recipe, epochs=1), seed=own_seed(0))
    sizes = np.concatenate([weight_of(net, layer).detach().abs().numpy().ravel() for layer in weight_layers(net)])
    state = state_of(open_pool(tmp_path / "POOL"), "m000")
    kept = np.concatenate([state[f"{layer}.weight"].numpy().ravel() != 0 for layer in weight_layers(net)])
    assert (~kept).sum() == round(0.6 * 61_470)
    assert sizes[~kept].max() <= sizes[kept].min()


def test_rounds_remove_a_fifth_at_most(request_of: PoolRequest) -> None:
    from pdtool.compress.prepare import prepare

    def rounds(**change: Any) -> int | None:
        return prepare(replace(request_of, method="lottery-ticket", **change)).task.settings.rounds

    assert [rounds(rate=rate) for rate in (0.0, 0.2, 0.5, 0.9)] == [1, 1, 4, 11]
    assert rounds(rounds=2) == 2 and rounds(pattern="2:4") == 2


# subnetworks


def test_no_weight_of_a_subnetwork_is_trained(resnet: PoolRequest, tmp_path: Path) -> None:
    from pdtool.compress.prepare import prepare

    request = replace(resnet, method="subnetwork", search_epochs=2, rate=0.3)
    make_pool(request, tmp_path / "POOL")
    first = SUBNETWORK.start(replace(prepare(request).task, seed=own_seed(0))).net.state_dict()
    for name, tensor in state_of(open_pool(tmp_path / "POOL"), "m000").items():
        if tensor.ndim > 1:
            assert torch.equal(tensor[tensor != 0], first[name][tensor != 0])
            assert len(first[name].abs().unique()) == 1 and not bool((first[name] == 0).any())
            assert int((tensor == 0).sum()) == round(0.3 * tensor.numel())
        elif "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, first[name])


def test_searching_finds_better_weights_than_chance(request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(of_case(request_of, "subnetwork"), members=1, search_epochs=6)
    assert make_pool(request, tmp_path / "POOL").members[0].model.accuracy > 0.85


def test_scores_get_the_straight_through_gradient() -> None:
    scores = torch.tensor([[0.1, -0.9, 0.5, -0.2]])
    choice, weight, outside = (
        _Choice(scores, 0.5, None),
        torch.tensor([[2.0, 3.0, -4.0, 5.0]]),
        torch.tensor([[1.0, -2, 3, 4]]),
    )
    came = choice(weight)
    assert came.tolist() == [[0.0, 3.0, -4.0, 0.0]]
    (came * outside).sum().backward()
    assert choice.scores.grad is not None
    torch.testing.assert_close(choice.scores.grad, outside * weight * scores.sign())


# mutations


def nets() -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    net = build(ModelSpec.parse("lenet5:classes=10"))
    return net, copy.deepcopy(net), weight_layers(net)


def mutated(operator: mutation.Operator, rate: float, seed: int = 0) -> tuple[nn.Module, nn.Module, int]:
    before, after, layers = nets()
    with torch.no_grad():
        changed = operator(after, layers, rate, torch.Generator().manual_seed(seed))
    return before, after, changed


def biases_are_the_same(before: nn.Module, after: nn.Module) -> bool:
    return all(torch.equal(p, after.state_dict()[name]) for name, p in before.state_dict().items() if "bias" in name)


def test_nai_negates_weights_and_bias() -> None:
    before, after, changed = mutated(mutation.nai, 0.1)
    negated = 0
    for layer in weight_layers(before):
        old, new = before.get_submodule(layer), after.get_submodule(layer)
        for row in range(len(weight_of(before, layer))):
            sign = 1 if torch.equal(old.get_parameter("weight")[row], new.get_parameter("weight")[row]) else -1
            assert torch.equal(old.get_parameter("weight")[row] * sign, new.get_parameter("weight")[row])
            assert torch.equal(old.get_parameter("bias")[row] * sign, new.get_parameter("bias")[row])
            negated += sign < 0
    assert negated == changed == 24  # of 236


def test_ws_shuffles_within_neurons() -> None:
    before, after, changed = mutated(mutation.ws, 0.1)
    shuffled = 0
    for layer in weight_layers(before):
        for old, new in zip(weight_of(before, layer), weight_of(after, layer), strict=True):
            assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
            shuffled += not torch.equal(old, new)
    assert shuffled == changed == 24 and biases_are_the_same(before, after)


def test_ns_switches_pairs_of_neurons_of_one_layer() -> None:
    before, after, layers = nets()
    with torch.no_grad():
        changed = mutation.ns(after, layers, 0.2, torch.Generator().manual_seed(0))
    moved = 0
    for layer in layers:
        old, new = weight_of(before, layer).flatten(1), weight_of(after, layer).flatten(1)
        source = [int((old == row).all(1).nonzero()) for row in new]
        assert sorted(source) == list(range(len(old)))
        assert all(source[source[row]] == row for row in range(len(old)))  # switched, not sent round
        here = sum(row != at for row, at in enumerate(source))
        assert here == 0 or len(old) >= 10
        moved += here
    assert moved == changed == 46 and biases_are_the_same(before, after)  # of 230 in layers of ten at least
    assert mutated(mutation.ns, 0.001)[2] == 2  # never nothing


def test_gf_redraws_from_the_layer_s_mean_and_deviation() -> None:
    before, after, changed = mutated(mutation.gf, 0.5)
    assert changed == round(0.5 * 61_470) and biases_are_the_same(before, after)
    total = 0
    for layer in weight_layers(before):
        old, new = weight_of(before, layer).detach(), weight_of(after, layer).detach()
        drawn = new[new != old].double().numpy()
        total += len(drawn)
        assert len(drawn) == pytest.approx(old.numel() / 2, rel=0.25)
        deviation = float(old.double().std(correction=0))
        error = deviation / np.sqrt(len(drawn))
        assert drawn.mean() == pytest.approx(float(old.mean()), abs=4 * error)
        assert drawn.std() == pytest.approx(deviation, abs=4 * error)
        # a normal distribution, where the old weights are uniform
        assert (np.abs(drawn - drawn.mean()) > 2 * deviation).mean() == pytest.approx(
            0.0455, abs=4 * 0.21 / len(drawn) ** 0.5
        )
    assert total == changed


@pytest.mark.parametrize("operator", ["nai", "gf", "ws", "ns"])
def test_mutants_keep_nine_tenths_of_the_accuracy(operator: str, request_of: PoolRequest, tmp_path: Path) -> None:
    rate = {"nai": 0.1, "gf": 0.3, "ws": 0.2, "ns": 0.2}[operator]  # some draws fail
    pool = make_pool(replace(request_of, method=f"mutation-{operator}", members=4, rate=rate), tmp_path / "POOL")
    assert all(member.model.accuracy >= 0.9 * pool.original.accuracy for member in pool.members)
    assert max(member.drawn["draws"] for member in pool.members) > 1


def test_mutants_that_never_keep_it_are_recorded_and_not_used(
    request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "DRAWS", 3)
    with pytest.raises(
        GateError, match=r"none of 2 members can be used; m000: none of 3 mutants reached .* lower --rate"
    ):
        make_pool(replace(request_of, method="mutation-nai", rate=0.9), tmp_path / "POOL")
    assert (tmp_path / "POOL/members/m001.record.json").exists() and not (tmp_path / "POOL/pool.json").exists()


def test_classes_are_never_switched(request_of: PoolRequest, tmp_path: Path) -> None:
    make_pool(replace(request_of, method="mutation-ns", rate=0.3, members=1, max_drop=1.0), tmp_path / "POOL")
    folder = open_pool(tmp_path / "POOL")
    before, after = folder.original().net, folder.member("m000").net
    assert torch.equal(weight_of(before, "fc3"), weight_of(after, "fc3"))
    assert not torch.equal(weight_of(before, "fc2"), weight_of(after, "fc2"))


# prune and scale


def test_rounds_take_shares_of_each_layer_and_tau_scales_the_last(
    made: Callable[[str], PoolFolder], request_of: PoolRequest, tmp_path: Path
) -> None:
    scaled = made("prune-and-scale")
    make_pool(replace(of_case(request_of, "prune-and-scale"), tau=1.0), tmp_path / "ONE")
    one, four = state_of(open_pool(tmp_path / "ONE"), "m000"), state_of(scaled, "m000")
    for name, tensor in one.items():
        assert torch.equal(tensor * (4 if name == "fc3.weight" else 1), four[name])
    (member,) = scaled.pool.members
    assert member.drawn == {"scaled": "fc3"}
    for layer, share in member.layer_rates.items():
        left = 0.95**3 if layer.startswith("conv") else 0.9**3
        assert share == pytest.approx(1 - left, abs=0.5 / one[f"{layer}.weight"].numel() + 1e-6)


def test_the_hardened_model_is_an_original_as_it_is(made: Callable[[str], PoolFolder]) -> None:
    folder = made("prune-and-scale")
    hardened, notes = load_original(folder.folder / "members/m000.safetensors")
    assert notes == () and hardened.classes == folder.pool.classes
    assert torch.equal(hardened.net.state_dict()["fc3.weight"], state_of(folder, "m000")["fc3.weight"])


def test_the_last_linear_layer_is_the_one_that_makes_the_logits() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
            self.unused = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(x))
            return logits

    assert last_linear(Odd(), (1, 4, 4)) == "head"
    assert last_linear(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4)) == "1"
    assert last_linear(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.LogSoftmax(1)), (1, 4, 4)) is None
