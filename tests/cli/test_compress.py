import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from pdtool.cli import output
from pdtool.cli.compress import compress
from pdtool.compress.original import train_original
from pdtool.compress.pool import open_pool
from pdtool.compress.training import RECIPES
from pdtool.errors import GateError, InputError, UsageError

app = typer.Typer()
app.command()(compress)


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "quiet", False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights") / "w.safetensors"
    train_original("lenet5", "digits", out, recipe=replace(RECIPES["train"], epochs=4))
    return out


def run(weights: Path, out: Path, *arguments: str) -> Result:
    call = ["--weights", str(weights), "--data", "digits", "--members", "2", "--epochs", "1", "--max-drop", "1"]
    return CliRunner().invoke(app, [*call, "--out", str(out), *arguments])


def test_a_pool_is_made_with_a_line_a_member_and_a_table(weights: Path, tmp_path: Path) -> None:
    result = run(weights, tmp_path / "POOL")
    assert result.exit_code == 0, result.output
    assert [member.id for member in open_pool(tmp_path / "POOL").pool.members] == ["m000", "m001"]
    lines = result.stderr.splitlines()
    assert lines[0].startswith("original: accuracy 0.")
    assert lines[1].startswith("crafted ") and lines[2].startswith("parent: accuracy 0.")
    assert lines[3].startswith("m000: accuracy 0.") and "50 % of channels removed, in" in lines[3]
    assert [member.kind for member in open_pool(tmp_path / "POOL").pool.members] == ["hardened", "robust"]
    assert f"next: pdtool export {tmp_path / 'POOL'}" in lines[-1]
    assert "random-channel, accuracy on" in result.stdout and "m001" in result.stdout
    again = run(weights, tmp_path / "POOL")
    assert again.exit_code == 0 and "m001" in again.stderr and "kept from an earlier run" in again.stderr


def test_json_is_pool_json(weights: Path, tmp_path: Path) -> None:
    arguments = ("--json", "--quiet", "--method", "l1-norm", "--rate", "0.25", "--seed", "5", "--members", "1")
    result = run(weights, tmp_path / "POOL", *arguments)
    assert json.loads(result.stdout) == json.loads((tmp_path / "POOL" / "pool.json").read_text())
    pool = open_pool(tmp_path / "POOL").pool
    assert (pool.method, pool.rate, pool.seed, pool.recipe["epochs"]) == ("l1-norm", 0.25, 5, 1)
    assert result.stderr == ""


def test_zeros_are_told_from_what_an_engine_runs(weights: Path, tmp_path: Path) -> None:
    result = run(weights, tmp_path / "POOL", "--method", "lottery-ticket", "--pattern", "2:4", "--search-epochs", "1")
    assert result.exit_code == 0, result.output
    notes = result.stderr.splitlines()
    assert "engines without sparse tensor cores run members as dense as the original" in notes[0]
    assert "without the pattern, are zeroed in conv1, conv2" in notes[0]
    assert "0.42 M MACs (0.21 M without zeros)" in notes[2] and "50 % of weights zero, in" in notes[2]
    row = next(line for line in result.stdout.splitlines() if "m001" in line)
    assert [cell.strip() for cell in row.split("│")][3:5] == ["0.42", "0.21"] and "50.0 %" in row


def test_one_hardened_model_needs_no_number_of_members(weights: Path, tmp_path: Path) -> None:
    call = ["--weights", str(weights), "--data", "digits", "--epochs", "1", "--max-drop", "1", "--rounds", "2"]
    call += ["--method", "prune-and-scale", "--tau", "3", "--out", str(tmp_path / "POOL")]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    pool = open_pool(tmp_path / "POOL").pool
    assert len(pool.members) == 1 and pool.options == {"rounds": 2, "search_epochs": 1, "tau": 3.0}


def test_the_hardened_recipe_and_its_settings_reach_the_pool(weights: Path, tmp_path: Path) -> None:
    settings = ("--recipe", "hardened", "--hardening", "crafted=0.2,epsilon=1/10", "--hardening", "steps=2")
    result = run(weights, tmp_path / "POOL", *settings)
    assert result.exit_code == 0, result.output
    line = result.stderr.splitlines()[1]
    assert line.startswith("crafted 178 images, ") and "of them attacks on the original, in " in line
    recipe = open_pool(tmp_path / "POOL").pool.recipe
    hardening = recipe["hardening"]
    assert isinstance(hardening, dict) and recipe["name"] == "hardened" and recipe["epochs"] == 1
    assert (hardening["crafted"], hardening["epsilon"], hardening["steps"]) == (0.2, 0.1, 2)
    again = run(weights, tmp_path / "POOL", *settings)
    assert "kept from an earlier run" in again.stderr and "crafted" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "paper", "--hardening", "steps=2"), "--hardening goes with --recipe hardened, not with paper"),
        (("--recipe", "hardened", "--hardening", "step=2"), "hardening has no setting 'step'; it takes share"),
        (("--method", "mutation-gf", "--hardening", "steps=2"), "does not go with --method mutation-gf"),
        (("--recipe", "hard"), "unknown recipe 'hard'; expected one of"),
    ],
)
def test_hardening_that_makes_no_sense_is_refused(
    weights: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run(weights, tmp_path / "POOL", *arguments)
    assert isinstance(result.exception, UsageError) and message in str(result.exception)
    assert not (tmp_path / "POOL").exists()


def test_mutants_say_what_was_changed(weights: Path, tmp_path: Path) -> None:
    call = ["--weights", str(weights), "--data", "digits", "--members", "1", "--max-drop", "1", "--rate", "0.03"]
    result = CliRunner().invoke(app, [*call, "--method", "mutation-ws", "--out", str(tmp_path / "POOL")])
    assert result.exit_code == 0, result.output
    assert "7 neurons mutated, draw " in result.stderr
    dry = CliRunner().invoke(app, [*call, "--method", "mutation-ws", "--out", str(tmp_path / "DRY"), "--dry-run"])
    assert "mutants are as large and as slow as the original" in dry.stderr and not (tmp_path / "DRY").exists()


def test_group_rates_and_ignored_layers_reach_the_pool(weights: Path, tmp_path: Path) -> None:
    groups = ("--group-rate", "120=0.75", "--group-rate", "16=0.25", "--ignore", "conv1")
    assert run(weights, tmp_path / "POOL", *groups).exit_code == 0
    pool = open_pool(tmp_path / "POOL").pool
    assert pool.group_rates == {"16": 0.25, "120": 0.75}
    assert pool.members[0].layer_rates == {"conv2": 0.25, "fc1": 0.75, "fc2": 0.5}


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(weights: Path, tmp_path: Path) -> None:
    result = run(weights, tmp_path / "POOL", "--dry-run")
    assert "would be made" in result.stdout and "4 units; left whole: fc3" in result.stdout
    assert "of 54 steps took just now" in result.stdout and "at fp16 (weights alone)" in result.stdout
    document = json.loads(run(weights, tmp_path / "POOL", "--dry-run", "--json", "--device", "orin-nano-8gb").stdout)
    assert document["members"] == 2 and document["member_bytes"]["mean"] > 50_000
    assert document["board"]["fp32"]["fits"] is True and document["board"]["id"] == "jetson-orin-nano-8gb"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_whether_the_pool_fits_a_board(weights: Path, tmp_path: Path) -> None:
    arguments = ("--dry-run", "--device", "jetson-nano", "--max-drop", "0.1")
    fits = run(weights, tmp_path / "POOL", *arguments)
    assert fits.exit_code == 0 and "Jetson Nano 4GB" in fits.stdout and "of 4 GB at fp32" in fits.stdout
    many = run(weights, tmp_path / "POOL", *arguments, "--members", "100000")
    assert "DOES NOT FIT" in many.stdout
    with pytest.raises(
        GateError, match=r"take 6\.\d GB at fp32, Jetson Nano 4GB has 4 GB: screen with --memory-budget"
    ):
        raise many.exception or AssertionError("no error")


def test_a_report_is_written_also_for_a_pool_that_is_complete(weights: Path, tmp_path: Path) -> None:
    run(weights, tmp_path / "POOL", "--json")
    page = tmp_path / "pool.html"
    result = run(weights, tmp_path / "POOL", "--report", str(page), "--device", "jetson-nano")
    assert result.exit_code == 0 and "kept from an earlier run" in result.stderr and f"report: {page}" in result.stderr
    text = page.read_text()
    assert "Pool POOL: random-channel" in text and "deepfool" in text and "Jetson Nano 4GB, 4 GB: the weights" in text
    page.unlink()
    assert run(weights, tmp_path / "NEXT", "--report", str(page), "--dry-run").exit_code == 0
    assert not page.exists() and not (tmp_path / "NEXT").exists()


def test_members_that_are_not_used_are_marked_and_the_used_ones_summed_up(weights: Path, tmp_path: Path) -> None:
    pool = tmp_path / "POOL"
    made = ("--members", "4", "--method", "l1-norm", "--recipe", "paper")
    run(weights, pool, *made)
    accuracies = sorted(member.model.accuracy for member in open_pool(pool).pool.members)
    assert accuracies[0] < accuracies[1]
    result = run(weights, pool, *made, "--min-accuracy", str(accuracies[1]))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert [row[-1] for row in rows].count("not used") == 1
    last = {row[0]: row[1] for row in rows[-3:]}
    assert list(last) == ["mean of 3 used", "least", "most"]
    assert last["least"] == f"{100 * accuracies[1]:.1f} %" and last["most"] == f"{100 * accuracies[3]:.1f} %"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("--method", "magic"), UsageError, "unknown method 'magic'"),
        (("--method", "mutation-nai"), UsageError, "--epochs does not go with --method mutation-nai; it is for random"),
        (("--method", "subnetwork"), UsageError, "--epochs does not go with --method subnetwork"),
        (("--pattern", "2:4"), UsageError, "--pattern does not go with --method random-channel; it is for lottery-t"),
        (("--preset", "chen-2021", "--rate", "0.5"), UsageError, "--preset chen-2021 sets all rates"),
        (("--device", "orin-nano-8gb"), UsageError, "--device names a board .* where to train: --train-on"),
        (("--device", "toaster", "--dry-run"), UsageError, "device 'toaster' is not in the catalogue"),
        (("--train-on", "tpu"), UsageError, "where torch computes should be auto, cpu or cuda, is 'tpu'"),
        (("--report", "pool.txt"), UsageError, "--report pool.txt: expected a name that ends in .html"),
        (("--report", "absent/pool.html"), InputError, "the folder absent does not exist"),
        (("--recipe", "magic"), UsageError, "unknown recipe 'magic'; expected one of"),
        (("--rate", "1.5"), UsageError, r"share of channels to remove in \[0, 1\), is 1.5"),
        (("--group-rate", "64"), UsageError, "should be CHANNELS=RATE, such as 64=0.5, is '64'"),
        (("--group-rate", "64=0.5", "--group-rate", "64=0.6"), UsageError, "64 is given twice"),
        (("--group-rate", "64=0.5"), UsageError, "no prunable layer has 64 channels; .*6, 16, 84, 120"),
        (("--model", "resnet19"), UsageError, "unknown model 'resnet19'"),
        (("--model", "vgg16"), InputError, "is not for the input of vgg16"),
        (("--weights", "absent.safetensors"), InputError, "absent.safetensors: cannot be read"),
        (("--data", "absent"), InputError, "absent"),
    ],
)
def test_mistakes_are_named(
    weights: Path, tmp_path: Path, arguments: tuple[str, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        raise run(weights, tmp_path / "POOL", *arguments).exception or AssertionError("no error")
    assert not (tmp_path / "POOL").exists()
