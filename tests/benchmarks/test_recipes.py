"""The recipe table: its rows are recipes that `compress` takes, its costs are counted rightly, its page reads a run."""

import importlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pdtool.cli.main import app
from pdtool.compress.folder import open_pool
from pdtool.compress.hardening import HARDENINGS, Hardening, parse_hardening
from pdtool.compress.training import RECIPES
from pdtool.errors import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks" / "recipes"
SCRIPTS = [path.stem for folder in (FOLDER, FOLDER.parent / "papers") for path in folder.glob("*.py")]


@pytest.fixture(scope="module")
def script():
    """Imports a script of the folder by its name; they import each other by name, as scripts do."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path[:] = before
    for name in SCRIPTS:
        sys.modules.pop(name, None)


OFF = Hardening()


def test_every_row_is_a_recipe(script):
    rows = script("rows")
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS) and set(rows.ADAPTIVE) <= {r.name for r in rows.ROWS}
    for row in rows.ROWS:
        options = dict(zip(row.options[::2], row.options[1::2], strict=True))
        assert options["--recipe"] in RECIPES
        one, other = (parse_hardening([options.get("--hardening", "")], base) for base in (HARDENINGS["hardened"], OFF))
        assert one == other or "--hardening" not in options  # whatever the defaults
        kinds = {one.kind(index) for index in range(row.members)}
        wanted = (
            {"hardened", "robust"}
            if row.name.startswith("mixed")
            else {"robust" if "robust" in row.name else "hardened"}
        )
        assert kinds == wanted or options["--recipe"] != "hardened"


def test_stages_have_names_of_their_own_and_leave_the_reported_half_alone(script, tmp_path):
    rows = script("rows")
    for data in rows.DATA:
        (tmp_path / data.needs).touch()
    stages = list(rows.stages(tmp_path, tmp_path / "out", limit=300, seed=0))
    assert len({stage.name for stage in stages}) == len({stage.out for stage in stages}) == len(stages)
    read = {part for stage in stages for part in stage.command if "cifar10-test-public" in part}
    assert {part.partition("#")[2] for part in read} == {"1/4", "2/4"}
    assert {stage.name for stage in stages if stage.name.endswith("/adaptive")} == {
        f"cifar10/{name}/adaptive" for name in rows.ADAPTIVE
    }


def test_who_has_members_is_measured_and_written_down(script, workshop, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(workshop / "pool", own)
    folder = tmp_path / "out" / "cifar10"
    out = folder / "hardened-known.json"
    with pytest.raises(InputError, match="holds members of"):
        script("known").main([*map(str, (workshop / "bundle", workshop / "pool", own)), "digits", "--out", str(out)])
    weights = str(workshop / "weights.safetensors")
    made = ("--members", "2", "--epochs", "1", "--max-drop", "1", "--seed", "9", "--recipe", "paper", "--quiet")
    compress = ["compress", "--weights", weights, "--data", "digits", *made, "--out", str(tmp_path / "two")]
    app(compress, standalone_mode=False)
    places = (workshop / "bundle", workshop / "pool", tmp_path / "two")
    script("known").main([*map(str, places), "digits", "--out", str(out), "--limit", "10"])
    rows = json.loads(out.read_text())
    assert [(row["attacker"], row["epsilon"]) for row in rows] == [
        (name, epsilon) for name in ("oblivious", "own 1", "own 2", "stolen") for epsilon in (4, 8)
    ]
    for row in rows:
        assert row["attacked"] == 10 and row["counted"] == row["mean"]  # all members are of one kind
        assert row["counted"]["tpr_5"]["count"] == row["fooled"] <= 10
        assert row["counted"]["tpr_1"]["events"] <= row["counted"]["tpr_5"]["events"]
    page = script("table")._known({"hardened": rows})
    assert "| own 2 | 4 |" in page and f"n = {rows[0]['fooled']}" in page


def test_gradients_are_as_alike_as_the_nets(script, workshop, tmp_path):
    alike = script("alike")
    rng = torch.Generator().manual_seed(0)
    weight, turned = torch.randn(2, 2, 9, generator=rng)
    turned -= (
        (turned[1] - turned[0])
        @ (weight[1] - weight[0])
        / (weight[1] - weight[0]).square().sum()
        * torch.stack([torch.zeros(9), weight[1] - weight[0]])
    )  # of two classes the difference of both rows is the gradient's direction: now at right angles
    nets = [lambda x, w=w: x.flatten(1) @ w.T for w in (weight, turned, -weight)]
    pixels, labels = torch.rand(4, 1, 3, 3, generator=rng), torch.tensor([0, 1, 0, 1])
    own, other, against = (alike.gradients(net, pixels, labels) for net in nets)
    found = [alike.cosine(own, each) for each in (own, other, against)]
    assert found == pytest.approx([1.0, 0.0, -1.0], abs=1e-6)
    out = tmp_path / "alike.json"
    alike.main([str(workshop / "pool"), "digits", "--out", str(out), "--limit", "60", "--attacked", "10"])
    told = json.loads(out.read_text())
    assert told["images"] == 60 and told["two_kinds"] is None and 0 < told["original"] < 1 and 0 < told["one_kind"] < 1
    for attack in told["attacks"]:
        assert attack["fooled"] <= 10 and attack["tpr_5"]["two_kinds"] is None and 0 <= attack["auroc"]["one_kind"] <= 1
    assert f"| `paper` | {told['original']:.2f} |" in script("table")._alike({"paper": told})


def test_costs_are_counted_in_epochs_of_the_original(script, workshop):
    pool = open_pool(workshop / "pool").pool
    costs = script("cost").costs
    ratio = sum(member.model.macs for member in pool.members) / len(pool.members) / pool.original.macs
    plain = replace(pool, recipe={"epochs": 10, "distill": 0.0})
    assert costs(plain) == pytest.approx((10 * ratio, 0))
    taught = replace(pool, recipe={"epochs": 10, "distill": 0.5})
    assert costs(taught) == pytest.approx((10 * (ratio + 1 / 3), 0))
    settings = vars(Hardening()) | {"share": 0.5, "benign": 0.2, "steps": 4, "crafted": 2.0}
    half = len(pool.members) // 2
    assert len(pool.members) == 2 * half
    robust = tuple(replace(member, kind="robust") for member in pool.members[:half])
    pool = replace(pool, members=(*robust, *(replace(member, kind="plain") for member in pool.members[half:])))
    hard = replace(pool, recipe={"epochs": 10, "distill": 0.5, "hardening": settings})
    member, once = costs(hard)
    assert member == pytest.approx(10 * (ratio + 0.6 / 3 / 2))  # half of them are plain, and are taught nothing
    assert once == pytest.approx(2 * 0.8 * 2 * 2.5 / 3)  # images, attacks of them, passes of a step, steps
    more, raised = costs(
        replace(pool, recipe={"epochs": 10, "distill": 0.5, "hardening": settings | {"robust": 0.02, "parent": 6}})
    )
    assert more - member == pytest.approx(10 * 0.5 * 5 * ratio / 3 / 2)
    assert raised - once == pytest.approx(6 * (3 + 0.6 + 0.5 * 5) / 3)


def test_the_page_has_every_row_that_was_made(script, workshop, tmp_path):
    from pdtool.evaluation.evaluate import Extras, evaluate_bundle

    folder = tmp_path / "gtsrb"
    shutil.copytree(workshop / "pool", folder / "hardened")
    evaluate_bundle(
        workshop / "bundle", folder / "hardened", "digits", ("fgsm:epsilon=0.1", "deepfool"),
        out=folder / "hardened-evaluation", extras=Extras(controls=("noise",)), limit=40,
    )  # fmt: skip
    page = "\n\n".join(script("table").write(tmp_path))
    assert "## GTSRB" in page and "CIFAR-10" not in page
    assert "| `hardened` | on attacks on the original |" in page and "deepfool" in page and "noise" in page
    assert "| attack | n | `hardened` |" in page
    _, _, after = page.partition("### Agreement that is too perfect")
    one, two, below = (float(cell) for cell in re.findall(r"\| ([\d.]+) ", after.splitlines()[4]))
    row = next(line for line in page.splitlines() if "| 8 |" in line)  # all members asked
    assert one == float(row.split("|")[9].split(",")[0]) and two <= one and below <= two
