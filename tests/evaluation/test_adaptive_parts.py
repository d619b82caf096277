"""The parts of adaptive attacks: steps that stay in bounds, the detector's cost against brute force, a blind search."""

import copy
import itertools
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pdtool.artifacts import Kind
from pdtool.calibration.evidence import graded, shift_of
from pdtool.calibration.evidence import margins as evidence_margins
from pdtool.calibration.kinds import Kinds
from pdtool.calibration.mmt import compile_mmt
from pdtool.calibration.table import DecisionTable, GradedTable, SequentialTest, Table, replay
from pdtool.calibration.wald import compile_wald
from pdtool.decisions import Grading
from pdtool.errors import UsageError
from pdtool.evaluation import adaptive_full
from pdtool.evaluation.adaptive_availability import costliest_share, disturb, outcome
from pdtool.evaluation.adaptive_decision import Pixels, search
from pdtool.evaluation.adaptive_descent import Look, descend, margins
from pdtool.evaluation.adaptive_features import FEATURES, Features, push_features
from pdtool.evaluation.adaptive_full import LEAD, WAYS, evade, members_that_matter, soft_cost, weighed
from pdtool.evaluation.adaptive_plan import Plan
from pdtool.evaluation.adaptive_results import Goal, half_point
from pdtool.evaluation.adaptive_stage import _surrogates
from pdtool.evaluation.adaptive_transfer import _all, push_together
from pdtool.images import as_input

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]


@pytest.fixture(scope="module")
def planes(images: Scans) -> torch.Tensor:
    return torch.from_numpy(as_input(images[:24]))


@pytest.mark.parametrize("epsilon", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("random_start", [False, True])
def test_steps_stay_within_epsilon_and_the_pixels_range(
    planes: torch.Tensor, epsilon: float, random_start: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def look(x: torch.Tensor, rows: torch.Tensor, step: int, last: bool) -> tuple[torch.Tensor, None]:
        assert x.min() >= 0 and x.max() <= 1
        return torch.randn(x.shape, generator=generator), None

    found = descend(planes, look, epsilon=epsilon, steps=12, generator=generator, random_start=random_start)
    assert found.min() >= 0 and found.max() <= 1
    assert (found - planes).abs().max() <= epsilon + 1e-6
    assert (found - planes).abs().max() > epsilon / 4


def test_steps_find_the_corner_of_a_linear_cost_and_keep_the_best_iterate(planes: torch.Tensor) -> None:
    direction = torch.randn(planes.shape, generator=torch.Generator().manual_seed(1))
    best = (planes - 0.1 * direction.sign()).clamp(0, 1)
    generator = torch.Generator()
    found = descend(planes, lambda x, *_: (direction[: len(x)], None), epsilon=0.1, steps=20, generator=generator)
    assert torch.allclose(found, best, atol=1e-6)
    seen: list[torch.Tensor] = []

    def look(x: torch.Tensor, rows: torch.Tensor, step: int, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(x[: len(planes)])
        return direction, torch.full((len(x),), 1.0 if step == 3 else 2.0)

    kept = descend(planes, look, epsilon=0.1, steps=8, generator=generator)
    assert torch.equal(kept, seen[3]) and len(seen) == 9


def test_the_best_of_the_judged_iterates_is_kept_where_few_are_judged(planes: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []
    judged = {0: 5.0, 4: 1.0, 10: 3.0}

    def look(x: torch.Tensor, rows: torch.Tensor, step: int, last: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen.append(x[:3].clone())
        gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(step))
        return gradient, torch.full((len(x),), judged[step]) if step in judged else None

    kept = descend(planes[:3], look, epsilon=0.2, steps=10, generator=torch.Generator())
    assert [step for step, x in enumerate(seen) if torch.equal(x, kept)] == [4]


def test_what_the_attacker_takes_for_evidence_is_what_the_runtime_counts(
    net: torch.nn.Module, planes: torch.Tensor
) -> None:
    """With the original's margin weighed in, and with gradients into both nets."""
    with torch.no_grad():
        said = 0.3 * net(planes)  # not so sure that single precision ends
    original = (said + torch.randn(said.shape, generator=torch.Generator().manual_seed(1))).requires_grad_(True)
    member = said.clone().requires_grad_(True)
    labels = original.argmax(1)
    grading = Grading(temperatures=(1.5,), weight=0.8, knee=1.0)
    entropy = F.cross_entropy(member / 1.5, labels, reduction="none")[:, None]
    whole = weighed(entropy, -margins(original, labels), grading)
    counted = graded(
        member.detach().numpy(), labels.numpy(), 1.5, shift_of(grading, evidence_margins(original.detach().numpy()))
    )
    assert np.allclose(1 - torch.exp(-whole[:, 0]).detach().numpy(), counted, atol=1e-4)
    for of in torch.autograd.grad(whole.sum(), (original, member)):
        assert of.isfinite().all() and of.abs().sum() > 0
    assert weighed(entropy, -margins(original, labels), Grading(temperatures=(1.5,))) is entropy


def test_an_image_that_needs_no_more_work_is_left_alone(planes: torch.Tensor) -> None:
    asked: list[int] = []

    def look(x: torch.Tensor, rows: torch.Tensor, step: int, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        asked.extend(sorted({*rows.tolist()}))
        return torch.ones_like(x), (rows >= step).float()  # row i is done at step i + 1

    found = descend(planes[:6], look, epsilon=0.5, steps=10, generator=torch.Generator())
    assert [asked.count(i) for i in range(6)] == [2, 3, 4, 5, 6, 7]

    def single(i: int) -> torch.Tensor:
        def look(x: torch.Tensor, rows: torch.Tensor, step: int, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones_like(x), torch.full((len(x),), float(i >= step))

        return descend(planes[i : i + 1], look, epsilon=0.5, steps=10, generator=torch.Generator())

    assert torch.equal(found, torch.cat([single(i) for i in range(6)]))


@pytest.mark.parametrize("way", FEATURES)
def test_pushing_the_middle_layers_of_two_nets_fools_both(
    net: torch.nn.Module, planes: torch.Tensor, labels: Labels, way: Features
) -> None:
    torch.manual_seed(4)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape))
    nets, truth = [net.requires_grad_(False), other.requires_grad_(False)], torch.from_numpy(labels[:24])
    aims = (truth + 1) % 10

    def push(members: list[torch.nn.Module], seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return push_features(
            net, members, planes, truth, way=way, epsilon=0.2, steps=20, at_once=2, generator=generator,
            base=lambda: push_together(
                net, members, planes, aims, epsilon=0.2, steps=20, at_once=2, judge=False, generator=generator
            ),
        )  # fmt: skip

    found = push(nets[1:], 0)
    assert (found - planes).abs().max() <= 0.2 + 1e-6 and found.min() >= 0 and found.max() <= 1
    for each in nets:
        before, after = ((each(x).argmax(1) == truth).float().mean() for x in (planes, found))
        assert after < before - 0.5
    noise = (planes + 0.2 * torch.randn(planes.shape).sign()).clamp(0, 1)
    assert (net(noise).argmax(1) == truth).float().mean() > 0.7
    assert torch.equal(found, push(nets[1:], 0)) and not torch.equal(found, push([], 0))


def test_attacking_two_nets_together_fools_both(net: torch.nn.Module, planes: torch.Tensor, labels: Labels) -> None:
    torch.manual_seed(5)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    optimiser = torch.optim.Adam(other.parameters(), lr=0.01)
    truth = torch.from_numpy(labels[:24])
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(other(planes), truth).backward()
        optimiser.step()
    aims = (truth + 1) % 10
    for judge in (False, True):
        found = push_together(
            net.requires_grad_(False), [other.requires_grad_(False)], planes, aims,
            epsilon=0.4, steps=30, at_once=4, judge=judge, generator=torch.Generator(),
        )  # fmt: skip
        alone = push_together(
            net, [], planes, aims, epsilon=0.4, steps=30, at_once=4, judge=judge, generator=torch.Generator()
        )
        assert ((net(found).argmax(1) == aims) & (other(found).argmax(1) == aims)).float().mean() > 0.9
        assert (other(alone).argmax(1) == aims).float().mean() < 0.6


def test_a_thief_of_a_mixed_pool_keeps_what_fools_the_kind_that_is_hardest_to_fool() -> None:
    """Of two iterates: all hardened and no robust members follow, or two of three of each; by turns they are drawn."""
    kinds: Kinds = ("hardened", "robust") * 3
    asked: list[int] = []

    class Member(torch.nn.Module):
        """Says 1 where pixel 0 is above its bound (hardened members), or pixel 1 is (robust ones)."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index, self.pixel, self.bound = index, index % 2, 0.2 + 0.25 * (index // 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.requires_grad:
                asked.append(self.index)
            lead = 20 * (x.flatten(1)[:, self.pixel] - self.bound)
            return torch.stack([-lead, lead], dim=1)

    members = [Member(i) for i in range(6)]

    class Original(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.flatten(1)[:, 0] * 0, x.flatten(1)[:, 0] * 0 + 9], dim=1)

    aims = torch.ones(2, dtype=torch.int64)
    places = torch.tensor([[[[0.9, 0.0]]], [[[0.6, 0.6]]]])  # (N, C, H, W): three and none follow, two of each kind do
    for of, left in ((None, [0.5, 0.3]), (kinds, [1.0, 0.3])):  # the share that does not follow
        score = _all(Original(), members, places, aims, of)
        assert (score / 1000).round(decimals=1).tolist() == pytest.approx(left)
    push_together(
        Original(), members, places, aims, epsilon=0.1, steps=20, at_once=2, judge=True,
        generator=torch.Generator().manual_seed(0), kinds=kinds,
    )  # fmt: skip
    drawn = [{index % 2 for index in pair} for pair in zip(asked[::2], asked[1::2], strict=True)]
    assert drawn and all(pair == {0, 1} for pair in drawn)


@pytest.mark.parametrize(
    ("kinds", "first"),
    [((None, None, None), ["m1", "m2", "m3"]), (("hardened", "hardened", "robust", "robust"), ["m3", "m1"])],
)
def test_who_makes_few_members_of_a_mixed_pool_makes_the_hardest_first(
    kinds: tuple[Kind | None, ...], first: list[str]
) -> None:
    """Those that are not used, as the first, are left out."""
    members = [SimpleNamespace(id=f"m{i}", used=i > 0, kind=kind) for i, kind in enumerate((None, *kinds))]
    folder = SimpleNamespace(pool=SimpleNamespace(members=members), member=lambda id: _Named(id))
    named = [str(net.name) for net in _surrogates(cast(Any, folder))]
    assert named[: len(first)] == first and sorted(named) == [f"m{i + 1}" for i in range(len(kinds))]


class _Named(torch.nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_of_a_mixed_pool_every_kind_must_be_won() -> None:
    """Cleared by the table and free of cost are the same; where one kind still doubts, it alone is worked on."""
    kinds: Kinds = ("robust", "hardened", "robust", "hardened")
    table = GradedTable((0.9, 0.9, 0.9, 0.4), (None, 0.2, 0.2, 0.4), kinds)
    said = np.array([[0.05, 0.05, 0.05, 0.05], [0.05, 0.8, 0.05, 0.8], [0.8, 0.05, 0.8, 0.05], [0.05, 0.6, 0.1, 0.0]])
    entropy = torch.from_numpy(-np.log1p(-said)).float().requires_grad_(True)
    costs = soft_cost(torch.ones(4, 4), entropy, table)
    flagged, _ = replay(table, said)
    assert ((costs == 0).numpy() == ~flagged).all() and flagged.tolist() == [False, True, True, False]
    (gradient,) = torch.autograd.grad(costs.sum(), entropy)
    assert (gradient[0] == 0).all()
    assert (gradient[1, [0, 2]] == 0).all() and gradient[1, 1] > 0
    assert (gradient[2, [1, 3]] == 0).all() and gradient[2, 0] > 0
    alone = GradedTable(table.flag_above, table.clear_below)
    assert (soft_cost(torch.ones(4, 4), entropy, alone) <= costs).all()


def _cost_by_hand(against: NDArray[np.float64], entropy: NDArray[np.float64], table: DecisionTable) -> float:
    """The cheapest way to be cleared and not flagged before, by trying every choice of members that agree."""
    costs, before = [], 0.0
    left = [e if a > -LEAD else 0.0 for a, e in zip(against, entropy, strict=True)]

    def cheapest(n: int, agree: int) -> float:
        return min(sum(chosen) / max(1, agree) for chosen in itertools.combinations(left[:n], max(0, agree)))

    for n, (clear, flag) in enumerate(zip(table.clear_at, table.flag_at, strict=True), start=1):
        if clear is not None:
            costs.append(before + cheapest(n, n - clear))
        if flag is not None:
            before = max(before, cheapest(n, n - flag + 1))
    return min(costs)


def test_the_detectors_cost_is_that_of_the_cheapest_members_that_must_agree() -> None:
    rng = np.random.default_rng(0)
    table = compile_wald(0.1, 0.6, 0.1, 0.1, 7, "threshold")
    assert isinstance(table, DecisionTable) and sum(entry is not None for entry in table.clear_at) > 2
    against, entropy = rng.normal(0, 3, (50, 7)), rng.exponential(1, (50, 7))
    costs = soft_cost(torch.from_numpy(against), torch.from_numpy(entropy), table).numpy()
    assert costs == pytest.approx([_cost_by_hand(*row, table) for row in zip(against, entropy, strict=True)])
    cleared = ~replay(table, against > 0)[0]
    assert cleared[costs == 0].all() and 0 < (costs == 0).sum() < 50


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_orthogonal_steps_leave_the_label_where_the_original_is_fooled(
    net: torch.nn.Module, planes: torch.Tensor, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Logits times 30: gradients whose squares vanish in float32."""

    def sure(x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = scale * net(x)
        return logits

    steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recording(images: torch.Tensor, look: Look, **how: Any) -> torch.Tensor:
        def recorded(*asked: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
            gradient, score = look(*asked)
            steps.append((asked[0], gradient))
            return gradient, score

        return descend(images, recorded, **how)

    monkeypatch.setattr(adaptive_full, "descend", recording)
    torch.manual_seed(2)
    member = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10)).requires_grad_(False)
    table = DecisionTable((None, None, 1), (None, None, 0))
    largest = {}
    for way in WAYS:
        steps.clear()
        evade(
            cast(torch.nn.Module, sure), [member] * 3, table, None, planes[:1], torch.tensor([3]),
            way=way, epsilon=0.4, steps=20, generator=torch.Generator(),
        )  # fmt: skip
        along = []
        for x, gradient in steps:
            moving = x.clone().requires_grad_(True)
            logits = sure(moving)
            aims = torch.full((len(x),), 3)
            (label,) = torch.autograd.grad(F.cross_entropy(logits, aims), moving)
            if margins(logits, aims)[0] <= -LEAD and label.abs().max() > 0 and gradient.abs().max() > 0:
                a, b = (each[0].flatten().double() / each[0].abs().max().double() for each in (gradient, label))
                along.append(float((a @ b).abs() / a.norm() / b.norm()))
        assert len(along) >= 3, way
        largest[way] = max(along)
    assert largest["orthogonal"] < 1e-5 < 0.02 < largest["selective"]


def test_graded_cost_ends_where_the_mean_evidence_is_low_enough() -> None:
    table = GradedTable(flag_above=(None, None, 0.4), clear_below=(None, 0.1, 0.4))
    evidence = torch.tensor([[0.01, 0.02, 0.9], [0.3, 0.2, 0.1], [0.9, 0.9, 0.9]])
    entropy = -torch.log(1 - evidence)
    costs = soft_cost(torch.zeros(3, 3), entropy, table)
    assert costs[:2].tolist() == [0.0, 0.0]  # cleared after two, cleared after three
    assert costs[2] == pytest.approx(float(entropy[2, :2].mean()))


def test_how_many_members_matter_to_an_attacker() -> None:
    early = DecisionTable(flag_at=(None, 2, *(3,) * 18), clear_at=(None, 0, *(0,) * 17, 2))
    late = DecisionTable(flag_at=(*(None,) * 19, 10), clear_at=(*(None,) * 19, 9))
    assert members_that_matter(early) == 6 and members_that_matter(late) == 20
    assert members_that_matter(GradedTable((None, 0.5), (None, 0.5))) == 2
    mmt = compile_mmt(0.1, 0.6, 0.1, 0.1, 20)
    assert members_that_matter(mmt) == 20  # agreement alone clears at the last member only
    agreed = torch.full((1, 20), -2 * LEAD)
    assert soft_cost(agreed, torch.zeros(1, 20), mmt).item() == 0
    assert soft_cost(-agreed, torch.ones(1, 20), mmt).item() > 0


def test_margins_are_negative_where_the_label_wins(net: torch.nn.Module, planes: torch.Tensor) -> None:
    with torch.no_grad():
        logits = net(planes)
    for label in range(10):
        lead = margins(logits, torch.full((len(planes),), label))
        assert torch.equal(lead < 0, logits.argmax(1) == label)


@pytest.mark.parametrize(
    ("table", "share"),
    [
        # many members are asked where neither side has its count: half of them disagree
        (DecisionTable((None, 2, 3, 3, 4, 4), (None, 0, 0, 1, 1, 3)), 0.5),
        (GradedTable((None, 0.9, 0.9, 0.9, 0.9, 0.5), (None, 0.1, 0.1, 0.1, 0.1, 0.5)), 0.5),
    ],
)
def test_the_costliest_share_is_that_of_all_orders(table: Table, share: float) -> None:
    asked = []
    for changes in range(7):
        orders = np.array(list({*itertools.permutations([True] * changes + [False] * (6 - changes))}))
        asked.append(replay(table, orders if isinstance(table, DecisionTable) else orders.astype(float))[1].mean())
    assert costliest_share(table, 6, np.random.default_rng(0)) == share == np.argmax(asked) / 6


def test_the_outcome_is_the_mean_over_orders_of_what_the_table_does() -> None:
    rng = np.random.default_rng(0)
    table = DecisionTable((None, 2, 3, 3, 3), (None, 0, 0, 1, 2))
    graded = GradedTable((None, 0.6, 0.6, 0.5), (None, 0.2, 0.3, 0.5))
    orders = np.array([rng.permutation(6) for _ in range(5)])
    for each, evidence in ((table, (rng.random((7, 6)) < 0.5).astype(float)), (graded, rng.random((7, 6)))):
        for goal in ("alarm", "delay"):
            by_hand = []
            for row in evidence:
                done = []
                for order in orders:
                    test = SequentialTest(each)
                    while test.decision == 0:
                        value = row[order[test.models_used]]
                        test.update(bool(value) if each is table else float(value))
                    done.append(test.decision == 1 if goal == "alarm" else test.models_used / each.max_models)
                by_hand.append(np.mean(done))
            assert outcome(each, evidence, orders, goal) == pytest.approx(by_hand)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("goal", ["alarm", "delay"])
def test_disturbed_images_are_no_better_for_the_table_than_clean_ones(
    net: torch.nn.Module, planes: torch.Tensor, graded: bool, goal: Goal
) -> None:
    members = []
    for seed in range(5):
        torch.manual_seed(seed)
        member = copy.deepcopy(net).requires_grad_(False)
        for weights in member.parameters():
            weights.add_(0.15 * weights.std() * torch.randn(weights.shape))
        members.append(member)
    table: Table = DecisionTable((None, 2, 3, 3, 3), (None, 0, 0, 1, 2))
    if graded:
        table = GradedTable((None, 0.6, 0.6, 0.5, 0.5), (None, 0.1, 0.2, 0.3, 0.5))
    with torch.no_grad():
        labels = net(planes).argmax(1)

    def done(images: torch.Tensor) -> NDArray[np.float64]:
        orders = np.array(list(itertools.permutations(range(5))))  # all of them
        with torch.no_grad():
            chances = torch.stack([member(images).softmax(1) for member in members], dim=1)
        own = 1 - chances[torch.arange(len(images)), :, labels].double().numpy()
        changed = (chances.argmax(2) != labels[:, None]).double().numpy()
        return outcome(table, own.clip(0, 1) if graded else changed, orders, goal)

    clean = done(planes)
    means = []
    for steps in (2, 20):
        found = disturb(
            net.requires_grad_(False), members, table, Grading(temperatures=(1.0,) * 5), planes, labels,
            goal=goal, share=1.0 if goal == "alarm" else 0.4, epsilon=0.1, steps=steps, at_once=3,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        with torch.no_grad():
            assert torch.equal(net(found).argmax(1), labels)
        assert (found - planes).abs().max() <= 0.1 + 1e-6
        assert (done(found) >= clean - 0.1).all()  # judged by some of the orders
        means.append(done(found).mean())
    assert means[1] >= means[0] - 0.01 and means[1] > clean.mean() + 0.02


class _Device:
    """Says "wrong and clear" where the picture's mean is far enough from the clean one's; counts what it is asked."""

    def __init__(self, clean: Pixels, far: float) -> None:
        self.clean, self.far, self.asked = clean, far, np.zeros(len(clean), dtype=np.int64)
        self.most: list[float] = []

    def __call__(self, images: Pixels, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        assert images.min() >= 0 and images.max() <= 1
        self.asked[rows] += 1
        moved: NDArray[np.bool_] = images.mean(axis=(1, 2, 3)) - self.clean[rows].mean(axis=(1, 2, 3)) > self.far
        return moved


def test_the_blind_search_counts_every_query_and_returns_what_worked() -> None:
    clean = np.full((8, 12, 12, 1), 0.4, dtype=np.float32)
    device = _Device(clean, 0.05)
    found = search(clean, device, (0.02, 0.1, 0.5), queries=150, rng=np.random.default_rng(0))
    assert (found.spent == device.asked).all() and found.spent.max() == 150
    assert np.isfinite(found.radius).all() and found.radius.min() > 0.05
    assert found.radius.max() < 0.1  # all signs up is best, 0.05
    assert np.abs(found.images - clean).max(axis=(1, 2, 3)) == pytest.approx(found.radius, abs=1e-6)
    assert device(found.images, np.arange(8)).all()
    assert (found.first[:, 0] == -1).all()  # out of reach
    assert (found.first[:, 1] >= found.first[:, 2]).all() and (found.first[:, 2] >= 1).all()
    again = search(clean, _Device(clean, 0.05), (0.02, 0.1, 0.5), queries=150, rng=np.random.default_rng(0))
    assert again.images.tobytes() == found.images.tobytes()


def test_the_blind_search_stops_within_the_smallest_epsilon_and_leaves_what_it_cannot_move() -> None:
    clean = np.full((4, 8, 8, 3), 0.5, dtype=np.float32)
    easy = _Device(clean, 0.01)
    found = search(clean, easy, (0.2,), queries=200, rng=np.random.default_rng(1))
    assert (found.radius <= 0.2).all() and found.spent.max() < 200 and (found.spent == easy.asked).all()
    assert (found.first[:, 0] == found.spent).all()
    hopeless = _Device(clean, 2.0)
    found = search(clean, hopeless, (0.2,), queries=20, rng=np.random.default_rng(1))
    assert np.isinf(found.radius).all() and (found.images == clean).all() and (hopeless.asked == 20).all()


def test_half_of_a_curve_lies_between_its_points() -> None:
    assert half_point((1.0, 2.0, 4.0), (0.1, 0.3, 0.7)) == 3.0
    assert half_point((1.0, 2.0), (0.8, 1.0)) == 0.625
    assert half_point((1.0, 2.0), (0.0, 0.49)) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threats": ("T9",)}, "unknown threat 'T9'; expected one of oblivious"),
        ({"threats": ()}, "at least one threat and one epsilon"),
        ({"epsilons": (8.0,)}, "should lie above 0 and be at most 1"),
        ({"epsilons": (0.2, 0.1)}, "rising order"),
        ({"steps": 0}, "at least 1 for steps, got 0"),
    ],
)
def test_plans_that_cannot_be_tried_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Plan(**wrong)  # type: ignore[arg-type]  # wrong on purpose
