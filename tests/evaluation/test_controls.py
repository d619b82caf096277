"""Benign changes of real scans and colour pictures: as large as they say, reproducible, mostly harmless."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pdtool.errors import UsageError
from pdtool.evaluation.controls import CONTROLS, parse_control, run_control, same_norm
from pdtool.images import Images, as_input

Scans = NDArray[np.uint8]


@pytest.fixture(scope="module")
def colour(images: Scans) -> Scans:
    """Three different scans as the colours of one picture."""
    return np.concatenate([images, np.roll(images, 1, axis=0), 255 - images], axis=3)


@pytest.mark.parametrize("kind", ["grey", "colour", "float"])
@pytest.mark.parametrize("name", CONTROLS)
def test_pictures_stay_pictures_and_a_seed_means_the_same_bytes(
    images: Scans, colour: Scans, name: str, kind: str
) -> None:
    sets: dict[str, Images] = {"grey": images, "colour": colour, "float": as_input(colour).transpose(0, 2, 3, 1)}
    given = sets[kind]
    before = given.copy()
    changed = run_control(given, name, seed=1)
    assert changed.dtype == np.float32 and changed.shape == given.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert run_control(given, name, seed=1).tobytes() == changed.tobytes()
    other = run_control(given, name, seed=2).tobytes() != changed.tobytes()
    assert other == (name in ("noise", "gaussian"))
    assert (given == before).all()
    clean = np.moveaxis(as_input(given), 1, 3)
    assert (np.abs(changed - clean).max(axis=(1, 2, 3)) > 1e-3).any() or name == "stretch"


@pytest.mark.parametrize("name", CONTROLS)
def test_no_images_are_no_images(images: Scans, name: str) -> None:
    assert run_control(images[:0], name).shape == (0, 16, 16, 1)


def test_noise_is_as_large_as_it_says() -> None:
    grey = np.full((50, 16, 16, 3), 0.5, dtype=np.float32)
    signs = run_control(grey, "noise:epsilon=8/255") - grey
    assert np.allclose(np.abs(signs), 8 / 255, atol=1e-6)
    assert abs(signs.mean()) < 1e-3
    normal = run_control(grey, "gaussian:epsilon=8/255") - grey
    assert np.allclose(np.linalg.norm(normal.reshape(50, -1), axis=1), np.linalg.norm(signs.reshape(50, -1), axis=1))
    assert normal.std() == pytest.approx(8 / 255, rel=1e-2)


def test_jpeg_is_what_pillow_writes(colour: Scans) -> None:
    file = io.BytesIO()
    Image.fromarray(colour[3]).save(file, "JPEG", quality=30)
    expected = np.asarray(Image.open(file), dtype=np.float32) / 255
    assert (run_control(colour, "jpeg:quality=30")[3] == expected).all()
    clean = colour.astype(np.float32) / 255
    error = [np.abs(run_control(colour, f"jpeg:quality={q}") - clean).mean() for q in (95, 75, 30)]
    assert error == sorted(error)


def test_blur_spreads_a_point_without_losing_light() -> None:
    point = np.zeros((2, 17, 17, 1), dtype=np.float32)
    point[0, 8, 8] = 1
    blurred = run_control(point, "blur")
    assert blurred[0].sum() == pytest.approx(1, abs=1e-4)
    assert blurred[0, 8, 8, 0] == pytest.approx(1 / (2 * np.pi), rel=0.02)  # of a Gaussian of deviation 1
    assert (blurred[1] == 0).all()


def test_stretch_uses_the_whole_range_of_each_image_and_leaves_a_flat_one() -> None:
    pictures = np.stack([np.full((4, 4, 3), 0.5), np.linspace(0.2, 0.6, 48).reshape(4, 4, 3)]).astype(np.float32)
    stretched = run_control(pictures, "stretch")
    assert (stretched[0] == 0.5).all()
    assert np.allclose(stretched[1].reshape(-1), np.linspace(0, 1, 48), atol=1e-6)


def test_contrast_keeps_the_mean_and_brightness_scales_it() -> None:
    picture = np.linspace(0.4, 0.6, 48, dtype=np.float32).reshape(1, 4, 4, 3)
    more = run_control(picture, "contrast:factor=2")
    assert more.mean() == pytest.approx(picture.mean()) and more.std() == pytest.approx(2 * picture.std())
    assert np.allclose(run_control(picture, "brightness:factor=0.5"), picture / 2)


def test_an_attacks_size_without_its_direction_fools_hardly(net: torch.nn.Module, images: Scans) -> None:
    with torch.no_grad():
        clean = net(torch.from_numpy(as_input(images))).argmax(1)
        noisy = net(torch.from_numpy(as_input(run_control(images, "noise:epsilon=0.1")))).argmax(1)
    assert (clean != noisy).float().mean() < 0.1  # PGD of this epsilon fools it on most


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fog", "unknown control 'fog'; expected one of all, same-norm, noise, gaussian"),
        ("stretch:by=1", "control stretch has no setting 'by'; it takes none"),
        ("noise:epsilon=8", "control 'noise:epsilon=8': pixels lie in"),
        ("blur:radius=x", "control 'blur:radius=x': expected a number or a fraction"),
    ],
)
def test_wrong_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_control(text)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_is_none_is_refused(images: Scans, quality: int) -> None:
    with pytest.raises(UsageError, match=f"a quality from 1 to 100, got {quality}"):
        run_control(images, f"jpeg:quality={quality}")


def test_specs_say_everything() -> None:
    assert [control.spec for control in CONTROLS.values()] == [parse_control(c.spec).spec for c in CONTROLS.values()]
    assert CONTROLS["stretch"].spec == "stretch" and CONTROLS["jpeg"].spec == "jpeg:quality=75"


def test_noise_is_as_long_as_another_change_and_goes_elsewhere() -> None:
    rng = np.random.default_rng(1)
    images = rng.choice([0, 30, 128, 220, 255], (200, 8, 8, 3)).astype(np.uint8)  # much of the noise is clipped
    before = images.astype(np.float32) / 255
    changed = before + np.linspace(0, 0.1, 200, dtype=np.float32)[:, None, None, None] * rng.choice(
        [-1, 1], before.shape
    )
    noisy = same_norm(images, changed.astype(np.float32), seed=5)
    assert noisy.shape == images.shape and noisy.dtype == np.float32 and noisy.min() >= 0 and noisy.max() <= 1
    lengths = [np.linalg.norm((of - before).reshape(200, -1), axis=1) for of in (noisy, changed)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=0.01, atol=1e-5)
    assert abs(np.corrcoef((noisy - before).ravel(), (changed - before).ravel())[0, 1]) < 0.1
    assert np.array_equal(noisy, same_norm(images, changed.astype(np.float32), seed=5))
