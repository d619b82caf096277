"""Screening with a real bundle: the same verdicts whatever the batch, the budget or the route."""

import weakref

import numpy as np
import pytest

from pdtool.calibration.rules import Settings
from pdtool.calibration.table import replay, table_of
from pdtool.data import load_data
from pdtool.errors import GateError, InputError, UsageError
from pdtool.export.bundle import export_pool
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.calibrate import calibrate_bundle
from pdtool.runtime.need import need
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes

SIZE = (1, 32, 32)


@pytest.fixture(scope="module")
def images():
    clean = load_data("digits", SIZE, role="test", limit=60).images
    noise = np.random.default_rng(0).integers(0, 256, clean.shape, dtype=np.uint8)
    return np.concatenate([clean, (clean // 2 + noise // 2).astype(np.uint8)])  # some clear, some flagged, some hard


def facts(verdicts):
    return [(v.label, v.verdict, v.models_used, v.changes, v.corrected_label) for v in verdicts]


@pytest.fixture(scope="module")
def packed(workshop, tmp_path_factory):
    """The workshop's pool with three members a file, calibrated."""
    folder = tmp_path_factory.mktemp("packed") / "bundle"
    export_pool(workshop / "pool", folder, pack=3)
    clean = load_data("digits", SIZE, role="calibrate")
    calibrate_bundle(folder, lambda size: clean, Settings(), target_fpr=0.15, confidence=0.95, seed=0)
    return folder


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("kind", ["alone", "packed"])
def test_verdicts_are_the_tables_answers_to_all_votes(workshop, packed, images, kind, tight, threads):
    folder = packed if kind == "packed" else workshop / "bundle"
    opened = open_bundle(folder)
    needed = need(opened.bundle.original, opened.bundle.members)
    budget = needed.least if tight else None
    with Screener.open(folder, seed=5, memory_budget=budget, threads=threads) as screener:
        verdicts = screener.screen(images)
        for image, verdict in zip(images[:20], verdicts, strict=False):
            assert facts(screener.screen(image[None])) == facts([verdict])
        order = [model.id for model in screener.residency.order]
        assert screener.residency.counters.peak_bytes <= (needed.everything if budget is None else budget)
        assert (screener.residency.counters.evictions > 0) == tight
        files = 1 + len({model.file.path for model in opened.bundle.members})
        assert tight or screener.residency.counters.loads <= files
    assert screener.residency.reserved == 0
    assert opened.calibration is not None
    votes = collect_votes(opened, images)
    columns = [[m.id for m in opened.bundle.members].index(name) for name in order]
    flagged, used = replay(table_of(opened.calibration), votes.evidence.changed[:, columns])
    assert {"clean", "adversarial"} == {v.verdict for v in verdicts}
    for i, verdict in enumerate(verdicts):
        assert verdict.label == opened.bundle.classes[votes.original[i]]
        assert (verdict.verdict == "adversarial", verdict.models_used) == (flagged[i], used[i])
        assert verdict.changes == votes.evidence.changed[i, columns[: used[i]]].sum()
        assert verdict.evidence == verdict.changes / verdict.models_used
        if flagged[i]:
            asked = votes.members[i, columns[: used[i]]]
            assert verdict.corrected_label == opened.bundle.classes[np.bincount(asked).argmax()]
        else:
            assert verdict.corrected_label is None


def test_batches_single_frames_and_small_budgets_give_the_same_verdicts(workshop, images):
    opened = open_bundle(workshop / "bundle")
    least = need(opened.bundle.original, opened.bundle.members).least
    with Screener.open(workshop / "bundle", seed=5) as screener:
        expected = facts(screener.screen(images))
        one_by_one = [verdict for image in images[:40] for verdict in screener.screen(image[None])]
        assert facts(one_by_one) == expected[:40]
    with Screener.open(workshop / "bundle", memory_budget=least, seed=5) as screener:
        assert facts(screener.screen(images)) == expected
        assert screener.residency.counters.evictions > 0
        assert screener.residency.counters.peak_bytes <= least
        assert screener.plan().stays == 0
    assert screener.residency.reserved == 0


def test_the_order_is_secret_unless_seeded(workshop):
    orders = set()
    for seed in (7, 7, None, None, None):
        with Screener.open(workshop / "bundle", seed=seed) as screener:
            orders.add(tuple(model.id for model in screener.residency.order))
    assert 2 <= len(orders) <= 4  # the two seeded ones agree


def test_rotating_the_order(workshop, images):
    with Screener.open(workshop / "bundle", seed=5, rotate=10) as screener:
        orders = set()
        for image in images[:35]:
            screener.screen(image[None])
            orders.add(tuple(model.id for model in screener.residency.order))
    assert len(orders) == 4


def test_pictures_of_other_sizes_and_colours_are_converted(workshop):
    digits = load_data("digits", (1, 32, 32), role="test", limit=5).images
    large = [np.repeat(np.repeat(d, 3, axis=0), 3, axis=1) for d in digits]
    colour = [np.repeat(d, 3, axis=2) for d in large]
    flat = [d[..., 0] for d in large]
    with Screener.open(workshop / "bundle", seed=1) as screener:
        assert facts(screener.screen(large)) == facts(screener.screen(flat)) == facts(screener.screen(colour))
        assert [v.label for v in screener.screen(large)] == [v.label for v in screener.screen(digits)]


def test_one_bad_picture_is_unscreened_and_harms_no_other(workshop, images):
    pictures = list(images[:6].astype(np.float32) / 255)
    expected = None
    with Screener.open(workshop / "bundle", seed=5) as screener:
        expected = facts(screener.screen(list(pictures)))
        pictures[2] = np.full_like(pictures[2], np.nan)
        pictures[4] = np.zeros((3, 3, 7), dtype=np.float32)
        verdicts = screener.screen(pictures)
    for i, verdict in enumerate(verdicts):
        if i in (2, 4):
            assert (verdict.verdict, verdict.label, verdict.models_used) == ("unscreened", None, 0)
            assert verdict.reason
        else:
            assert facts([verdict]) == [expected[i]]


def test_empty_and_wrong_batches(workshop):
    with Screener.open(workshop / "bundle") as screener:
        assert screener.screen(np.zeros((0, 32, 32, 1), dtype=np.uint8)) == []
        with pytest.raises(InputError, match=r"\(N, H, W, C\)"):
            screener.screen(np.zeros((32, 32), dtype=np.uint8))
        (verdict,) = screener.screen([np.zeros((32, 32), dtype=np.int64)])  # type: ignore[list-item]  # what a user may pass
        assert "int64" in str(verdict.reason)


def test_what_is_no_array_is_named(workshop, images):
    image_module = pytest.importorskip("PIL.Image")
    picture = image_module.fromarray(images[0, :, :, 0])
    with Screener.open(workshop / "bundle", seed=5) as screener:
        expected = facts(screener.screen(images[:1]))
        for bad in (picture, "photos", b"photos", 7, {"a": images[0]}):
            with pytest.raises(InputError, match=f"iterable of pictures, got {type(bad).__name__}"):
                screener.screen(bad)  # type: ignore[arg-type]  # what a user may pass
        mixed = screener.screen([picture, images[0], [[0, 1], [2, 3]]])  # type: ignore[list-item]
    assert [v.verdict == "unscreened" for v in mixed] == [True, False, True]
    assert facts(mixed[1:2]) == expected
    assert "NumPy array, got Image; numpy.asarray" in str(mixed[0].reason)
    assert "NumPy array, got list" in str(mixed[2].reason)


def test_large_frames_do_not_wait_for_their_batch(workshop):
    """Whatever the batch, at most the frame that is read and the one before it are held in full size."""
    held, most = set(), 0

    def frames():
        nonlocal most
        for i in range(40):
            image = np.full((480, 640, 3), i, dtype=np.uint8)
            held.add(i)
            weakref.finalize(image, held.discard, i)
            most = max(most, len(held))
            yield image
            del image

    with Screener.open(workshop / "bundle", seed=5) as screener:
        assert screener.opened.bundle.measured_batch > 8
        verdicts = screener.screen(frames())
    assert len(verdicts) == 40 and {v.verdict for v in verdicts} <= {"clean", "adversarial"}
    assert most <= 2


@pytest.mark.parametrize("budget", ["1", "1KiB", 1000])
def test_a_budget_that_cannot_work_is_refused_before_the_first_frame(workshop, budget):
    with pytest.raises(GateError, match="too small"):
        Screener.open(workshop / "bundle", memory_budget=budget)


@pytest.mark.parametrize("budget", ["0", 0, -5, "12 potatoes"])
def test_a_budget_that_is_no_size(workshop, budget):
    with pytest.raises(UsageError, match="memory budget"):
        Screener.open(workshop / "bundle", memory_budget=budget)


def test_a_budget_beyond_any_number_is_no_limit_and_no_bug(workshop):
    with Screener.open(workshop / "bundle", memory_budget="9" * 400) as screener:
        assert screener.plan().stays == 8


def test_an_uncalibrated_bundle_is_refused_with_the_cure(workshop):
    with pytest.raises(InputError, match="pdtool calibrate"):
        Screener.open(workshop / "plain")


def test_a_closed_screener_is_closed(workshop, images):
    screener = Screener.open(workshop / "bundle", seed=5)
    screener.screen(images[:3])
    screener.close()
    screener.close()
    with pytest.raises(RuntimeError, match="closed"):
        screener.screen(images[:3])
    assert screener.residency.reserved == 0
