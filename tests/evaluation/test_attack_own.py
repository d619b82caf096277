"""What each of the attacks with code of their own promises, beyond what all attacks promise."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdtool.errors import InputError, MissingError, UsageError
from pdtool.evaluation.attack_apgd import checkpoints, dlr
from pdtool.evaluation.attack_common import other_class
from pdtool.evaluation.attack_features import features_of, middle_layer
from pdtool.evaluation.attack_jsma import jsma
from pdtool.evaluation.attack_local_search import local_search, wrapped
from pdtool.evaluation.attack_square import share_at, square
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.attacks import run_attack
from pdtool.images import as_input

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]


@pytest.fixture(scope="module")
def attack(net: torch.nn.Module, images: Scans, labels: Labels):
    def run(spec: str) -> Attacked:
        return run_attack(net, images, labels, spec, seed=1)

    return run


def entropy(net: torch.nn.Module, found: Attacked) -> float:
    with torch.no_grad():
        logits = net(torch.from_numpy(as_input(found.images)))
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(found.labels)).item()


@pytest.mark.parametrize(
    "spec", ["pgd:epsilon=0.05,step=0.02", "pgd-margin:epsilon=0.05,step=0.02", "apgd-ce:epsilon=0.05"]
)
def test_more_steps_are_never_weaker_on_average(net: torch.nn.Module, attack, spec: str) -> None:
    losses = [entropy(net, attack(f"{spec},steps={steps}")) for steps in (1, 4, 16, 64)]
    assert losses == sorted(losses)


def test_apgd_is_at_least_as_strong_as_pgd(net: torch.nn.Module, attack) -> None:
    for epsilon in (0.03, 0.06):
        pgd = attack(f"pgd:epsilon={epsilon},step={epsilon / 4},steps=40")
        apgd = attack(f"apgd-ce:epsilon={epsilon},steps=40")
        assert entropy(net, apgd) >= entropy(net, pgd)
        assert apgd.success.sum() >= pgd.success.sum()
        assert attack(f"apgd-dlr:epsilon={epsilon},steps=40").success.sum() >= 0.8 * pgd.success.sum()
    assert 0 < pgd.success.mean() < 1  # it was a contest


def test_apgd_looks_at_its_step_ever_more_often() -> None:
    ends = sorted(checkpoints(100))
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]  # of AutoAttack's own run of 100 steps
    assert max(checkpoints(7)) <= 7 and min(checkpoints(1)) == 1


def test_the_ratio_of_logits_is_positive_where_wrong_and_knows_no_scale() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    labels = torch.tensor([0, 2])
    assert torch.allclose(dlr(logits, labels), torch.tensor([-1 / 3, 1 / 3]))
    assert torch.allclose(dlr(100 * logits, labels), dlr(logits, labels))


def test_the_ratio_of_logits_needs_three_classes(images: Scans) -> None:
    two = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2)).eval()
    truth = two(torch.from_numpy(as_input(images))).argmax(1).numpy()
    with pytest.raises(UsageError, match="expected at least 3 classes, got 2; use apgd-ce"):
        run_attack(two, images, truth, "apgd-dlr")
    assert len(run_attack(two, images, truth, "apgd-ce:steps=5")) == 64


def test_jsma_raises_at_most_its_share_of_values(images: Scans, attack) -> None:
    for gamma in (0.02, 0.12):
        found = attack(f"jsma:gamma={gamma}")
        change = found.images - np.moveaxis(as_input(images), 1, 3)[found.source]
        changed = (change != 0).sum(axis=(1, 2, 3))
        assert changed.max() <= gamma * 256 and changed.max() > 0.9 * math.floor(gamma * 256)
        assert (change >= 0).all() and (found.images[change != 0] == 1).all()
    assert attack("jsma:gamma=0.001").linf.max() == 0  # less than one value


def test_jsma_takes_the_value_that_brute_force_takes(net: torch.nn.Module, images: Scans) -> None:
    given = torch.from_numpy(as_input(images[:1]))
    truth = net(given).argmax(1)
    torch.manual_seed(3)
    found = jsma(net, given, truth, theta=1.0, gamma=1 / 256)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x)[0], given).reshape(10, 256)
    torch.manual_seed(3)
    target = int(other_class(truth, 10))
    others = jacobian.sum(0) - jacobian[target]
    score = [
        float(-t * o) if t > 0 and o < 0 and x < 1 else 0.0
        for t, o, x in zip(jacobian[target], others, given.flatten(), strict=True)
    ]
    assert (found != given).flatten().nonzero().tolist() == [[int(np.argmax(score))]]


def test_local_search_changes_at_most_its_pixels(images: Scans, attack) -> None:
    found = attack("local-search:p=0,t=3,rounds=2")
    changed = (found.images != np.moveaxis(as_input(images), 1, 3)[found.source]).any(axis=3).sum(axis=(1, 2))
    assert 0 < changed.max() <= 6
    assert (changed[found.success] > 0).all()
    assert attack("local-search:p=0,t=3,rounds=8").success.sum() > found.success.sum()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_local_search_takes_the_pixels_that_brute_force_takes(net: torch.nn.Module, images: Scans, p: float) -> None:
    """A pixel is tried at grey + p, or at grey - p if it is darker than grey: at 1.5 and -0.5 for the paper's p."""
    given = torch.from_numpy(as_input(images[:3]))
    truth = net(given).argmax(1)
    found = local_search(
        net, given, truth, p=p, r=1.5, d=5, t=4, k=1, rounds=1, seeds=1.0, candidates=256
    )  # fmt: skip
    for image, label, made in zip(given, truth, found, strict=True):
        chances = []
        for row in range(16):
            for column in range(16):
                trial = image.clone()
                trial[0, row, column] = 0.5 + p if image[0, row, column] >= 0.5 else 0.5 - p
                with torch.no_grad():
                    chances.append((net(trial[None]).softmax(1)[0, label].item(), row, column))
        wanted = image.clone()
        for _, row, column in sorted(chances)[:4]:
            far = 1.5 * (image[0, row, column].item() - 0.5)
            wanted[0, row, column] = 0.5 + (far - 1 if far > 0.5 else far + 1 if far < -0.5 else far)
        assert torch.allclose(made, wanted, atol=1e-6) and not torch.equal(made, image)


def test_what_leaves_the_range_comes_in_on_the_other_side() -> None:
    pixels = torch.tensor([0.0, 0.25, 0.5, 0.8, 0.9, 1.0])
    assert torch.allclose(wrapped(pixels, 1.5), torch.tensor([0.75, 0.125, 0.5, 0.95, 0.1, 0.25]))
    assert torch.allclose(wrapped(pixels, 1.0), pixels)
    assert wrapped(torch.rand(1000), 2.0).min() >= 0 and wrapped(torch.rand(1000), 2.0).max() <= 1


@pytest.mark.parametrize("name", ["ila", "fia"])
def test_feature_attacks_bound_the_change_and_not_the_image(images: Scans, attack, name: str) -> None:
    found = attack(f"{name}:epsilon=0.05,step=1")
    assert found.linf.max() <= 0.05 + 1e-6
    assert found.images.max() > 0.9  # the image is still there
    layers = [attack(f"{name}:epsilon=0.05,depth={depth}").images for depth in (0, 1)]
    assert (layers[0] != layers[1]).any()


def test_fia_weakens_and_ila_moves_the_middle_layer(net: torch.nn.Module, images: Scans, attack) -> None:
    layer = middle_layer(net, torch.from_numpy(as_input(images)), 0.5)

    def change(found: Attacked) -> torch.Tensor:
        given = (images[found.source], found.images)
        with torch.no_grad():
            clean, now = (features_of(net, layer, torch.from_numpy(as_input(x)))[0] for x in given)
        return (now - clean).flatten(1)

    way = change(attack("bim:epsilon=0.05,step=0.01"))
    pushed = change(attack("ila:epsilon=0.05,step=0.01,base_epsilon=0.05,base_step=0.01"))
    further = (pushed * way).sum(dim=1) / (way**2).sum(dim=1)  # 1: as far along BIM's way as BIM itself
    assert further.min() > 1 and further.mean() > 1.1
    noise = attack("fia:epsilon=0.05,step=0.01,masks=1,drop=1")  # all black: no importance to learn from an image
    assert attack("fia:epsilon=0.05,step=0.01").success.mean() > noise.success.mean()


def test_the_middle_layer_is_in_the_order_of_running() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Conv2d(2, 1, 1)
            self.first = torch.nn.Conv2d(1, 2, 1)
            self.never = torch.nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(self.last(self.first(x)), 1)

    net, image = Odd(), torch.rand(3, 1, 4, 4)
    assert middle_layer(net, image, 0) is net.first
    assert middle_layer(net, image, 0.5) is net.last is middle_layer(net, image, 1)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    assert middle_layer(flat, image, 0.5) is flat[1]
    assert not net.first._forward_hooks


def test_a_net_that_runs_no_layers_has_no_middle() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x.mean(dim=(1, 2)), self.unused.weight)

    with pytest.raises(InputError, match="runs no layers"):
        middle_layer(Own(), torch.rand(1, 1, 4, 4), 0.5)


def test_one_pixel_changes_at_most_its_pixels_and_nothing_else(
    net: torch.nn.Module, images: Scans, labels: Labels
) -> None:
    found = run_attack(net, images[:24], labels[:24], "one-pixel:pixels=3,iterations=3")
    changed = (found.images != np.moveaxis(as_input(images), 1, 3)[found.source]).any(axis=3).sum(axis=(1, 2))
    assert 0 < changed.max() <= 3 and found.success.any()
    assert (changed[~found.success] == 0).all()


def test_square_gets_stronger_with_queries_and_works_on_two_classes(
    net: torch.nn.Module, images: Scans, attack
) -> None:
    assert attack("square:epsilon=0.1,queries=100").success.sum() > attack("square:epsilon=0.1,queries=3").success.sum()
    torch.manual_seed(0)
    two = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2)).eval()
    truth = two(torch.from_numpy(as_input(images))).argmax(1).numpy()
    assert run_attack(two, images, truth, "square:epsilon=0.2,queries=20").success.any()
    assert run_attack(two, images[:8], truth[:8], "one-pixel:iterations=2").success.any()


@pytest.mark.parametrize("edge", [np.s_[:, 0, -1, :], np.s_[:, 0, :, -1], np.s_[:, 0, 0, :]])
def test_squares_reach_every_edge_of_the_image(edge: tuple[Any, ...]) -> None:
    class Edge(torch.nn.Module):
        """Sees one edge alone and gives way where nearly all of it is brighter."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            risen = (x[edge] - 0.5).mean(dim=1)
            return torch.stack([torch.full_like(risen, 0.09), risen], dim=1)

    torch.manual_seed(0)
    grey = torch.full((20, 1, 10, 12), 0.5)
    found = square(Edge(), grey, torch.zeros(20, dtype=torch.long), epsilon=0.1, queries=1500, share=0.3)
    assert (Edge()(found).argmax(1) == 1).all()
    assert (found - grey).abs().max() <= 0.1 + 1e-6


def test_squares_differ_from_image_to_image_and_halve_as_the_paper_says(net: torch.nn.Module, images: Scans) -> None:
    given = torch.from_numpy(as_input(images))[:1].repeat(6, 1, 1, 1)
    truth = net(given).argmax(1)
    found = square(net, given, truth, epsilon=0.02, queries=5, share=0.8)
    assert len(found.unique(dim=0)) == 6
    spent = (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999)
    shares = [0.8 / share_at(queries / 10_000, 0.8) for queries in spent]
    assert shares == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512]


def test_square_is_as_strong_as_the_toolbox_was_on_digits(attack) -> None:
    """Of the toolbox's own: 0.33 after 100 and 0.75 after 500 queries (means of two seeds, 115 digits)."""
    assert attack("square:epsilon=0.1,queries=100").success.mean() > 0.3
    assert attack("square:epsilon=0.1,queries=500").success.mean() > 0.7


def test_without_the_toolbox_the_line_says_what_to_install(
    net: torch.nn.Module, images: Scans, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "art", None)
    with pytest.raises(MissingError, match=r"art is needed to attack the original .* pip install 'pdtool\[evaluate\]'"):
        run_attack(net, images, labels, "one-pixel")
    assert run_attack(net, images[:4], labels[:4], "jsma").success.any()
