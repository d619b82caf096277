import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.crafting import ATTACKS, KINDS, _compressed, _gain, craft
from pdtool.compress.hardening import Hardening
from pdtool.compress.models import build
from pdtool.compress.original import Original, Trained, load_original
from pdtool.compress.split import align
from pdtool.compress.training import RECIPES, Crafted, TrainingSet, fit
from pdtool.data import load_data

STILL = replace(RECIPES["hardened"], shift=0, light=0.0)
EPSILON = 24 / 255  # digits are bolder than photographs
HARD = Hardening(epsilon=EPSILON, crafted=1.0)


@pytest.fixture(scope="module")
def original(trained: Trained) -> Original:
    return load_original(Path(trained.file))[0]


@pytest.fixture(scope="module")
def training(original: Original) -> TrainingSet:
    data = load_data("digits", (1, 32, 32), role="train")
    labelled = align(data, data.classes)
    return TrainingSet.of(labelled.images[:400], labelled.labels[:400], original.preprocessing)


def crafted_of(original: Original, training: TrainingSet, hardening: Hardening, *, seed: int = 0) -> Crafted:
    count = round(hardening.crafted * len(training))
    return craft([original.net], training, hardening, STILL, seed=seed, count=count)


def right(original: Original, training: TrainingSet, crafted: Crafted) -> Tensor:
    """Which of the crafted images the original labels rightly."""
    with torch.no_grad():
        pixels = crafted.images.permute(0, 3, 1, 2).float() / 255
        labels: Tensor = original.net((pixels - training.mean) / training.std).argmax(1)
    return labels == crafted.labels


def sources(training: TrainingSet, crafted: Crafted, norm: float) -> Tensor:
    """The training image (S, H, W, C) that each crafted one is nearest to in that norm, of those of its label."""
    found = []
    for image, label in zip(crafted.images.float(), crafted.labels, strict=True):
        own = training.images[training.labels == label].float()
        found.append(own[(own - image).flatten(1).norm(norm, dim=1).argmin()])
    return torch.stack(found)


def test_the_same_seed_crafts_the_same_and_nothing_else_changes(original: Original, training: TrainingSet) -> None:
    net, state = original.net, torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one, same, other = (crafted_of(original, training, HARD, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.images, same.images) and torch.equal(one.kinds, same.kinds)
    assert not torch.equal(one.images, other.images)
    assert torch.equal(torch.get_rng_state(), state) and not net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert one.images.shape == training.images.shape and one.images.dtype == torch.uint8 and one.share == 0.5


def test_attacks_fool_the_original_and_the_rest_does_not(original: Original, training: TrainingSet) -> None:
    crafted = crafted_of(original, training, replace(HARD, crafted=3.0, epsilon=2 * EPSILON))
    ok = right(original, training, crafted)
    assert torch.equal(crafted.attacked, crafted.kinds < ATTACKS)
    shares = {KINDS[kind]: ok[crafted.kinds == kind].float().mean().item() for kind in range(len(KINDS))}
    assert max(shares["untargeted"], shares["margin"]) < 0.6
    assert min(share for kind, share in shares.items() if KINDS.index(kind) >= ATTACKS) > 0.8
    assert sorted(np.bincount(crafted.labels.numpy())) == sorted(3 * np.bincount(training.labels.numpy()))


@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_no_attack_goes_further_than_epsilon(original: Original, training: TrainingSet, l2: float) -> None:
    crafted = crafted_of(original, training, replace(HARD, benign=0.0, l2=l2))
    change = (crafted.images.float() - sources(training, crafted, 2 if l2 else math.inf)) / 255
    most, rms = change.abs().amax((1, 2, 3)), change.square().mean((1, 2, 3)).sqrt()
    rounded = 0.51 / 255
    assert rms.max() <= EPSILON + rounded
    assert (most.max() <= EPSILON + rounded) == (l2 == 0.0)
    sizes = most if l2 == 0 else rms
    assert sizes.min() < 0.3 * EPSILON and sizes.max() > 0.6 * EPSILON  # all sizes, black edges cut some


def test_benign_changes_are_as_large_and_leave_most_labels(original: Original, training: TrainingSet) -> None:
    crafted = crafted_of(original, training, replace(HARD, benign=1.0))
    assert not crafted.attacked.any() and set(crafted.kinds.tolist()) == set(range(ATTACKS, len(KINDS)))
    changed = (crafted.images.float() - sources(training, crafted, 2)).abs().amax((1, 2, 3)) / 255
    coarse = changed[crafted.kinds == KINDS.index("coarse")]
    assert (changed > 0).float().mean() > 0.95 and coarse.max() <= EPSILON + 0.51 / 255


def test_shares_are_kept_and_a_target_is_never_the_label(original: Original, training: TrainingSet) -> None:
    crafted = crafted_of(original, training, replace(HARD, crafted=8.0, benign=0.4, targeted=0.5, steps=1))
    counts = np.bincount(crafted.kinds.numpy(), minlength=len(KINDS)) / len(crafted)
    expected = [0.15, 0.15, 0.3] + [0.4 / 5] * 5
    assert counts == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(len(crafted)))


def test_targeted_images_go_to_many_labels(original: Original, training: TrainingSet) -> None:
    strong = Hardening(epsilon=0.5, steps=20, benign=0.0, targeted=1.0, crafted=1.0)
    crafted = crafted_of(original, training, strong)
    with torch.no_grad():
        pixels = crafted.images.permute(0, 3, 1, 2).float() / 255
        given = original.net((pixels - training.mean) / training.std).argmax(1)
    wrong = given[given != crafted.labels]
    assert len(wrong) > 0.4 * len(crafted)
    away = (wrong - crafted.labels[given != crafted.labels]) % 10
    assert np.bincount(away.numpy(), minlength=10)[1:].min() > 0.04 * len(wrong)


def test_what_each_attack_raises() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0]] * 3)
    labels, other = torch.tensor([0, 0, 0]), torch.tensor([2, 2, 2])
    gain = _gain(logits, labels, other, torch.arange(3))
    log_odds = F.log_softmax(logits[0], dim=0)
    assert gain.tolist() == pytest.approx([-log_odds[0].item(), 1.0 - 2.0, log_odds[2].item()])


def test_compression_rounds_the_cosine_transform_of_blocks() -> None:
    from scipy.fft import dctn, idctn

    pixels = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    size = torch.tensor([0.02, 0.3]).reshape(2, 1, 1, 1)
    changed = _compressed(pixels, size).numpy()
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (0, 0), (0, 4)), mode="edge")
    grain = 1 + (np.arange(8)[:, None] + np.arange(8)) / 2
    for image in range(2):
        for row in (0, 8):
            for column in (0, 8):
                block = padded[image, 1, row : row + 8, column : column + 8]
                grains = size[image].item() * grain
                expected = idctn(np.round(dctn(block, norm="ortho") / grains) * grains, norm="ortho")
                width = min(8, 12 - column)
                found = changed[image, 1, row : row + 8, column : column + width]
                assert found == pytest.approx(expected[:, :width], abs=1e-4)


def test_with_another_net_beside_it_both_are_fooled(original: Original, training: TrainingSet) -> None:
    other = build(original.spec, seed=1)
    fit(other, training, replace(RECIPES["train"], epochs=8), seed=1)
    strong = replace(HARD, epsilon=2 * EPSILON, benign=0.0, targeted=0.0, l2=0.0)
    fooled = []
    for nets in ([original.net], [original.net, *[other] * 9]):  # the original alone in a tenth of the batches
        crafted = craft(nets, training, strong, STILL, seed=0, count=1600)
        second = Original(original.spec, other, original.classes, original.preprocessing)
        fooled.append([(~right(of, training, crafted)).float().mean().item() for of in (original, second)])
    assert fooled[1][1] > fooled[0][1] + 0.1  # the other
    assert min(fooled[0][0], fooled[1][0]) > 0.3  # the original, in both


def test_nets_in_training_mode_are_attacked_as_they_answer(training: TrainingSet) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 10)).train()
    craft([net], training, HARD, STILL, seed=0, count=200)
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm1d) and norm.num_batches_tracked is not None
    assert net.training and norm.num_batches_tracked.item() == 0
