"""Adversarially trained nets: harder to fool at the training epsilon, and files that load like any original's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from pdtool.artifacts import Preprocessing
from pdtool.compress.models import ModelSpec, Normalised, build
from pdtool.compress.original import Original, load_original
from pdtool.compress.split import align, hold_back
from pdtool.compress.training import RECIPES, TrainingSet, accuracy, estimate_norms, fit, predict
from pdtool.data import load_data
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.adversarial_training import (
    REGIMES,
    Regime,
    _diverging,
    _fooling,
    fit_adversarially,
    train_adversarially,
)
from pdtool.evaluation.attacks import run_attack
from pdtool.images import Images

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]

EPSILON = 0.1
SPEC = ModelSpec.parse("lenet5:classes=10,input=1x16x16")
PREPROCESSING = Preprocessing(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
# the regimes at an epsilon that fools a plain net on digits, and few steps
QUICK = {
    "pgd-at": replace(REGIMES["pgd-at"], epsilon=EPSILON, step=0.05, steps=2),
    "trades": replace(REGIMES["trades"], epsilon=EPSILON, step=0.05, steps=2),
    "fast-at": replace(REGIMES["fast-at"], epsilon=EPSILON, step=1.25 * EPSILON),
}


@pytest.fixture(scope="module")
def training(scans: tuple[Scans, Labels]) -> TrainingSet:
    images, labels = scans
    return TrainingSet.of(images[:800], labels[:800], PREPROCESSING)


def robust_accuracy(net: nn.Module, images: Scans, labels: Labels) -> float:
    found = run_attack(net, images, labels, f"pgd:epsilon={EPSILON},step=0.02,steps=20")
    return float((~found.success).sum() / len(images))


def trained(regime: Regime, training: TrainingSet, *, epochs: int) -> nn.Module:
    net = build(SPEC, seed=0)
    fit_adversarially(regime, net, training, replace(RECIPES["train"], epochs=epochs), seed=0)
    return Normalised(net, PREPROCESSING).eval()


@pytest.mark.parametrize(("name", "epochs"), [("pgd-at", 20), ("trades", 12), ("fast-at", 20)])
def test_trained_nets_are_harder_to_fool(
    net: nn.Module, training: TrainingSet, scans: tuple[Scans, Labels], name: str, epochs: int
) -> None:
    images, labels = scans[0][1000:1200], scans[1][1000:1200]
    robust = trained(QUICK[name], training, epochs=epochs)
    plain, hard = robust_accuracy(net, images, labels), robust_accuracy(robust, images, labels)
    assert plain < 0.3
    assert hard > plain + 0.15
    assert (predict(robust, images) == labels).mean() > 0.8


@pytest.mark.parametrize("name", ["pgd-at", "fast-at"])
def test_batches_are_attacked_within_epsilon(net: nn.Module, training: TrainingSet, name: str) -> None:
    assert isinstance(net, Normalised)
    pixels, labels = training.pixels(slice(0, 64)), training.labels[:64]
    attacked = _fooling(QUICK[name], net.net, training, pixels, labels, torch.Generator().manual_seed(0))
    assert attacked.shape == pixels.shape and not attacked.requires_grad
    assert (attacked - pixels).abs().max() <= EPSILON + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    with torch.no_grad():
        assert F.cross_entropy(net(attacked), labels) > 3 * F.cross_entropy(net(pixels), labels)
        noise = pixels + EPSILON * torch.randn_like(pixels).sign()
        assert F.cross_entropy(net(attacked), labels) > 2 * F.cross_entropy(net(noise.clamp(0, 1)), labels)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_trades_attacks_the_answer_whatever_the_label(net: nn.Module, training: TrainingSet) -> None:
    assert isinstance(net, Normalised)
    pixels = training.pixels(slice(0, 64))
    net.train()
    attacked = _diverging(QUICK["trades"], net.net, training, pixels, torch.Generator().manual_seed(0))
    assert net.net.training
    net.eval()
    assert (attacked - pixels).abs().max() <= EPSILON + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    with torch.no_grad():
        clean = F.softmax(net(pixels), dim=1)
        noise = (pixels + EPSILON * torch.randn_like(pixels).sign()).clamp(0, 1)
        moved, by_chance = (F.kl_div(F.log_softmax(net(x), 1), clean, reduction="batchmean") for x in (attacked, noise))
    assert moved > 2 * by_chance


def test_without_beta_to_speak_of_trades_is_ordinary_training(training: TrainingSet) -> None:
    """And with much of it another net: the divergence is what is added."""
    recipe = replace(RECIPES["train"], epochs=1)
    nets = {}
    for beta in (1e-9, 6.0):
        nets[beta] = build(SPEC, seed=0)
        fit_adversarially(replace(QUICK["trades"], beta=beta), nets[beta], training, recipe, seed=0)
    plain = build(SPEC, seed=0)
    fit(plain, training, recipe, seed=0)
    apart = {
        beta: max((a - b).abs().max().item() for a, b in zip(net.parameters(), plain.parameters(), strict=True))
        for beta, net in nets.items()
    }
    assert apart[1e-9] < 1e-5 < 1e-3 < apart[6.0]


@pytest.mark.parametrize("name", REGIMES)
def test_one_seed_one_net(training: TrainingSet, name: str) -> None:
    first, again = (trained(QUICK[name], training, epochs=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    plain = build(SPEC, seed=0)
    fit(plain, training, replace(RECIPES["train"], epochs=1), seed=0)
    assert any(not torch.equal(first[f"net.{key}"], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", ["pgd-at", "trades"])
def test_batch_norm_is_measured_on_attacked_images(name: str) -> None:
    images = np.random.default_rng(0).random((12, 16, 16, 3), dtype=np.float32)
    preprocessing = Preprocessing(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.3,) * 3)
    data = TrainingSet.of(images, np.arange(12) % 3, preprocessing)
    regime = replace(QUICK[name], epsilon=0.4, step=0.4, steps=1)
    made = []
    for norm_images in (12, 6):
        net = build(ModelSpec.parse("resnet18:width=2,classes=3,input=3x16x16"))
        recipe = replace(RECIPES["train"], epochs=1, batch=4, norm_images=norm_images)
        fit_adversarially(regime, net, data, recipe, seed=0)
        assert not any(module.training for module in net.modules())
        assert all(torch.isfinite(value).all() for value in net.state_dict().values())
        made.append(net)
    first = made[0].state_dict()["bn1.running_var"].clone()
    assert not torch.equal(first, made[1].state_dict()["bn1.running_var"])
    estimate_norms(made[0], data, 12)  # on clean images: other than before
    assert not torch.allclose(first, made[0].state_dict()["bn1.running_var"], rtol=0.02)


@pytest.fixture
def original() -> Original:
    spec = ModelSpec.parse("lenet5:classes=10,input=1x32x32")
    preprocessing = replace(PREPROCESSING, height=32, width=32)
    return Original(spec, build(spec).eval(), tuple("0123456789"), preprocessing)


def test_a_trained_file_loads_like_any_original(tmp_path: Path, original: Original) -> None:
    out = tmp_path / "robust.safetensors"
    recipe = replace(RECIPES["train"], epochs=2)
    done = train_adversarially(QUICK["fast-at"], original, "digits", out, recipe=recipe, seed=2)
    loaded, notes = load_original(out)
    assert notes == ()
    assert loaded.spec == original.spec and loaded.classes == original.classes
    assert loaded.preprocessing == original.preprocessing
    assert (done.model, done.file, done.classes) == (str(original.spec), str(out), 10)
    assert done.train_images + done.accuracy_images == len(load_data("digits", (1, 32, 32), role="train").images)
    assert done.accuracy == accuracy(loaded.net, *held_back(original), original.preprocessing)
    again = tmp_path / "again.safetensors"
    train_adversarially(QUICK["fast-at"], original, "digits", again, recipe=recipe, seed=2)
    assert again.read_bytes() == out.read_bytes()
    assert b"fast-at:epsilon=0.1,step=0.125,steps=1" in out.read_bytes()[:4000]
    with pytest.raises(InputError, match="exists already"):
        train_adversarially(QUICK["fast-at"], original, "digits", out)
    with pytest.raises(InputError, match="its folder does not exist"):
        train_adversarially(QUICK["fast-at"], original, "digits", tmp_path / "none" / "robust.safetensors")
    with pytest.raises(UsageError, match="should end in .safetensors"):
        train_adversarially(QUICK["fast-at"], original, "digits", tmp_path / "robust.pt")


def held_back(original: Original) -> tuple[Images, Labels]:
    """What `train` and `compress` keep away from training too."""
    dataset = load_data("digits", (1, 32, 32), role="train")
    _, held = hold_back(align(dataset, original.classes), dataset.groups, spec="digits")
    return held.images, held.labels


def test_classes_are_the_original_s(tmp_path: Path, original: Original) -> None:
    other = Original(original.spec, original.net, tuple("abcdefghij"), original.preprocessing)
    with pytest.raises(InputError, match="is not one of the model's 10 classes"):
        train_adversarially(QUICK["fast-at"], other, "digits", tmp_path / "robust.safetensors")


@pytest.mark.parametrize("wrong", [{"epsilon": 8.0}, {"step": 0.0}, {"steps": 0}])
def test_settings_that_attack_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="regime pgd-at: expected epsilon and step in"):
        replace(REGIMES["pgd-at"], **wrong)  # type: ignore[arg-type]  # wrong on purpose
