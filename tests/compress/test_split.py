from pathlib import Path

import numpy as np
import pytest

from pdtool.compress.split import Labelled, align, hold_back, preprocessing_of, spread
from pdtool.data import Dataset, load_data
from pdtool.errors import InputError

GTSRB = Path("../shared/data/gtsrb-train.tar.gz")


def dataset(labels: list[int], classes: tuple[str, ...]) -> Dataset:
    images = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 2, 2, 1)
    groups = np.arange(len(labels))
    return Dataset(
        spec="made", images=images, labels=np.array(labels, dtype=np.int64), classes=classes, groups=groups, skipped=()
    )


def test_labels_follow_the_model_s_classes() -> None:
    data = align(dataset([0, 1, 1], ("b", "d")), ("a", "b", "c", "d"))
    assert data.labels.tolist() == [1, 3, 3]
    with pytest.raises(InputError, match="class 'z' is not one of the model's 2 classes"):
        align(dataset([0, 1], ("a", "z")), ("a", "b"))


def test_a_tenth_of_every_class_is_held_back_the_same_every_time() -> None:
    data = load_data("digits", (1, 32, 32), role="train")
    labelled = align(data, data.classes)
    kept, held = hold_back(labelled, data.groups, spec="digits")
    again = hold_back(labelled, data.groups, spec="digits")[1]
    assert np.array_equal(held.images, again.images)
    assert len(kept) + len(held) == len(labelled)
    for label in range(10):
        share = (held.labels == label).sum() / (labelled.labels == label).sum()
        assert 0.08 < share < 0.12


def test_tracks_are_held_back_whole() -> None:
    labels = np.repeat([0, 1], 50).astype(np.int64)
    groups = np.repeat(np.arange(20), 5)
    images = np.repeat(groups.astype(np.uint8), 4).reshape(-1, 2, 2, 1)
    kept, held = hold_back(Labelled(images, labels), groups, spec="made")
    assert len(held) == 10 and len(np.unique(held.images)) == 2
    assert not set(np.unique(held.images)) & set(np.unique(kept.images))


@pytest.mark.skipif(not GTSRB.exists(), reason=f"{GTSRB} is not here")
def test_traffic_sign_tracks_are_held_back_whole() -> None:
    data = load_data(str(GTSRB), (3, 32, 32), role="train", limit=2000)
    assert data.labels is not None
    marked = Labelled(data.groups.astype(np.float32).reshape(-1, 1, 1, 1), data.labels)
    kept, held = hold_back(marked, data.groups, spec="gtsrb")
    assert 0.05 < len(held) / len(marked) < 0.15
    assert not set(held.images.ravel().tolist()) & set(kept.images.ravel().tolist())


def test_too_few_images_to_hold_back_are_refused() -> None:
    data = dataset([0, 0, 1, 1], ("a", "b"))
    with pytest.raises(InputError, match="too few images to hold some back; .*add images, or, in compress.*--holdout"):
        hold_back(align(data, data.classes), data.groups, spec="made")


def test_statistics_are_those_of_pixels_in_0_to_1() -> None:
    images = np.zeros((4, 3, 5, 3), dtype=np.uint8)
    images[:2, ..., 0], images[..., 1] = 255, 51
    preprocessing = preprocessing_of(images)
    assert (preprocessing.channels, preprocessing.height, preprocessing.width) == (3, 3, 5)
    assert preprocessing.mean == (0.5, 0.2, 0.0)
    assert preprocessing.std == (0.5, 0.01, 0.01)  # never 0: a constant channel is not divided by nothing
    assert preprocessing_of((images / 255).astype(np.float32)) == preprocessing


def test_samples_are_spread_over_the_classes() -> None:
    data = Labelled(np.zeros((100, 1, 1, 1), dtype=np.uint8), np.arange(100, dtype=np.int64) % 10)
    assert np.bincount(spread(data, 20).labels).tolist() == [2] * 10
    assert len(spread(data, 500)) == 100
