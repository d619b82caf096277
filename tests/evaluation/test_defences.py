"""Defences that change the image: bounded, seeded, harmless where there is nothing to change, useful where there is."""

import io
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pdtool.errors import InputError
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.attacks import run_attack
from pdtool.evaluation.defence_bit_depth import bit_depth
from pdtool.evaluation.defence_jpeg import do_jpeg, jpeg
from pdtool.evaluation.defence_median import median
from pdtool.evaluation.defence_quilting import _beyond_cut, patch_library, quilt
from pdtool.evaluation.defence_total_variation import objective, total_variation
from pdtool.evaluation.defences import Defence, accuracy_of, accuracy_under, defences, defend

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]
Floats = NDArray[np.float32]

NAMES = ("median", "bit-depth", "jpeg", "do-jpeg", "total-variation", "quilting")


@pytest.fixture(scope="module")
def table(scans: tuple[Scans, Labels]) -> dict[str, Defence]:
    return defences(scans[0][:800], patches=4000)


@pytest.fixture(scope="module")
def attacked(net: torch.nn.Module, images: Scans, labels: Labels) -> Attacked:
    return run_attack(net, images, labels, "deepfool:steps=20")


@pytest.fixture(scope="module")
def noise() -> Floats:
    """Coloured pictures of neither one tile nor one size."""
    return np.random.default_rng(0).random((5, 19, 26, 3), dtype=np.float32)


def test_the_table_is_complete(table: dict[str, Defence]) -> None:
    assert tuple(table) == NAMES
    assert all(name == row.name for name, row in table.items())


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_images(noise: Floats, name: str) -> None:
    row = defences(noise, patches=300)[name]
    before = noise.copy()
    changed = defend(row, noise)
    assert changed.shape == noise.shape and changed.dtype == np.float32
    assert changed.min() >= 0 and changed.max() <= 1
    assert (changed != noise).mean() > 0.5
    assert (noise == before).all()
    assert defend(row, noise[:0]).shape == (0, *noise.shape[1:])
    as_bytes = (noise * 255).astype(np.uint8)
    as_floats = (as_bytes / np.float32(255)).astype(np.float32)
    # the last bit of a value may choose another level
    assert np.isclose(defend(row, as_bytes), defend(row, as_floats), atol=1e-4).mean() > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_one_image(noise: Floats, name: str) -> None:
    row = defences(noise, patches=300, seed=3)[name]
    if name == "quilting":
        row = replace(row, settings={**row.settings, "neighbours": 5})
    first = defend(row, noise, seed=1)
    again = replace(defences(noise, patches=300, seed=3)[name], settings=row.settings)
    assert defend(again, noise, seed=1).tobytes() == first.tobytes()
    assert (defend(row, noise, seed=2).tobytes() != first.tobytes()) == row.random


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grey", [0, 132 / 255, 1])  # 132 lies on one of the 32 levels within half a grey level
def test_a_flat_image_stays_flat(name: str, grey: float) -> None:
    flat = np.full((2, 16, 18, 1), grey, dtype=np.float32)
    changed = defend(defences(flat, patches=50)[name], flat)
    assert np.ptp(changed) < 1e-5
    # a JPEG block's mean is stored in steps of the table's first entry over 8
    assert np.abs(changed - grey).max() < {"jpeg": 1, "do-jpeg": 2}.get(name, 0.5) / 255


@pytest.mark.parametrize("name", NAMES)
def test_attacked_images_are_recognised_again(
    net: torch.nn.Module, attacked: Attacked, table: dict[str, Defence], scans: tuple[Scans, Labels], name: str
) -> None:
    behind = accuracy_under(table[name], net, attacked)
    assert behind.count == attacked.success.sum() > 30
    assert behind.share is not None and behind.share > 0.3
    images, labels = scans[0][1100:1300], scans[1][1100:1300]
    clean = accuracy_of(table[name], net, images, labels)
    plain = accuracy_of(None, net, images, labels)
    assert clean.share is not None and plain.share is not None and clean.share > plain.share - 0.1


def test_without_a_defence_what_fooled_the_net_fools_it(net: torch.nn.Module, attacked: Attacked) -> None:
    assert accuracy_under(None, net, attacked).events == 0
    none = replace(attacked, success=np.zeros_like(attacked.success))
    assert accuracy_under(None, net, none).count == 0


def test_only_what_fooled_the_net_counts(net: torch.nn.Module, attacked: Attacked, table: dict[str, Defence]) -> None:
    half = replace(attacked, success=attacked.success & (np.arange(len(attacked)) % 2 == 0))
    counted = accuracy_under(table["median"], net, half)
    kept = half.success
    alone = accuracy_of(table["median"], net, half.images[kept], half.labels[kept])
    assert counted == alone and counted.count < attacked.success.sum()


def test_median_is_the_median_of_each_window(noise: Floats) -> None:
    padded = np.pad(noise, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    window = np.stack([padded[:, i : i + 19, j : j + 26] for i in range(3) for j in range(3)])
    assert (median(noise, size=3) == np.median(window, axis=0)).all()


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_bit_depth_leaves_that_many_levels(bits: int) -> None:
    ramp = np.linspace(0, 1, 3000, dtype=np.float32).reshape(1, 50, 60, 1)
    reduced = bit_depth(ramp, bits=bits)
    assert len(np.unique(reduced)) == 2**bits
    assert np.abs(reduced - ramp).max() <= 0.5 / (2**bits - 1) + 1e-6
    assert (bit_depth(reduced, bits=bits) == reduced).all()


def test_jpeg_is_pillow_s(noise: Floats) -> None:
    pixels = np.rint(noise * 255).astype(np.uint8)
    made = jpeg(noise, quality=75)
    for picture, image in zip(pixels, made, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=75)
        assert (np.asarray(Image.open(file)) == np.rint(image * 255)).all()
    assert np.abs(jpeg(noise, quality=95) - noise).mean() < np.abs(made - noise).mean()


def test_do_jpeg_quantises_with_its_table(monkeypatch: pytest.MonkeyPatch, noise: Floats) -> None:
    files: list[io.BytesIO] = []
    really_open = Image.open

    def spy(file: io.BytesIO) -> Any:
        files.append(file)
        return really_open(file)

    monkeypatch.setattr(Image, "open", spy)
    do_jpeg(noise[:1], low=25, high=30, band=4)
    read: Any = really_open(files[0])
    wanted = np.full((8, 8), 30)
    wanted[:4, :4] = 25
    assert read.quantization.keys() == {0, 1}
    for table in read.quantization.values():
        assert (np.array(table).reshape(8, 8) == wanted).all()
    assert [part[1:3] for part in read.layer] == [(1, 1)] * 3  # colours not thinned out


def test_do_jpeg_takes_small_changes_of_high_frequency() -> None:
    """Stripes a pixel wide, by three grey levels."""
    stripes = np.tile(np.array([0.5, 0.5 + 3 / 255], dtype=np.float32), (1, 16, 8))[..., None]
    assert np.ptp(do_jpeg(stripes, low=1, high=1, band=4)) > 1.5 / 255
    assert np.ptp(do_jpeg(stripes, low=25, high=30, band=4)) < 1e-6


@pytest.mark.parametrize("gap", [0.5, 0.04, 0.01])
def test_total_variation_of_two_pixels_is_known(gap: float) -> None:
    """Each gives up half of lambda towards the other until they meet."""
    image = np.array([0.4, 0.4 + gap], dtype=np.float32).reshape(1, 1, 2, 1)
    moved = min(0.015, gap / 2)
    made = total_variation(image, seed=0, keep=1.0, weight=0.03, steps=200)
    assert made.ravel() == pytest.approx([0.4 + moved, 0.4 + gap - moved], abs=1e-4)


def test_total_variation_has_reached_its_minimum(scans: tuple[Scans, Labels], noise: Floats) -> None:
    for images in ((scans[0][:4] / 255).astype(np.float32), noise):
        kept = np.random.default_rng(5).random((*images.shape[:3], 1)) < 0.5
        rebuild = partial(total_variation, images, seed=5, keep=0.5, weight=0.03)
        reached = objective(rebuild(steps=200), images, kept, 0.03)
        least = objective(rebuild(steps=4000), images, kept, 0.03)
        assert (reached <= least * 1.01).all()
        assert (least <= objective(images, images, kept, 0.03)).all()


def test_total_variation_knows_nothing_of_the_dropped_pixels(noise: Floats) -> None:
    dropped = np.random.default_rng(5).random((*noise.shape[:3], 1)) >= 0.5
    other = np.where(dropped, 1 - noise, noise)
    rebuild = partial(total_variation, seed=5, keep=0.5, weight=0.03, steps=20)
    assert (rebuild(noise) == rebuild(other)).all()


def test_quilting_takes_the_nearest_patch_and_nothing_else(noise: Floats) -> None:
    """Without overlap every tile is the library's nearest."""
    library = patch_library(noise, size=4, count=200, seed=0)
    images = noise[:, :16, :24]
    made = quilt(images, seed=0, library=library, overlap=0, neighbours=1)
    for row in range(0, 16, 4):
        for column in range(0, 24, 4):
            for image, result in zip(images, made, strict=True):
                tile = image[row : row + 4, column : column + 4]
                nearest = library[((library - tile) ** 2).sum(axis=(1, 2, 3)).argmin()]
                assert (result[row : row + 4, column : column + 4] == nearest).all()


def test_quilting_rebuilds_what_its_library_holds(noise: Floats) -> None:
    library = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    made = quilt(noise, seed=0, library=library.reshape(-1, 5, 5, 3).copy(), overlap=2, neighbours=1)
    assert (made == noise).all()


def test_patches_are_cut_from_the_clean_images(scans: tuple[Scans, Labels]) -> None:
    clean = scans[0][:3]
    library = patch_library(clean, size=5, count=60, seed=0)
    every = np.lib.stride_tricks.sliding_window_view(clean[..., 0], (5, 5), axis=(1, 2)).reshape(-1, 25)
    for patch in np.rint(library * 255).astype(np.uint8).reshape(-1, 25):
        assert (every == patch).all(axis=1).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_is_the_cheapest_way_down(seed: int) -> None:
    error = np.random.default_rng(seed).random((1, 5, 3), dtype=np.float32)
    ways = [[start] for start in range(3)]
    for _ in range(4):
        ways = [[*way, to] for way in ways for to in range(max(way[-1] - 1, 0), min(way[-1] + 2, 3))]
    cheapest = min(ways, key=lambda way: sum(error[0, row, column] for row, column in enumerate(way)))
    beyond = _beyond_cut(error)[0]
    assert [int(row.argmax()) for row in beyond] == cheapest
    assert (np.diff(beyond.astype(int), axis=1) >= 0).all()


def test_what_does_not_fit_is_refused(noise: Floats) -> None:
    library = patch_library(noise, size=5, count=10, seed=0)
    with pytest.raises(InputError, match=r"patches of shape \(5, 5, 3\) do not fit images of shape \(19, 26, 1\)"):
        quilt(noise[..., :1], seed=0, library=library, overlap=2, neighbours=1)
    with pytest.raises(InputError, match="at least 5x5 pixels to cut patches from"):
        defences(noise[:, :4])
