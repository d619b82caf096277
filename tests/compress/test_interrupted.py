"""A run that is stopped, killed, out of disk or left with a failing member loses nothing that was finished."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from pdtool.compress.contract import Method, Task
from pdtool.compress.member import member_seed
from pdtool.compress.methods import METHODS
from pdtool.compress.pool import PoolRequest, make_pool, open_pool
from pdtool.errors import InputError
from pdtool.jsonform import JsonValue


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Heard:
    """A watch that keeps the lines said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def advance(self, steps: int = 1) -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def __call__(self, label: str, total: int | None) -> Iterator["Heard"]:
        yield self


@contextmanager
def stopping(label: str, total: int | None) -> Iterator[object]:
    class Stop:
        steps = 0

        def advance(self, steps: int = 1) -> None:
            self.steps += steps
            if self.steps > total_steps * 3 // 4:
                raise KeyboardInterrupt

        def say(self, text: str) -> None:
            pass

    assert total is not None
    total_steps = total
    yield Stop()


def test_ctrl_c_keeps_finished_members_and_the_next_run_goes_on(
    pool_of: Path, request_of: PoolRequest, tmp_path: Path
) -> None:
    out = tmp_path / "POOL"
    with pytest.raises(KeyboardInterrupt):
        make_pool(request_of, out, watch=stopping)  # type: ignore[arg-type]
    assert (out / "members" / "m000.record.json").exists() and not (out / "members" / "m001.record.json").exists()
    assert not (out / "pool.json").exists()
    with pytest.raises(InputError, match="has no pool.json, is not finished; run the same compress again to go on"):
        open_pool(out)
    stamp = (out / "members" / "m000.safetensors").stat().st_mtime_ns
    make_pool(request_of, out)
    assert (out / "members" / "m000.safetensors").stat().st_mtime_ns == stamp
    assert files_of(out) == files_of(pool_of)


def test_a_killed_process_leaves_a_folder_that_goes_on(pool_of: Path, request_of: PoolRequest, tmp_path: Path) -> None:
    out = tmp_path / "POOL"
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path;"
        "from pdtool.compress.pool import *; from pdtool.compress.training import RECIPES;"
        "make_pool(PoolRequest(weights=Path(sys.argv[1]), data='digits', members=2, max_drop=0.5,"
        "recipe=replace(RECIPES['paper'], epochs=2)), Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(request_of.weights), str(out)])
    deadline = time.monotonic() + 60
    while not (out / "members" / "m000.record.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "pool.json").exists()
    make_pool(request_of, out)
    assert files_of(out) == files_of(pool_of)


def test_the_old_pool_stays_until_the_new_one_is_complete(
    pool_of: Path, request_of: PoolRequest, tmp_path: Path
) -> None:
    before, other = files_of(pool_of), replace(request_of, rate=0.25, max_drop=1.0)
    with pytest.raises(KeyboardInterrupt):
        make_pool(other, pool_of, force=True, watch=stopping)  # type: ignore[arg-type]
    assert files_of(pool_of) == before
    assert open_pool(pool_of).member("m001") is not None
    with pytest.raises(InputError, match="holds another pool"):
        make_pool(other, pool_of)
    fresh = pool_of.parent / ".POOL.new"
    stamp = (fresh / "members" / "m000.safetensors").stat().st_mtime_ns
    assert (fresh / "members" / "m000.record.json").exists() and not (fresh / "pool.json").exists()
    make_pool(other, pool_of, force=True)  # goes on where it was stopped
    assert (pool_of / "members" / "m000.safetensors").stat().st_mtime_ns == stamp
    assert not fresh.exists()
    make_pool(other, tmp_path / "AT-ONCE")
    assert (files_of(pool_of)) == (files_of(tmp_path / "AT-ONCE"))


def test_two_processes_never_write_one_pool(pool_of: Path, request_of: PoolRequest) -> None:
    descriptor = os.open(pool_of, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another pdtool is writing this pool"):
        make_pool(request_of, pool_of)
    os.close(descriptor)
    make_pool(request_of, pool_of)


def failing(at: int, error: BaseException) -> Method:
    """random-channel, but that the member of the seed number `at` ends with an error."""
    real = METHODS["random-channel"]

    def tune(task: Task, net: nn.Module) -> dict[str, JsonValue]:
        if task.seed == member_seed(0, at):
            raise error
        return real.tune(task, net)

    return replace(real, tune=tune)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_member_that_fails_does_not_stop_the_others(
    at: int, request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, heard = replace(request_of, members=3), Heard()
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError, match="a bug"):
        patched.setitem(METHODS, "random-channel", failing(at, ZeroDivisionError("a bug")))
        make_pool(request, tmp_path / "P", watch=heard)
    assert (
        sum("FAILED (ZeroDivisionError: a bug); the same command tries it again" in line for line in heard.lines) == 1
    )
    ids = [f"m{i:03d}" for i in range(3) if i != at]
    assert [member.id for member in open_pool(tmp_path / "P").pool.members] == ids
    assert [member.id for member in make_pool(request, tmp_path / "P").members] == ["m000", "m001", "m002"]
    make_pool(request, tmp_path / "Q")
    assert files_of(tmp_path / "P") == files_of(tmp_path / "Q")


def test_a_forced_pool_with_a_failed_member_leaves_the_old_one(
    pool_of: Path, request_of: PoolRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(pool_of)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setitem(METHODS, "random-channel", failing(1, ZeroDivisionError("a bug")))
        make_pool(replace(request_of, rate=0.25), pool_of, force=True)
    assert files_of(pool_of) == before


def test_no_member_at_all_is_the_first_error_and_no_pool(
    request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "random-channel", failing(0, ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        make_pool(replace(request_of, members=1), tmp_path / "P")
    assert not (tmp_path / "P" / "pool.json").exists()


def test_a_full_disk_stops_at_once_and_keeps_what_is_finished(
    request_of: PoolRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = os.fsync, list[str]()

    def full(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if "m001.safetensors" in name:
            tried.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    request = replace(request_of, members=3)
    with monkeypatch.context() as patched, pytest.raises(InputError, match="the disk is full; free space"):
        patched.setattr("pdtool.files.os.fsync", full)
        make_pool(request, tmp_path / "P")
    assert len(tried) == 1
    assert sorted(path.name for path in (tmp_path / "P" / "members").iterdir()) == [
        "m000.json", "m000.record.json", "m000.safetensors",
    ]  # fmt: skip
    make_pool(request, tmp_path / "P")
    make_pool(request, tmp_path / "Q")
    assert files_of(tmp_path / "P") == files_of(tmp_path / "Q")
