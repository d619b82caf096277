import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdtool.compress.cluster import cluster
from pdtool.compress.contract import fine_tune
from pdtool.compress.crafting import craft
from pdtool.compress.hardening import HARDENINGS, Hardening, parse_hardening
from pdtool.compress.original import Trained, load_original
from pdtool.compress.plan import PoolPlan, plan_pool
from pdtool.compress.pool import PoolRequest, make_pool, open_pool
from pdtool.compress.prepare import prepare
from pdtool.compress.training import RECIPES, Crafted, TrainingSet, _loss, _wanted, fit
from pdtool.errors import InputError, UsageError


@pytest.fixture
def hard(request_of: PoolRequest) -> PoolRequest:
    """Two members of digits, hardened in two epochs."""
    return replace(
        request_of,
        recipe=replace(RECIPES["hardened"], epochs=2),
        hardening=Hardening(crafted=0.5, parent=1, robust=0.1),
    )


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "members").glob("*.safetensors"))}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("share", 1.5, r"share should lie in \[0, 1\], is 1.5"),
        ("share", 1.0, "share should be below 1: members must see clean images"),
        ("benign", -0.1, r"benign should lie in \[0, 1\]"),
        ("l2", math.nan, r"l2 should lie in \[0, 1\], is nan"),
        ("epsilon", 8.0, r"epsilon should lie in \(0, 1\], pixels do, is 8; write 10/255"),
        ("epsilon", 0.0, "epsilon should lie in"),
        ("crafted", math.inf, "crafted should be a number above 0, is inf"),
        ("steps", 0, r"steps should lie in 1\.\.1000, is 0"),
        ("scouts", -1, r"scouts should lie in 0\.\.100, is -1"),
        ("robust", 6.0, r"robust should lie in \[0, 1\], is 6; pixels do, write 6/255"),
        ("robust_members", 0.5, "robust_members goes with robust"),
        ("orthogonal", -1.0, "orthogonal should be a number of at least 0, is -1"),
        ("fresh", 2.0, r"fresh should lie in \[0, 1\], is 2"),
        ("parent", -1, r"parent should lie in 0\.\.10000 epochs, is -1"),
    ],
)
def test_no_setting_that_cannot_be_used(setting: str, value: float, message: str) -> None:
    with pytest.raises(UsageError, match=f"hardening: {message}"):
        Hardening(**{setting: value})  # type: ignore[arg-type]  # of the table above


def test_what_is_asked_for_has_images() -> None:
    with pytest.raises(UsageError, match="robust_share should be above 0, or robust 0"):
        Hardening(robust=0.1, robust_share=0.0)
    with pytest.raises(UsageError, match="orthogonal_share should be above 0, or orthogonal 0"):
        Hardening(orthogonal=0.1, orthogonal_share=0.0)


def test_shares_of_members_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match=r"at most 1 together, are 0\.5 and 1; give robust_members=0\.5"):
        Hardening(robust=0.1, plain_members=0.5)
    with pytest.raises(UsageError, match="attacks nobody"):
        Hardening(robust=0.1, robust_members=0.0)
    assert Hardening(plain_members=0.5).kind(3) == "plain"


def test_settings_from_the_command_line() -> None:
    base = HARDENINGS["hardened"]
    assert parse_hardening([], base) == base
    parsed = parse_hardening(["epsilon=8/255,steps=2", "l2=0"], base)
    assert parsed == replace(base, epsilon=8 / 255, steps=2, l2=0.0)
    for text, message in (
        ("epsilom=1", "no setting 'epsilom'; it takes share, crafted, benign, epsilon"),
        ("steps=2.5", "'steps=2.5' should be NAME=VALUE with a whole number"),
        ("epsilon", "'epsilon' should be NAME=VALUE with a number or a fraction"),
        ("epsilon=1/0", "'epsilon=1/0' should be"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_hardening([text], base)


class Spy(nn.Module):
    """A teacher that notes what it is asked about."""

    def __init__(self, asked: list[Tensor]) -> None:
        super().__init__()
        self.asked = asked

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked.append(inputs)
        return torch.zeros(len(inputs), 10)


def test_a_share_of_every_batch_is_crafted_and_a_fooled_teacher_teaches_nothing() -> None:
    """Images are one grey each: 0 clean, 0.2 benign, 1 attacked."""
    clean = TrainingSet(torch.zeros(100, 4, 4, 1), torch.zeros(100, dtype=torch.long), torch.zeros(1), torch.ones(1))
    attacked = torch.arange(40) < 30
    grey = torch.where(attacked, 255, 51).to(torch.uint8)[:, None, None, None].expand(-1, 4, 4, 1)
    labels = torch.where(attacked, 1, 2)
    crafted = Crafted(grey, labels, attacked.long(), attacked, share=0.4)
    recipe = replace(RECIPES["hardened"], epochs=4, batch=20, shift=0, light=0.0, distill=0.5)
    seen, asked = list[Tensor](), list[Tensor]()

    class Net(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                seen.append(inputs[:, 0, 0, 0].clone())
            given: Tensor = super().forward(inputs)
            return given

    ticks: list[int] = []
    torch.manual_seed(0)
    net = Net(nn.Flatten(), nn.Linear(16, 10))
    fit(net, clean, recipe, seed=0, teacher=Spy(asked), crafted=crafted, tick=ticks.append)
    assert sum(ticks) == len(seen) == recipe.steps(100) == 20
    assert all(len(batch) == 20 and (batch[:12] == 0).all() and (batch[12:] > 0).all() for batch in seen)
    drawn = torch.cat([batch[12:] for batch in seen])
    assert (drawn == 1).sum() == 120 and len(drawn) == 160  # every crafted image four times
    assert torch.cat(asked).max() < 0.5  # no attacked image
    assert sum(map(len, asked)) == 20 * 12 + 40
    with torch.no_grad():  # true labels were learned
        greys = torch.tensor([0.0, 1.0])[:, None, None, None].expand(-1, 1, 4, 4)
        assert net(greys).argmax(1).tolist() == [0, 1]


def test_almost_all_of_a_batch_attacked_leaves_a_clean_image_to_be_taught() -> None:
    clean = TrainingSet(torch.zeros(64, 4, 4, 1), torch.zeros(64, dtype=torch.long), torch.zeros(1), torch.ones(1))
    grey = torch.full((40, 4, 4, 1), 255, dtype=torch.uint8)
    attacked = torch.ones(40, dtype=torch.bool)
    crafted = Crafted(grey, torch.ones(40, dtype=torch.long), attacked.long(), attacked, share=0.99)
    recipe = replace(RECIPES["hardened"], epochs=2, batch=32, shift=0, light=0.0)
    asked = list[Tensor]()
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    fit(net, clean, recipe, seed=0, teacher=Spy(asked), crafted=crafted)  # raises GateError where the loss is NaN
    assert asked and all(len(inputs) == 1 and inputs.max() == 0 for inputs in asked)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_where_nothing_is_taught_the_loss_is_the_labels_alone() -> None:
    logits, labels = torch.randn(5, 10), torch.arange(5)
    recipe, asked = RECIPES["hardened"], list[Tensor]()
    assert recipe.distill > 0
    taught = torch.zeros(5, dtype=torch.bool)
    loss = _loss(logits, labels, recipe, _wanted(recipe, Spy(asked), torch.zeros(5, 1, 4, 4), taught), taught)
    wanted = nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    assert loss.item() == wanted.item() and not asked


def test_a_share_of_nothing_changes_nothing(request_of: PoolRequest) -> None:
    task = prepare(request_of).task
    crafted = craft([task.original.net], task.training, Hardening(share=0.0), task.recipe, seed=0, count=50)
    nets = [load_original(Path(request_of.weights))[0].net for _ in range(2)]
    fit(nets[0], task.training, task.recipe, seed=1)
    fit(nets[1], task.training, task.recipe, seed=1, crafted=crafted)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_hardened_pool_says_how_and_goes_on_where_it_stopped(hard: PoolRequest, tmp_path: Path) -> None:
    make_pool(replace(hard, members=1), tmp_path / "P")
    pool = make_pool(hard, tmp_path / "P")
    document = json.loads((tmp_path / "P" / "pool.json").read_text())
    assert document["recipe"]["name"] == "hardened" and document["recipe"]["hardening"] == vars(hard.hardening)
    assert open_pool(tmp_path / "P").pool == pool
    make_pool(hard, tmp_path / "whole")
    assert weights_of(tmp_path / "P") == weights_of(tmp_path / "whole")
    assert len(weights_of(tmp_path / "P")) == 2
    for other in (
        replace(hard, hardening=None),
        replace(hard, hardening=Hardening(crafted=0.5, parent=1, robust=0.1, steps=3)),
    ):
        with pytest.raises(InputError, match="holds another pool"):
            make_pool(other, tmp_path / "P")


def test_paper_members_record_no_hardening(pool_of: Path) -> None:
    assert "hardening" not in json.loads((pool_of / "pool.json").read_text())["recipe"]


def test_workers_make_the_same_members(hard: PoolRequest, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    make_pool(hard, tmp_path / "one")
    with cluster("local:1") as make:
        make_pool(hard, tmp_path / "many", make=make)
    assert weights_of(tmp_path / "many") == weights_of(tmp_path / "one")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("l1-norm", {}),
        ("lottery-ticket", {"rounds": 1, "search_epochs": 1}),
        ("subnetwork", {"search_epochs": 1}),
        ("prune-and-scale", {"rounds": 1, "tau": 1.0}),
    ],
)
def test_every_method_that_trains_can_be_hardened(
    hard: PoolRequest, tmp_path: Path, method: str, options: dict[str, float]
) -> None:
    short = replace(hard.recipe, epochs=1)
    hardening = Hardening(crafted=0.5, robust=0.1)
    request = replace(hard, method=method, members=1, max_drop=1.0, recipe=short, hardening=hardening, **options)  # type: ignore[arg-type]  # of the table above
    make_pool(request, tmp_path / "hard")
    make_pool(replace(request, hardening=None), tmp_path / "soft")
    assert weights_of(tmp_path / "hard") != weights_of(tmp_path / "soft")


def test_methods_that_do_not_train_refuse(hard: PoolRequest) -> None:
    with pytest.raises(UsageError, match="--hardening does not go with --method mutation-gf; it is for random-channel"):
        replace(hard, method="mutation-gf", rate=0.01)


def test_nobody_forgets_to_craft(hard: PoolRequest) -> None:
    task = prepare(hard).task
    with pytest.raises(ValueError, match="no images were crafted"):
        fine_tune(task, task.original.net)


def test_a_plan_counts_the_crafting(hard: PoolRequest) -> None:
    def planned(epochs: int, **settings: float) -> PoolPlan:
        recipe, hardening = replace(hard.recipe, epochs=epochs), Hardening(**settings)  # type: ignore[arg-type]  # of the table above
        return plan_pool(replace(hard, members=1, recipe=recipe, hardening=hardening))

    few, many, scouted = planned(40, crafted=0.01), planned(40, crafted=20.0), planned(40, crafted=0.01, scouts=9)
    assert few.steps == many.steps == scouted.steps
    assert many.seconds.mean > 1.5 * few.seconds.mean and scouted.seconds.mean > 5 * few.seconds.mean


def test_members_disagree_with_a_fooled_original(hard: PoolRequest, trained: Trained, tmp_path: Path) -> None:
    """By strong steps of another attack than those of the training: many, without noise, all by the same epsilon."""
    long = replace(hard, members=1, recipe=replace(hard.recipe, epochs=10))
    make_pool(replace(long, hardening=Hardening(epsilon=0.2)), tmp_path / "hard")
    make_pool(replace(long, recipe=replace(RECIPES["paper"], epochs=10), hardening=None), tmp_path / "paper")
    ready = prepare(hard)
    held, original = ready.task.held, open_pool(tmp_path / "hard").original()
    pixels = torch.from_numpy(np.ascontiguousarray(held.images)).permute(0, 3, 1, 2).float() / 255
    labels, point = torch.from_numpy(held.labels), pixels.clone()
    for _ in range(30):
        point.requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(original(point), labels, reduction="sum"), point)
        point = (point.detach() + 0.01 * gradient.sign()).clamp(pixels - 0.15, pixels + 0.15).clamp(0, 1)
    with torch.no_grad():
        fooled, said = original(point).argmax(1), original(pixels).argmax(1)
        success = fooled != labels
        changes = {}
        for name in ("hard", "paper"):
            member = open_pool(tmp_path / name).member("m000")
            assert (member(pixels).argmax(1) != said).float().mean() < 0.12
            changes[name] = (member(point).argmax(1) != fooled)[success].float().mean()
    assert success.float().mean() > 0.5
    assert changes["hard"] > 0.7 > changes["paper"] + 0.2
