"""One contract for every method, on digits with LeNet-5 and a small ResNet-18; then what is special of each."""

import os
import shutil
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

from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.masks import fits_pattern, weight_layers, weight_of
from pdtool.compress.member import member_seed
from pdtool.compress.methods import METHODS
from pdtool.compress.models import ModelSpec, build
from pdtool.compress.plan import plan_pool
from pdtool.compress.pool import PoolRequest, make_pool
from pdtool.compress.split import align, hold_back
from pdtool.compress.training import RECIPES, accuracy
from pdtool.compress.weights import parse_weights
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
            mutated = member.drawn["weights" if case == "mutation-gf" else "neurons"]
            assert mutated == pytest.approx(pool.rate * total, abs=1)


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


@pytest.mark.parametrize("case", CASES)
def test_every_method_follows_a_residual_net(case: str, untrained: PoolRequest, tmp_path: Path) -> None:
    method = METHODS[case.split()[0]]
    pool = make_pool(replace(untrained, method=case.split()[0], **(CASES[case] | {"members": 1})), tmp_path / "POOL")
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
def test_members_below_the_floor_are_recorded_and_not_used(
    case: str, made: Callable[[str], PoolFolder], request_of: PoolRequest, tmp_path: Path
) -> None:
    folder = made(case)
    shutil.copytree(folder.folder, tmp_path / "POOL")
    accuracies = [member.model.accuracy for member in folder.pool.members]
    best, request = max(accuracies), of_case(request_of, case)
    pool = make_pool(replace(request, min_accuracy=best), tmp_path / "POOL")
    assert [member.used for member in pool.members] == [accuracy == best for accuracy in accuracies]
    if best < 1:
        with pytest.raises(GateError, match="reaches the accuracy floor"):
            make_pool(replace(request, min_accuracy=float(np.nextafter(best, 1))), tmp_path / "POOL")


@pytest.mark.parametrize("case", CASES)
def test_a_plan_writes_nothing(
    case: str, untrained: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_pool(replace(untrained, method=case.split()[0], **(CASES[case] | {"members": 1})))
    assert 0 < plan.seconds.least <= plan.seconds.mean and plan.timed and plan.units > 5 and plan.steps > 0
    if METHODS[case.split()[0]].removes != "channels":
        assert plan.member_bytes.least == plan.member_bytes.most == plan.original_bytes
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


def test_a_preset_is_recorded_with_its_rates(untrained: PoolRequest, tmp_path: Path) -> None:
    recipe = replace(SHORT, epochs=0)
    for method in ("random-channel", "l1-norm"):
        pool = make_pool(replace(untrained, method=method, preset="chen-2021", recipe=recipe), tmp_path / method)
        assert pool.options == {"preset": "chen-2021", "round_to": 1}
        assert pool.group_rates == {"8": 0.5, "16": 0.6, "32": 0.7, "64": 0.8}
        (member,) = pool.members
        assert member.channel_rate == pytest.approx(pool.rate, abs=0.003)
        assert pool.rate == pytest.approx((5 * 8 * 0.5 + 5 * 16 * 0.6 + 5 * 32 * 0.7 + 5 * 64 * 0.8) / 600, abs=1e-6)
