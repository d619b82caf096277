import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from pdtool.cli import output
from pdtool.cli.train import train
from pdtool.errors import InputError, UsageError

app = typer.Typer()
app.command()(train)


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "quiet", False)


def run(out: Path, *arguments: str) -> Result:
    call = ["--model", "lenet5", "--data", "digits", "--epochs", "1", "--out", str(out), *arguments]
    return CliRunner().invoke(app, call)


def test_weights_are_written_and_the_next_step_named(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    result = run(out)
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 200_000
    assert "accuracy" in result.stdout and "held back from --data" in result.stdout
    assert f"next: pdtool compress --weights {out}" in result.stderr


def test_json_is_one_document_on_stdout(tmp_path: Path) -> None:
    result = run(tmp_path / "w.safetensors", "--json", "--quiet", "--test", "digits#test", "--seed", "3")
    document = json.loads(result.stdout)
    assert document["model"] == "lenet5:width=6,classes=10,input=1x32x32"
    assert document["accuracy_on"] == "digits#test" and 0 < document["accuracy"] <= 1
    assert result.stderr == ""


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, seed in zip(paths, "778", strict=True):
        assert run(path, "--seed", seed, "--quiet").exit_code == 0
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "w.safetensors", "--dry-run")
    assert "would train lenet5:width=6,classes=10,input=1x32x32 on" in result.stderr
    assert not list(tmp_path.iterdir())


def test_existing_weights_are_kept_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already"):
        raise run(out).exception or AssertionError("no error")
    assert out.read_bytes() == b"mine"
    assert run(out, "--force").exit_code == 0 and out.read_bytes() != b"mine"


@pytest.mark.parametrize("value", ["", "a", "0.5,", "nan", "0.5 0.5"])
def test_mean_must_be_numbers(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="--mean should be numbers with commas"):
        raise run(tmp_path / "w.safetensors", "--mean", value).exception or AssertionError("no error")
