"""Shared by all tests: one thread a process (pytest runs one process a core), the real data, and a small real pool."""

import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PDTOOL_FLOAT32"] = (
    "1"  # nets are trained alike on every kind of CPU: what is expected of them was settled so
)
# A shell that runs this in the background has it, and all that it starts, ignore Ctrl-C: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]

SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real image sets; tests that need it are skipped, visibly, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real image sets are not at ../shared/data")
    return SHARED


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained digit classifier, its pool of 8 members and a calibrated bundle; made once a test run.

    `weights.safetensors`, `pool/`, `bundle/` (calibrated), `plain/` (not calibrated). Read only: copy to change.
    """
    from pdtool.calibration.rules import Settings
    from pdtool.cli.main import app
    from pdtool.data import load_data
    from pdtool.export.bundle import export_pool
    from pdtool.runtime.calibrate import calibrate_bundle

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "workshop"
    with (shared / "workshop.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of one test run share it
        if (folder / "done").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        weights, pool = str(folder / "weights.safetensors"), str(folder / "pool")
        made = ("--weights", weights, "--data", "digits", "--members", "8")
        for command in (
            ["train", "--model", "lenet5", "--data", "digits", "--out", weights, "--quiet"],
            ["compress", "--recipe", "paper", *made, "--out", pool, "--quiet"],
        ):
            app(command, standalone_mode=False)
        export_pool(folder / "pool", folder / "plain")
        shutil.copytree(folder / "plain", folder / "bundle")
        calibrate_bundle(
            folder / "bundle",
            lambda size: load_data("digits", size, role="calibrate"),
            Settings(),
            target_fpr=0.15,
            confidence=0.95,
            seed=0,
        )
        (folder / "done").touch()
    return folder


@pytest.fixture
def bundle(workshop: Path, tmp_path: Path) -> Path:
    """A calibrated bundle of one's own, to change or break."""
    return Path(shutil.copytree(workshop / "bundle", tmp_path / "bundle"))
