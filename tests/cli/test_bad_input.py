"""What users get wrong: one clear line, the right exit code, nothing half-written. Through the real command."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pdtool(*arguments, cwd=None):
    command = [sys.executable, "-m", "pdtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def fails(code, says, *arguments, cwd=None):
    done = pdtool(*arguments, cwd=cwd)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("pdtool: ")]
    assert len(errors) == 1, done.stderr
    assert says in errors[0]
    assert "Traceback" not in done.stderr
    return done


def picture(path: Path, seed: int, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_wrong_paths(workshop, tmp_path):
    weights = workshop / "weights.safetensors"
    fails(
        3, "does not exist", "train", "--model", "lenet5", "--data", "no/such", "--out", "w.safetensors", cwd=tmp_path
    )
    fails(3, "no/such", "compress", "--weights", "no/such.safetensors", "--data", "digits", "--out", "p", cwd=tmp_path)
    fails(3, "pool.json", "export", tmp_path, "--out", "b", cwd=tmp_path)
    fails(3, "no bundle.json", "calibrate", tmp_path, "--data", "digits", cwd=tmp_path)
    fails(3, "no such file", "screen", workshop / "bundle", "--source", "no/such.mp4", cwd=tmp_path)
    fails(3, "exists already", "train", "--model", "lenet5", "--data", "digits", "--out", weights, cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_unusable_folders_of_images(workshop, tmp_path):
    (tmp_path / "empty").mkdir()
    for i in range(30):
        picture(tmp_path / "single" / "cat" / f"{i}.png", i)
    train = ("train", "--model", "resnet18:width=4", "--epochs", "1", "--out", tmp_path / "w.safetensors", "--data")
    fails(3, "no images", *train, tmp_path / "empty")
    fails(3, "at least two classes", *train, tmp_path / "single")
    fails(3, "no images", "calibrate", workshop / "bundle", "--data", tmp_path / "empty")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_truncated_picture_is_skipped_counted_and_named(tmp_path):
    for name in ("cat", "dog"):
        for i in range(12):
            picture(tmp_path / "data" / name / f"{i:02d}.png", i)
    broken = tmp_path / "data" / "dog" / "05.png"
    broken.write_bytes(broken.read_bytes()[:100])
    done = pdtool(
        *("train", "--model", "resnet18:width=4", "--epochs", "1", "--data", tmp_path / "data"),
        *("--out", tmp_path / "w.safetensors", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert "skipped 1 unreadable pictures of 24: dog/05.png" in done.stderr
    assert json.loads(done.stdout)["classes"] == 2


def test_pictures_of_any_size_and_colour_are_screened(workshop, tmp_path):
    from pdtool.data import load_data

    digit = load_data("digits", (1, 32, 32), role="test", limit=1).images[0, :, :, 0]
    grey = Image.fromarray(digit)
    grey.save(tmp_path / "0.png")
    grey.convert("RGB").resize((96, 96), Image.Resampling.NEAREST).save(tmp_path / "1.png")
    grey.convert("RGBA").save(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    done = pdtool("screen", workshop / "bundle", "--source", tmp_path, "--json", "--seed", 0)
    assert done.returncode == 0, done.stderr
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [v["verdict"] == "unscreened" for v in verdicts] == [False, False, False, True]
    assert len({v["label"] for v in verdicts[:3]}) == 1
    assert verdicts[3]["reason"]


def test_weights_that_do_not_fit_and_weights_with_code(workshop, tmp_path):
    weights = workshop / "weights.safetensors"
    fails(
        3,
        "fit",
        "compress",
        "--weights",
        weights,
        "--model",
        "lenet5:width=12",
        "--data",
        "digits",
        "--out",
        "p",
        cwd=tmp_path,
    )
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Bomb()))
    fails(
        3,
        "safetensors",
        "compress",
        "--weights",
        "bad.pt",
        "--model",
        "lenet5",
        "--data",
        "digits",
        "--out",
        "p",
        cwd=tmp_path,
    )
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:1000])
    fails(
        3, "cut.safetensors", "compress", "--weights", "cut.safetensors", "--data", "digits", "--out", "p", cwd=tmp_path
    )
    assert not (tmp_path / "p" / "pool.json").exists()


def test_a_changed_bundle(bundle):
    model = bundle / "models" / "m000.onnx"
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for command in (
        ("screen", bundle, "--source", "test:pattern"),
        ("calibrate", bundle, "--data", "digits"),
        ("profile", bundle),
        ("bundle", "verify", bundle),
    ):
        fails(7, "SHA-256", *command)
    model.unlink()
    fails(7, "m000.onnx", "screen", bundle, "--source", "test:pattern")
    model.write_bytes(good)
    assert pdtool("bundle", "verify", bundle).returncode == 0


def test_the_calibration_of_another_bundle(bundle):
    """Both files as some bundle's `calibrate` wrote them, the models of this one exchanged."""
    import dataclasses

    from pdtool.runtime.bundle import open_bundle, write_bundle

    opened = open_bundle(bundle)
    write_bundle(bundle, dataclasses.replace(opened.bundle, members=opened.bundle.members[::-1]))
    fails(7, "measured on other model files", "screen", bundle, "--source", "test:pattern")


def test_calibration_on_the_training_data_or_an_unreachable_target(workshop, bundle):
    before = (bundle / "bundle.json").read_bytes()
    fails(3, "the pool was made on", "calibrate", bundle, "--data", "digits#train#1/2")
    fails(5, "would show it", "calibrate", bundle, "--data", "digits", "--target-fpr", "0.0001", "--evidence", "label")
    fails(3, "at least 20", "calibrate", bundle, "--data", "digits", "--limit", "10")
    assert (bundle / "bundle.json").read_bytes() == before


def test_budgets_sources_and_options(workshop):
    screen = ("screen", workshop / "bundle", "--source", "test:pattern?frames=3")
    fails(5, "too small", *screen, "--memory-budget", "1KiB")
    fails(2, "memory budget", *screen, "--memory-budget", "12 potatoes")
    fails(2, "rotate:N", *screen, "--order", "rotate:0")
    fails(3, "not calibrated", "screen", workshop / "plain", "--source", "test:pattern")
    fails(2, "unknown kind of source", "screen", workshop / "bundle", "--source", "gopher://x")
    fails(4, "no such camera", "screen", workshop / "bundle", "--source", "/dev/video97")
    assert pdtool("screen").returncode == 2
    assert pdtool("no-such-command").returncode == 2


def test_fail_on_flagged_and_what_goes_where(workshop, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=noise)
    screen = ("screen", workshop / "bundle", "--source", tmp_path / "noise.npz", "--json")
    done = pdtool(*screen, "--fail-on-flagged")
    assert done.returncode == 10
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 20
    assert "20 frames" in done.stderr
    assert pdtool(*screen, "--quiet").stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_an_export_leaves_no_bundle(workshop, tmp_path, number):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pdtool", "export", str(workshop / "pool"), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path)
    while not list(tmp_path.glob(".out.*.tmp")):  # it has begun to write
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert not out.exists()
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert b"Traceback" not in errors
        assert os.listdir(tmp_path) == []


def test_a_reader_that_goes_away_is_no_error(workshop):
    command = (
        f"{sys.executable} -m pdtool screen {workshop / 'bundle'} --source 'test:pattern?frames=5000' --json | head -1"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["frame"] == 0
    assert "Traceback" not in done.stderr


def test_a_hostile_archive(workshop, tmp_path):
    import tarfile

    here = tmp_path / "one" / "two"
    here.mkdir(parents=True)
    picture(tmp_path / "0.png", 0)
    with tarfile.open(here / "a.tar.gz", "w:gz") as tar:
        for name in ("cat/0.png", "../outside/cat/0.png"):
            tar.add(tmp_path / "0.png", name)
    bundle = {path: path.read_bytes() for path in (workshop / "bundle").rglob("*.json")}
    before = sorted(tmp_path.rglob("*"))
    says = "a.tar.gz: holds the name '../outside/cat/0.png', which leads outside"
    fails(3, says, "calibrate", workshop / "bundle", "--data", "a.tar.gz", cwd=here)
    assert sorted(tmp_path.rglob("*")) == before
    assert {path: path.read_bytes() for path in (workshop / "bundle").rglob("*.json")} == bundle


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_line(workshop, unbuffered):
    screen = ("screen", workshop / "bundle", "--source", "test:pattern?frames=3", "--quiet")
    for arguments in (("--version",), ("--help",), ("devices", "list"), screen, (*screen, "--json", "--dry-run")):
        command = [sys.executable, "-m", "pdtool", *map(str, arguments)]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )
        assert done.returncode == 3, (arguments, done.stderr)
        assert done.stderr.count("\n") == 1 and "stdout cannot be written (No space left" in done.stderr, arguments


def test_stopping_while_it_starts_is_no_traceback():
    code = (
        "import os, runpy, signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "runpy.run_module('pdtool', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "pdtool: stopped\n")
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '\npdtool = "pdtool.__main__:main"\n' in project  # the installed command starts there, too


def test_unusable_data_to_set_the_ranges_of_int8(workshop, tmp_path):
    export = ("export", workshop / "pool", "--out", tmp_path / "out", "--precision")
    (tmp_path / "empty").mkdir()
    fails(3, "no images", *export, "int8", "--calibration-data", tmp_path / "empty")
    fails(3, "does not exist", *export, "fp16", "--calibration-data", "no/such")
    assert pdtool(*export, "int4").returncode == 2
    assert os.listdir(tmp_path) == ["empty"]


def test_trying_an_export(workshop, tmp_path):
    export = ("export", workshop / "pool", "--out", tmp_path / "out", "--dry-run")
    done = pdtool(*export, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["out"] == str(tmp_path / "out") and said["measured_batch"] == 32
    assert said["members"] == [f"m{i:03}" for i in range(8)]
    assert os.listdir(tmp_path) == []
    (tmp_path / "out").mkdir()
    done = fails(3, "exists already", *export, "--json")
    assert done.stdout == "" and "would export" not in done.stderr
    assert os.listdir(tmp_path / "out") == []


def test_a_live_source_that_falls_silent(workshop):
    """A camera that sends two frames and then nothing: both have verdicts, and the exit code says why it ended."""
    source = ("--source", "-?width=32&height=32&channels=1", "--read-timeout", "1")
    command = [sys.executable, "-m", "pdtool", "screen", str(workshop / "bundle"), *source, "--json", "--seed", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(bytes(2 * 32 * 32))
        process.stdin.flush()
        out, errors = process.stdout.read().decode(), process.stderr.read().decode()
        process.stdin.close()
    assert process.returncode == 6
    assert [json.loads(line)["frame"] for line in out.splitlines()] == [0, 1]
    last = [line for line in errors.splitlines() if line.startswith("pdtool: ")]
    assert len(last) == 1 and "no data for 1 s" in last[0] and "Traceback" not in errors


def test_help_comes_at_once():
    """Against what typer alone takes, so that a slow machine does not matter."""

    def seconds(*command):
        times = []
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started)
        return min(times)

    alone = seconds("-c", "import typer, rich.table, typer.rich_utils")
    assert seconds("-m", "pdtool", "--help") < 3 * alone
    code = (
        "import sys\nfrom pdtool.cli.main import app\napp(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'scipy', 'sklearn', 'PIL', 'av', 'foolbox', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_a_promise_that_is_not_kept_is_said_wherever_it_matters(bundle):
    done = pdtool("calibrate", bundle, "--data", "digits", "--target-fpr", "0.001", "--accept-miss")
    assert done.returncode == 0 and "NOT KEPT" in done.stdout
    assert "NOT KEPT" in pdtool("bundle", "inspect", bundle).stdout
    assert "NOT KEPT" in pdtool("screen", bundle, "--source", "test:pattern?frames=1").stderr


def test_unscreened_frames_do_not_pass_a_gate(workshop, tmp_path):
    np.savez(tmp_path / "nan.npz", images=np.full((2, 32, 32, 1), np.nan, dtype=np.float32))
    screen = ("screen", workshop / "bundle", "--source")
    assert pdtool(*screen, tmp_path / "nan.npz", "--fail-on-flagged").returncode == 10
    fails(3, "gave no frames", *screen, "test:pattern?frames=0")
    fails(2, "is empty", *screen, "")
    fails(2, "at most", *screen, "test:pattern?width=100000&height=100000")


def test_profile_does_not_overwrite(bundle, tmp_path):
    (tmp_path / "report.json").write_text("mine")
    fails(3, "--force", "profile", bundle, "--out", tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text() == "mine"


def test_nothing_is_left_in_the_home_folder(workshop, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pdtool", "screen", str(workshop / "bundle"), "--source", "test:pattern?frames=1"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "m0: the GPU has no room for the engine (out of\nmemory)",
            "m0: the GPU has no room for the engine (out of memory)",
        ),
        ("", "not enough memory; close other programs or take smaller batches"),
    ],
)
def test_want_of_memory_is_one_line(workshop, said, line):
    program = (
        "import sys\nfrom pdtool.cli import main\nfrom pdtool.runtime import calibrate\n"
        f"def full(*a, **k):\n    raise MemoryError({said!r})\n"
        "calibrate.open_provider = full\n"
        f"sys.argv = ['pdtool', 'calibrate', {str(workshop / 'bundle')!r}, '--data', 'digits']\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (5, f"pdtool: {line}")
    assert "Traceback" not in done.stderr
