"""Members made by real worker processes, some of which are killed on the way."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdtool.compress import cluster as module
from pdtool.compress.cluster import cluster
from pdtool.compress.hardening import Hardening
from pdtool.compress.making import Job, Make
from pdtool.compress.original import load_original
from pdtool.compress.pool import PoolRequest, make_pool, open_pool
from pdtool.compress.prepare import prepare
from pdtool.compress.training import RECIPES
from pdtool.compress.weights import save_weights
from pdtool.compress.worker import device_of_worker, pack, work
from pdtool.errors import GateError, InputError, MissingError, UsageError

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def two() -> Iterator[Make]:
    with cluster("local:2") as make:
        yield make


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def workers(but: Collection[int] = ()) -> list[int]:
    """Process ids of the workers that this process started, less those in `but`."""
    found = []
    for child in psutil.Process().children(recursive=True):
        if (
            "spawn_main" in " ".join(child.cmdline())
            and child.status() != psutil.STATUS_ZOMBIE
            and child.pid not in but
        ):
            found.append(child.pid)
    return found


class Lines:
    """A watch that calls `at` with every line said."""

    def __init__(self, at: Any) -> None:
        self.at, self.steps, self.total = at, 0, 0

    def __call__(self, label: str, total: int | None) -> "Lines":
        self.total = total or 0
        return self

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None: ...

    def advance(self, steps: int = 1) -> None:
        self.steps += steps

    def say(self, text: str) -> None:
        self.at(text)


def test_workers_make_the_same_bytes_as_one_process(two: Make, request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(request_of, members=5)
    lines: list[str] = []
    watch = Lines(lines.append)
    make_pool(request, tmp_path / "one")
    pool = make_pool(request, tmp_path / "many", make=two, watch=watch)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert [member.id for member in pool.members] == ["m000", "m001", "m002", "m003", "m004"]
    assert watch.steps == watch.total > 0
    assert sum(line.startswith("m00") for line in lines) == 5


def test_what_hardened_members_share_goes_along(two: Make, request_of: PoolRequest, tmp_path: Path) -> None:
    hardening = Hardening(crafted=0.2, parent=1, robust=0.05, robust_members=0.5, scouts=1, orthogonal=10.0)
    recipe = replace(RECIPES["hardened"], epochs=1)
    request = replace(request_of, members=2, recipe=recipe, hardening=hardening, max_drop=1.0)
    make_pool(request, tmp_path / "one")
    make_pool(request, tmp_path / "many", make=two)
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_finished_members_are_not_made_again(two: Make, request_of: PoolRequest, tmp_path: Path) -> None:
    make_pool(request_of, tmp_path / "P")
    before = files(tmp_path / "P")
    lines: list[str] = []
    make_pool(replace(request_of, members=3), tmp_path / "P", make=two, watch=Lines(lines.append))
    assert sum("kept from an earlier run" in line for line in lines) == 2
    assert {name: data for name, data in files(tmp_path / "P").items() if name in before and name != "pool.json"} == {
        name: data for name, data in before.items() if name != "pool.json"
    }


def test_the_data_travels_once_not_once_a_member(
    two: Make, request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, list[int]] = {"scatter": [], "submit": []}
    scatter, submit = distributed.Client.scatter, distributed.Client.submit

    def scattering(self: Any, data: Any, **options: Any) -> Any:
        sent["scatter"].append(len(pickle.dumps(data)))
        return scatter(self, data, **options)

    def submitting(self: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        sent["submit"].append(sum(len(pickle.dumps(a)) for a in arguments if not isinstance(a, distributed.Future)))
        return submit(self, function, *arguments, **options)

    monkeypatch.setattr(distributed.Client, "scatter", scattering)
    monkeypatch.setattr(distributed.Client, "submit", submitting)
    make_pool(replace(request_of, members=4), tmp_path / "P", make=two)
    assert len(sent["scatter"]) == 1 and sent["scatter"][0] > 800_000  # 889 digits of 32 x 32
    assert len(sent["submit"]) == 4 and max(sent["submit"]) < 2_000


def test_a_killed_worker_s_member_is_made_again(request_of: PoolRequest, tmp_path: Path) -> None:
    request = replace(request_of, members=4, recipe=replace(request_of.recipe, epochs=8))
    killed, others = list[int](), set(workers())

    def kill(text: str) -> None:
        if text.startswith("m00") and not killed:  # one is finished: both workers are busy
            killed.append(workers(others)[0])
            os.kill(killed[0], signal.SIGKILL)

    with cluster("local:2") as make:
        make_pool(request, tmp_path / "P", make=make, watch=Lines(kill))
    assert killed and all(member.used for member in open_pool(tmp_path / "P").pool.members)
    make_pool(request, tmp_path / "one")
    assert files(tmp_path / "P") == files(tmp_path / "one")


@pytest.mark.slow
def test_the_data_is_sent_again_when_no_worker_is_left_that_holds_it(request_of: PoolRequest, tmp_path: Path) -> None:
    killed, others = list[int](), set(workers())

    def kill(text: str) -> None:
        if text.startswith("m00") and not killed:
            killed.extend(workers(others))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with cluster("local:1") as make:
        pool = make_pool(replace(request_of, members=3), tmp_path / "P", make=make, watch=Lines(kill))
    assert len(killed) == 1 and len(pool.members) == 3


def own_model(factory: str, trained: Any, folder: Path) -> PoolRequest:
    """A member of the user's own network, a module in the current folder, with the trained weights."""
    original, _ = load_original(Path(trained.file))
    save_weights(folder / "w.safetensors", original.net, {})
    return PoolRequest(
        weights=folder / "w.safetensors",
        data="digits",
        model=f"{factory}:classes=10,input=1x32x32",
        members=1,
        max_drop=1.0,
        recipe=replace(RECIPES["paper"], epochs=1),
    )


def test_workers_of_another_s_scheduler_and_a_model_of_the_user_s_own(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_own.py").write_text(
        "from pdtool.compress.models import LeNet5\ndef net():\n    return LeNet5(6, 10, (1, 32, 32))\n"
    )
    monkeypatch.chdir(tmp_path)
    request = own_model("our_own:net", trained, tmp_path)
    options = {"threads_per_worker": 2, "processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=1, **options) as theirs, cluster(theirs.scheduler_address) as make:
        assert theirs.scheduler_address.startswith("tcp://127.0.0.1:")
        pool = make_pool(request, tmp_path / "P", make=make)
    assert pool.members[0].used and pool.model == request.model


def test_a_member_that_diverges_on_a_worker_is_recorded_and_not_used(
    two: Make, request_of: PoolRequest, tmp_path: Path
) -> None:
    wild = replace(request_of, recipe=replace(request_of.recipe, lr=1e9))
    with pytest.raises(GateError, match="none of 2 members can be used; m000: training diverged"):
        make_pool(wild, tmp_path / "P", make=two)


@pytest.mark.parametrize(
    "spec", ["local", "local:0", "local:-1", "local:two", "127.0.0.1:8786", "tcp://nowhere", "tls://h:1", ""]
)
def test_another_spec_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError, match=r"expected local:N, such as local:2, or tcp://HOST:PORT"), cluster(spec):
        raise AssertionError("no cluster was named")


def test_no_scheduler_is_an_input_error(
    monkeypatch: pytest.MonkeyPatch, request_of: PoolRequest, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_WAIT_SCHEDULER", 1)
    with pytest.raises(InputError, match="no scheduler answers .*dask scheduler"), cluster("tcp://127.0.0.1:9") as make:
        make_pool(request_of, tmp_path / "P", make=make)


@pytest.mark.slow
def test_a_scheduler_that_dies_ends_the_run_and_keeps_what_is_finished(request_of: PoolRequest, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    at = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    commands = [
        ["scheduler", *at, "--port", address.rpartition(":")[2]],
        ["worker", address, "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path), *at[2:]],
    ]
    started = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], stderr=subprocess.DEVNULL) for command in commands
    ]

    def kill(text: str) -> None:
        if text.startswith("m000"):
            started[0].kill()

    request = replace(request_of, members=3, recipe=replace(request_of.recipe, epochs=8))
    try:
        with pytest.raises(InputError, match="scheduler went away; finished members"), cluster(address) as make:
            make_pool(request, tmp_path / "P", make=make, watch=Lines(kill))
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert (tmp_path / "P" / "members" / "m000.record.json").exists()


@pytest.mark.slow
def test_a_member_that_kills_every_worker_ends_the_run(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os\n"
        "from pdtool.compress.models import LeNet5\n"
        "class Net(LeNet5):\n"
        "    def forward(self, x):\n"
        "        if self.training: os._exit(9)\n"
        "        return super().forward(x)\n"
        "def net():\n    return Net(6, 10, (1, 32, 32))\n"
    )
    monkeypatch.chdir(tmp_path)
    request = own_model("deadly:net", trained, tmp_path)
    died = "every worker that made it died|was without workers 3 times"
    with pytest.raises(InputError, match=died), cluster("local:1") as make:
        make_pool(request, tmp_path / "P", make=make)
    assert not (tmp_path / "P" / "pool.json").exists()


LOCAL = ("--cluster", "local:2")


@pytest.mark.parametrize(
    ("after", "more"),
    [("m000", ()), ("original", LOCAL), pytest.param("m000", LOCAL, marks=pytest.mark.slow)],
)
def test_ctrl_c_ends_everything_with_one_line(
    after: str, more: tuple[str, ...], request_of: PoolRequest, tmp_path: Path
) -> None:
    """As a terminal does it: the signal goes to every process of the group."""
    command = [sys.executable, "-m", "pdtool", "compress", "--weights", str(request_of.weights), "--data", "digits"]
    command += ["--out", str(tmp_path / "P"), "--members", "40", "--max-drop", "1", "--recipe", "paper", *more]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, bufsize=1) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(after):
                os.killpg(process.pid, signal.SIGINT)
                break
        lines += process.stderr.readlines()
    assert process.returncode == 130
    said = [line for line in lines if not line.startswith(("original", "m0"))]
    assert said == ["pdtool: stopped\n"]
    deadline = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


def test_workers_with_another_version_are_refused(request_of: PoolRequest) -> None:
    shipment = pack("random-channel", prepare(request_of).task, 1)
    with pytest.raises(MissingError, match=r"a worker has pdtool .*, expected pdtool 0.0.1; install the same on every"):
        work(replace(shipment, version="pdtool 0.0.1"), Job("m000", 1, "k"))


def test_each_worker_has_its_own_gpu() -> None:
    assert [device_of_worker(name, 2) for name in (0, 1, 2)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of_worker("tcp://10.0.0.7:39201", 4) == "cuda:0"  # it sees its own first
    with pytest.raises(MissingError, match="no GPU that torch can use"):
        device_of_worker(0, 0)
