"""Export: the same bytes every time, checked against torch, nothing left behind by a failure."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from pdtool.compress.folder import open_pool
from pdtool.errors import GateError, InputError, IntegrityError
from pdtool.export import bundle as export_room
from pdtool.export.bundle import export_pool
from pdtool.export.onnx import check_parity, to_onnx
from pdtool.images import as_input
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.engine_onnx import OnnxEngine


def test_every_model_agrees_with_torch_on_real_images_and_any_batch(workshop):
    pool, opened = open_pool(workshop / "pool"), open_bundle(workshop / "plain")
    images, labels = pool.samples()
    assert len(images) == 64
    for model in opened.models:
        net = pool.original() if model.id == "original" else pool.member(model.id)
        engine = OnnxEngine(opened.read(model.file), name=model.id)
        for batch in (1, 7, 64):
            with torch.no_grad():
                expected = net(torch.from_numpy(as_input(images[:batch]))).numpy()
            np.testing.assert_allclose(engine.run(as_input(images[:batch])), expected, atol=1e-4)
        assert model.parity.images == 64
        assert model.parity.label_agreement == 1.0
        assert model.parity.max_difference < 1e-4
        engine.close()
    original = OnnxEngine(opened.read(opened.models[0].file), name="original")
    assert (original.run(as_input(images)).argmax(1) == labels).mean() > 0.9


def test_measured_memory_is_plausible(workshop):
    original, *members = open_bundle(workshop / "plain").models
    for member in members:
        more = original.file.bytes - member.file.bytes
        assert more > 100_000
        assert 0.5 * more < original.resident_bytes - member.resident_bytes < 2 * more
    for model in (original, *members):
        assert model.resident_bytes < model.load_peak_bytes < 64 * 2**20


def test_export_is_deterministic_but_for_measurements(workshop, tmp_path):
    export_pool(workshop / "pool", tmp_path / "again")
    first, second = open_bundle(workshop / "plain"), open_bundle(tmp_path / "again")
    assert [m.file for m in first.models] == [m.file for m in second.models]
    assert first.bundle.costs == second.bundle.costs


def test_a_model_that_differs_from_torch_is_not_exported(workshop, tmp_path, monkeypatch):
    pool = open_pool(workshop / "pool")
    wrong = to_onnx(pool.member(pool.pool.members[0].id), (1, 32, 32))
    images, _ = pool.samples()
    parity = check_parity(wrong, pool.original(), images, name="x")
    assert parity.max_difference > 0.1
    monkeypatch.setattr(export_room, "to_onnx", lambda net, size: wrong)
    with pytest.raises(GateError, match="--min-agreement asks for 100.0%"):
        export_pool(workshop / "pool", tmp_path / "out", min_agreement=1.0)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(workshop, tmp_path, monkeypatch):
    written = 0

    def full(descriptor):
        nonlocal written
        written += 1
        if written > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        export_pool(workshop / "pool", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_needs_force(workshop, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_pool(workshop / "pool", tmp_path / "out")
    export_pool(workshop / "pool", tmp_path / "out", force=True)
    assert open_bundle(tmp_path / "out").calibration is None


def test_a_damaged_pool_is_refused(workshop, tmp_path):
    import shutil

    pool = tmp_path / "pool"
    shutil.copytree(workshop / "pool", pool)
    weights = pool / "members" / "m000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="m000.safetensors"):
        export_pool(pool, tmp_path / "out")
    document = json.loads((pool / "pool.json").read_text())
    for member in document["members"]:
        member["used"], member["reason"] = False, "test"
    (pool / "pool.json").write_text(json.dumps(document))
    with pytest.raises(GateError, match="no member met its accuracy floor"):
        export_pool(pool, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_force_replaces_bundles_only_and_never_its_own_pool(workshop, tmp_path):
    import shutil

    pool = tmp_path / "pool"
    shutil.copytree(workshop / "pool", pool)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"dear")
    for out, message in (
        (pool, "is or contains"),
        (tmp_path, "is or contains"),
        (tmp_path / "photos", "replaces only"),
    ):
        with pytest.raises(InputError, match=message):
            export_pool(pool, out, force=True)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"dear" and open_pool(pool).samples()
    shutil.copytree(workshop / "bundle", tmp_path / "out")  # calibrated: one of ours
    export_pool(pool, tmp_path / "out", force=True)
    assert open_bundle(tmp_path / "out").calibration is None
