"""Detectors to compare with: each finds what its paper says it finds, from clean images alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pdtool.compress.models import ModelSpec, build
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attacks import run_attack
from pdtool.evaluation.detector_forward import halves_by_class, layers, probabilities
from pdtool.evaluation.detector_lid import estimate
from pdtool.evaluation.detector_mahalanobis import _gaussian, _nearest
from pdtool.evaluation.detectors import DETECTORS, Fitted, fit_detector
from pdtool.evaluation.metrics import auroc
from pdtool.images import as_input

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]

# an attack that each should find, and the least AUROC: far more than the 0.5 of chance, less than what is measured
FITTING = {
    "softmax": ("deepfool:steps=20", 0.9),
    "squeezing": ("deepfool:steps=20", 0.9),
    "lid": ("deepfool:steps=20", 0.75),
    "mahalanobis": ("pgd:epsilon=0.2,step=0.04,steps=10", 0.75),
}


@pytest.fixture(scope="module")
def fitted(net: nn.Module, scans: tuple[Scans, Labels]) -> dict[str, Fitted]:
    images, labels = scans
    return {name: fit_detector(name, net, images[:800], labels[:800], seed=1) for name in DETECTORS}


@pytest.fixture(scope="module")
def clean(scans: tuple[Scans, Labels]) -> Scans:
    """Scans that nothing was trained or fitted on, nor attacked."""
    return scans[0][1100:1500]


def test_every_detector_is_tried() -> None:
    assert FITTING.keys() == DETECTORS.keys()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_fitting_attack_scores_higher_than_clean_images(
    net: nn.Module, images: Scans, labels: Labels, clean: Scans, fitted: dict[str, Fitted], name: str
) -> None:
    attack, least = FITTING[name]
    attacked = run_attack(net, images, labels, attack)
    assert attacked.success.sum() > 30
    area = auroc(fitted[name].score(clean), fitted[name].score(attacked.images[attacked.success]))
    assert area is not None and area > least


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_belongs_to_its_image(clean: Scans, fitted: dict[str, Fitted], name: str) -> None:
    whole = fitted[name].score(clean[:70], batch=70)
    assert whole.shape == (70,) and np.isfinite(whole).all()
    assert np.allclose(fitted[name].score(clean[:70], batch=7), whole, rtol=1e-4, atol=1e-6)
    backwards = fitted[name].score(clean[69::-1], batch=32)[::-1]
    assert np.allclose(backwards, whole, rtol=1e-4, atol=1e-6)
    as_floats = (clean[:70] / np.float32(255)).astype(np.float32)
    assert np.allclose(fitted[name].score(as_floats), whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["lid", "mahalanobis"])
def test_one_seed_one_detector(
    net: nn.Module, scans: tuple[Scans, Labels], clean: Scans, fitted: dict[str, Fitted], name: str
) -> None:
    images, labels = scans
    again = fit_detector(name, net, images[:800], labels[:800], seed=1)
    other = fit_detector(name, net, images[:800], labels[:800], seed=2)
    first = fitted[name].score(clean[:50])
    assert again.score(clean[:50]).tobytes() == first.tobytes()
    assert other.score(clean[:50]).tobytes() != first.tobytes()
    assert again.n_fit == 800


@pytest.mark.parametrize("name", DETECTORS)
def test_passes_are_what_the_original_really_runs(
    net: nn.Module, clean: Scans, fitted: dict[str, Fitted], name: str
) -> None:
    ran = []
    hook = net.register_forward_hook(lambda module, inputs, output: ran.append(len(output)))
    fitted[name].score(clean[:40], batch=16)
    hook.remove()
    assert sum(ran) == 40 * DETECTORS[name].passes


@pytest.mark.parametrize("name", DETECTORS)
def test_images_of_another_size_are_refused(clean: Scans, fitted: dict[str, Fitted], name: str) -> None:
    with pytest.raises(InputError, match=r"fitted on images of shape \(16, 16, 1\), got \(16, 15, 1\)"):
        fitted[name].score(clean[:, :, :15])


def test_only_fitted_detectors_say_so(fitted: dict[str, Fitted]) -> None:
    assert {name: made.n_fit for name, made in fitted.items()} == {
        "softmax": 0,
        "squeezing": 0,
        "lid": 800,
        "mahalanobis": 800,
    }


def test_unknown_names_and_too_few_images_are_refused(net: nn.Module, scans: tuple[Scans, Labels]) -> None:
    images, labels = scans
    with pytest.raises(UsageError, match="unknown detector 'lidd'; expected one of softmax, squeezing, lid"):
        fit_detector("lidd", net, images, labels)
    for name in ("lid", "mahalanobis"):
        with pytest.raises(InputError, match="at least 40 clean images to fit a detector on, got 39"):
            fit_detector(name, net, images[:39], labels[:39])


def test_few_images_are_enough_for_finite_scores(net: nn.Module, scans: tuple[Scans, Labels], clean: Scans) -> None:
    """Forty images, twenty a half: fewer than one minibatch, than the covariance's dimensions, than two a class."""
    images, labels = scans
    for name in ("lid", "mahalanobis"):
        assert np.isfinite(fit_detector(name, net, images[:40], labels[:40]).score(clean[:20])).all()


@pytest.mark.parametrize(
    ("spec", "widths"),
    [
        # stem, then two convolutions a block, the shortcuts sharing their input with the first
        ("resnet18:width=4,classes=5,input=3x32x32", [4] * 5 + [8] * 4 + [16] * 4 + [32] * 4 + [5]),
        ("vgg16:width=4,classes=5,input=3x32x32", [4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32, 5]),
        ("lenet5:classes=5,input=1x32x32", [6, 400, 120, 84, 5]),
    ],
)
def test_layers_are_found_in_every_built_in_net(spec: str, widths: list[int]) -> None:
    net = build(ModelSpec.parse(spec))
    channels = int(spec[spec.index("input=") + 6])
    planes = np.random.default_rng(0).random((3, channels, 32, 32), dtype=np.float32)
    found = layers(net, planes)
    # the last convolution's output goes through a mean into the linear layer
    assert [layer.shape for layer in found] == [(3, width) for width in widths]
    assert net.training and not any(module._forward_pre_hooks for module in net.modules())


def test_layers_are_the_averaged_inputs_and_the_logits() -> None:
    torch.manual_seed(0)
    first, second, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 2)
    net = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    planes = np.random.default_rng(0).random((6, 3, 9, 9), dtype=np.float32)
    with torch.no_grad():
        inner = torch.relu(first(torch.from_numpy(planes)))
        outer = torch.relu(second(inner)).mean(dim=(2, 3))
        wanted = [inner.mean(dim=(2, 3)), outer, last(outer)]
    for layer, tensor in zip(layers(net, planes), wanted, strict=True):
        assert np.allclose(layer, tensor.numpy(), atol=1e-6)


def test_layers_of_a_net_of_the_users_own() -> None:
    """Tokens, a layer called twice, one never called, one too wide, and a batch folded into another."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.mix, self.never = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 8), nn.Linear(3, 3)
            self.wide, self.out = nn.Linear(2049, 2), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.cut(x).flatten(2).transpose(1, 2)
            tokens = self.mix(torch.relu(self.mix(tokens)))
            self.wide(tokens.new_zeros(len(x), 2049))
            self.mix(tokens.reshape(-1, 8))
            pooled: torch.Tensor = self.out(tokens.mean(1))
            return pooled

    found = layers(Odd(), np.zeros((5, 1, 8, 8), dtype=np.float32))
    assert [layer.shape for layer in found] == [(5, 8), (5, 8), (5, 8), (5, 4)]


def test_lid_is_the_paper_s_estimate() -> None:
    rng = np.random.default_rng(0)
    points, references = rng.normal(size=(7, 3)), rng.normal(size=(2, 50, 3))
    slow = []
    for point in points:
        each = []
        for batch in references:
            nearest = np.sort(np.linalg.norm(batch - point, axis=1))[:20]
            each.append(-1 / np.mean(np.log(nearest / nearest[-1])))
        slow.append(np.mean(each))
    assert np.allclose(estimate(points, references), slow)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_lid_measures_the_dimension_that_the_points_lie_in(dimension: int) -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(10, dimension)))[0]
    cube = rng.uniform(-1, 1, size=(4000, dimension)) @ basis.T
    inside = rng.uniform(-0.3, 0.3, size=(200, dimension)) @ basis.T
    assert estimate(inside, cube[None]).mean() == pytest.approx(dimension, rel=0.15)


def test_lid_of_a_dead_layer_and_of_equal_distances_is_finite() -> None:
    assert (estimate(np.zeros((3, 4)), np.zeros((2, 30, 4))) == 0).all()
    assert (estimate(np.full((3, 4), 0.1), np.full((2, 30, 4), 0.1)) == 0).all()  # and none of rounding
    assert estimate(np.zeros((1, 4)), np.eye(4).repeat(10, axis=0)[None]).tolist() == [40]


def test_lid_finds_outliers_though_many_images_leave_the_layer_dead() -> None:
    """Three in ten images are too dark for the first layer; the others lie on a line, attacked ones beside it."""
    rng = np.random.default_rng(0)

    def images(count: int, dead: float) -> NDArray[np.float32]:
        line = 0.55 + 0.4 * rng.random((count, 1)) * np.array([1.0, 0.6, 0.3, 0.9])
        dark = rng.random((count, 1)) < dead
        return np.where(dark, 0.3 + 0.1 * rng.random((count, 4)), line).reshape(-1, 2, 2, 1).astype(np.float32)

    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    with torch.no_grad():
        for layer, bias in ((first, -0.5), (second, 0.0)):
            layer.weight.copy_(torch.eye(4))
            layer.bias.fill_(bias)
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second).eval()
    fitted = fit_detector("lid", net, images(800, 0.3), np.zeros(800, dtype=np.int64))
    beside = images(200, 0) + (0.03 * rng.standard_normal((200, 2, 2, 1))).astype(np.float32)
    clean, found = fitted.score(images(400, 0.3)), fitted.score(beside)
    assert (found > np.quantile(clean, 0.9)).mean() > 0.8


def test_mahalanobis_is_the_distance_under_the_tied_covariance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 400)
    layer = rng.normal(size=(1200, 4)) @ rng.normal(size=(4, 4)) + 5 * labels[:, None]
    whiten, means = _gaussian(layer, labels)
    centres = np.stack([layer[labels == k].mean(0) for k in range(3)])
    precision = np.linalg.inv(np.cov((layer - centres[labels]).T, bias=True))
    points = rng.normal(size=(20, 4)) * 8
    slow = [min((p - c) @ precision @ (p - c) for c in centres) for p in points]
    assert np.allclose(_nearest(points, whiten, means), slow, rtol=0.05)  # shrunk a little towards a sphere


def test_the_distance_to_the_nearest_class_is_exact_far_from_the_origin() -> None:
    rng = np.random.default_rng(0)
    means, points = 1e5 + rng.normal(size=(7, 5)), 1e5 + rng.normal(size=(30, 5))
    slow = [min(((p - m) ** 2).sum() for m in means) for p in points]
    assert np.allclose(_nearest(points, np.eye(5), means), slow, rtol=1e-6)
    assert (_nearest(means, np.eye(5), means) >= 0).all()


def test_halves_share_every_class_evenly() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([3, 1, 7, 4], [20, 5, 2, 1]))
    inside, outside = halves_by_class(labels, 0)
    assert sorted([*inside, *outside]) == list(range(28)) and len(inside) == 14
    for label in (3, 1, 7, 4):
        assert abs((labels[inside] == label).sum() - (labels[outside] == label).sum()) <= 1
    assert inside.tolist() != halves_by_class(labels, 1)[0].tolist()


def test_mahalanobis_needs_two_images_a_class(net: nn.Module, scans: tuple[Scans, Labels]) -> None:
    many = np.arange(60) % 20
    with pytest.raises(InputError, match="at least 2 images a class, on average, .* got 30 images of 20 classes"):
        fit_detector("mahalanobis", net, scans[0][:60], many)
    assert fit_detector("mahalanobis", net, scans[0][:80], np.arange(80) % 20).n_fit == 80


def test_softmax_keeps_the_order_of_sure_answers() -> None:
    """In float32 the largest probabilities of both are 1."""

    class Sure(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[:, 0, 0, 0] * 100, torch.zeros(len(x))], dim=1)

    planes = as_input(np.array([0.8, 0.5, 0.9], dtype=np.float32).reshape(3, 1, 1, 1))
    assert (probabilities(Sure(), planes).max(axis=1) == 1).all()
    scores = fit_detector("softmax", Sure(), planes, np.zeros(3, dtype=np.int64)).function(planes)
    assert scores.argsort().tolist() == [2, 0, 1]


def test_squeezing_is_the_largest_move(net: nn.Module, clean: Scans) -> None:
    scores = fit_detector("squeezing", net, clean, np.zeros(len(clean), dtype=np.int64)).score(clean[:30])
    pixels = clean[:30].astype(np.float64) / 255
    poorer = np.floor(pixels * 31 + 0.5) / 31
    padded = np.pad(pixels, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="symmetric")
    window = np.stack([padded[:, i : i + 16, j : j + 16] for i in (0, 1) for j in (0, 1)])
    smooth = np.sort(window, axis=0)[2]
    given = [probabilities(net, as_input(of.astype(np.float32))) for of in (pixels, poorer, smooth)]
    slow = np.maximum(np.abs(given[1] - given[0]).sum(1), np.abs(given[2] - given[0]).sum(1))
    assert np.allclose(scores, slow, atol=1e-4)
