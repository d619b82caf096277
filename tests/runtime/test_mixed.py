"""A bundle of several kinds of members: calibrated, screened and evaluated by the largest of the kinds' means."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pdtool.artifacts import Kind
from pdtool.calibration.kinds import kinds_of, levels, turns
from pdtool.calibration.rules import Settings
from pdtool.calibration.table import replay, table_of
from pdtool.cli.main import app
from pdtool.data import load_data
from pdtool.errors import GateError, InputError, IntegrityError
from pdtool.evaluation.screening import screen_set
from pdtool.export.bundle import export_pool
from pdtool.files import sha256_bytes
from pdtool.jsonform import canonical
from pdtool.runtime.bundle import open_bundle, write_bundle, write_calibration
from pdtool.runtime.calibrate import calibrate_bundle
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes

KINDS: tuple[Kind, ...] = ("hardened", "robust", "hardened", "plain", "hardened", "robust", "hardened", "hardened")


def of_kinds(folder, kinds=KINDS):
    """The bundle with its members said to be of these kinds."""
    opened = open_bundle(folder)
    members = tuple(
        dataclasses.replace(member, kind=kind) for member, kind in zip(opened.bundle.members, kinds, strict=True)
    )
    write_bundle(folder, dataclasses.replace(opened.bundle, members=members))


def calibrate(folder, **changes):
    settings = Settings(evidence="graded", **changes)
    return calibrate_bundle(
        folder, lambda size: load_data("digits", size, role="calibrate"), settings,
        target_fpr=0.15, confidence=0.95, seed=0, accept_miss=True,
    )  # fmt: skip


@pytest.fixture(params=["alone", "packed"])
def mixed(request, workshop, tmp_path):
    folder = tmp_path / "bundle"
    if request.param == "alone":
        shutil.copytree(workshop / "plain", folder)
    else:
        export_pool(workshop / "pool", folder, pack=3)
    of_kinds(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    clean = load_data("digits", (1, 32, 32), role="test", limit=60).images
    noise = np.random.default_rng(0).integers(0, 256, clean.shape, dtype=np.uint8)
    return np.concatenate([clean, (clean // 2 + noise // 2).astype(np.uint8)])


@pytest.mark.parametrize("most", [100, 4])
def test_verdicts_are_what_the_largest_of_the_kinds_means_says(mixed, images, most):
    done = calibrate(mixed, max_models=most)
    assert done.calibration.kinds == turns(KINDS)[:most]
    opened = open_bundle(mixed)
    with Screener.open(mixed, seed=5) as screener:
        verdicts = screener.screen(images)
        order = screener.residency.order
    asked = turns(KINDS)  # packed or not: in the order in which members were asked when it was calibrated
    assert kinds_of([model.kind for model in order]) == asked
    files = {model.file.path for model in (opened.bundle.original, *order)}
    assert screener.residency.counters.loads <= len(files)
    votes = collect_votes(opened, images, grading=done.frames.grading)
    assert votes.kinds == KINDS
    columns = [[m.id for m in opened.bundle.members].index(model.id) for model in order]
    said = votes.evidence.known()[:, columns]
    flagged, used = replay(table_of(done.calibration), said)
    assert 0 < flagged.sum() < len(flagged)
    heard = levels(said, asked)
    for i, verdict in enumerate(verdicts):
        assert (verdict.verdict == "adversarial", verdict.models_used) == (flagged[i], used[i])
        assert verdict.evidence == pytest.approx(heard[i, used[i] - 1], abs=1e-6)
        assert (
            verdict.verdict == "adversarial" or len(set(asked[: used[i]])) == 3
        )  # none cleared before every kind spoke


def test_fewer_members_than_kinds_are_warned_about_or_refused(mixed, caplog):
    done = calibrate(mixed, max_models=2)
    assert "members of 3 kinds, of which 2 are asked" in caplog.text
    assert done.calibration.kinds == ("robust", "hardened")
    with pytest.raises(GateError, match="one member of each of its 3 kinds .* --mean-models allows 2.5"):
        calibrate(mixed, mean_models=2.5)


def test_inspect_tells_the_kinds(mixed, capsys):
    calibrate(mixed)
    app(["bundle", "inspect", str(mixed)], standalone_mode=False)
    out = capsys.readouterr().out
    assert "m001 robust" in out and "m003 plain" in out and "(optimal, graded evidence)" in out


def test_orders_are_secret_within_the_turns(mixed):
    calibrate(mixed)
    orders = set()
    for seed in range(6):
        with Screener.open(mixed, seed=seed) as screener:
            orders.add(tuple(model.id for model in screener.residency.order))
    assert len(orders) > 3


def test_an_evaluation_ranks_frames_as_the_test_does(mixed, images):
    calibrate(mixed)
    truth = np.zeros(len(images), dtype=np.int64)
    frames = screen_set(mixed, "clean", images, truth, np.arange(len(images)), seed=5)
    whole = [v for v in frames.verdicts if v.models_used == frames.graded.shape[1]]
    assert frames.kinds is not None
    assert (frames.mean_graded() == levels(frames.graded, frames.kinds)[:, -1]).all()
    for verdict in whole:
        assert verdict.evidence == pytest.approx(frames.mean_graded()[verdict.frame], abs=1e-6)


def test_members_of_other_kinds_than_were_calibrated_are_refused(mixed):
    """Also where they are as many of each kind."""
    calibrate(mixed)
    manifest = (mixed / "bundle.json").read_bytes()
    for kinds in (("robust",) * 8, KINDS[1:] + KINDS[:1], (None,) * 8):
        (mixed / "bundle.json").write_bytes(manifest)
        of_kinds(mixed, kinds)
        with pytest.raises(IntegrityError, match="was measured on other model files"):
            open_bundle(mixed)


def test_a_calibration_of_other_kinds_is_refused(mixed):
    done = calibrate(mixed)
    opened = open_bundle(mixed)
    kinds = (*done.calibration.kinds[1:], done.calibration.kinds[0])
    write_calibration(opened, dataclasses.replace(done.calibration, kinds=kinds))
    with pytest.raises(InputError, match="members of other kinds; calibrate it again"):
        Screener.open(mixed)


def test_a_bundle_from_before_members_had_kinds_opens_and_screens(workshop, tmp_path, images):
    """Its manifest lacks the field; the digest is of what is written there."""
    folder = tmp_path / "bundle"
    shutil.copytree(workshop / "bundle", folder)
    document = json.loads((folder / "bundle.json").read_text())
    for model in (document["original"], *document["members"]):
        assert model.pop("kind") is None
    del document["digest"]
    document["digest"] = sha256_bytes(canonical(document))
    (folder / "bundle.json").write_text(json.dumps(document))
    with Screener.open(folder, seed=5) as screener, Screener.open(workshop / "bundle", seed=5) as other:
        assert [v.verdict for v in screener.screen(images)] == [v.verdict for v in other.screen(images)]


def test_an_export_says_what_kind_its_members_are(workshop, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(workshop / "pool", pool)
    text = (pool / "pool.json").read_text()
    (pool / "pool.json").write_text(text.replace('"kind":null', '"kind":"robust"', 2))
    bundle = export_pool(pool, tmp_path / "bundle")
    assert [member.kind for member in bundle.members].count("robust") == 2
    assert bundle.original.kind is None
