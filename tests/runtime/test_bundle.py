"""A bundle is used only if every byte is the exported one."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from pdtool.artifacts import BuildOptions
from pdtool.errors import InputError, IntegrityError
from pdtool.files import write_atomic
from pdtool.runtime import bundle as room
from pdtool.runtime.bundle import (
    models_digest,
    open_bundle,
    pretty,
    screened_at_once,
    write_bundle,
    write_calibration,
)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ({"batch_min": 3}, "build: batch_min, batch_opt and batch_max should grow"),
        ({"workspace": 0}, "build: workspace should be at least 1 byte"),
        ({"level": 9}, "build: level should lie in"),
        ({"level": "3"}, "'build.level' should be int"),
        ({"precision": "int8"}, "precision of build should be fp32, is int8"),
        ({"dla": 1}, "unknown field 'build.dla'"),
    ],
)
def test_build_options_are_checked(bundle, build, said):
    manifest = dataclasses.replace(open_bundle(bundle).bundle, build=BuildOptions())
    write_bundle(bundle, manifest)
    assert open_bundle(bundle).bundle.build == BuildOptions()
    document = json.loads((bundle / "bundle.json").read_text())
    document["build"] |= build
    (bundle / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=said):
        open_bundle(bundle)


def test_an_intact_bundle_opens(bundle):
    opened = open_bundle(bundle)
    assert opened.calibration is not None
    assert opened.calibration.models_sha256 == models_digest(opened.bundle)
    assert [model.id for model in opened.models][0] == "original"
    assert set(opened.costs()) == {model.id for model in opened.models}
    assert opened.models[0].macs == opened.costs()["original"].macs


def test_any_flipped_byte_in_any_file_is_noticed(bundle):
    for path in files_of(bundle):
        good = path.read_bytes()
        for position in {0, len(good) // 3, len(good) // 2, len(good) - 2}:
            bad = bytearray(good)
            bad[position] ^= 0x01
            path.write_bytes(bytes(bad))
            with pytest.raises((InputError, IntegrityError)):
                open_bundle(bundle)
        path.write_bytes(good)
    open_bundle(bundle)


def test_truncated_missing_and_linked_files(bundle):
    for path in files_of(bundle):
        good = path.read_bytes()
        path.write_bytes(good[:-2])  # the last byte of a JSON file is a line end
        with pytest.raises((InputError, IntegrityError), match=path.name):
            open_bundle(bundle)
        path.unlink()
        with pytest.raises((InputError, IntegrityError)):
            open_bundle(bundle)
        if path.name != "bundle.json":
            elsewhere = bundle.parent / "elsewhere"
            elsewhere.write_bytes(good)
            path.symlink_to(elsewhere)
            with pytest.raises(IntegrityError, match="plain file|is a link"):
                open_bundle(bundle)
            path.unlink()
        path.write_bytes(good)


def test_an_edited_manifest_is_noticed_even_where_it_still_parses(bundle):
    path = bundle / "bundle.json"
    document = json.loads(path.read_text())
    document["members"][0]["accuracy"] = 0.5
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="digest"):
        open_bundle(bundle)


def test_a_manifest_of_another_format_or_with_unknown_fields(bundle):
    path = bundle / "bundle.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"format": "pdtool.bundle/2"}))
    with pytest.raises(InputError, match=r"pdtool\.bundle/2"):
        open_bundle(bundle)
    path.write_text(json.dumps(document | {"surprise": 1}))
    with pytest.raises(InputError, match="unknown field 'surprise'"):
        open_bundle(bundle)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(InputError, match="no bundle.json"):
        open_bundle(tmp_path)
    with pytest.raises(InputError, match="no bundle.json"):
        open_bundle(tmp_path / "none")


def test_the_calibration_of_another_bundle_is_refused(workshop, bundle):
    """Same calibration, a bundle whose models differ: its digest is repaired by hand, the calibration is not."""
    opened = open_bundle(bundle)
    members = opened.bundle.members
    write_bundle(bundle, dataclasses.replace(opened.bundle, members=members[:-1]))
    with pytest.raises(IntegrityError, match="measured on other model files.*calibrate"):
        open_bundle(bundle)


def test_a_killed_calibration_leaves_the_old_or_the_new_one(workshop, bundle):
    """Replay every prefix of the writes that storing a calibration makes."""
    opened = open_bundle(bundle)
    old = opened.calibration
    assert old is not None
    new = dataclasses.replace(old, data="another")
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    done = bundle.parent / "done"
    shutil.copytree(bundle, done)
    write_calibration(open_bundle(done), new)
    assert open_bundle(done).calibration == new
    assert not (done / "calibration.json.new").exists()
    # killed after the new calibration was written, before the manifest names it
    write_atomic(bundle / "calibration.json.new", pretty(new))
    assert open_bundle(bundle).calibration == old
    # killed after the manifest, before the last rename
    write_atomic(bundle / "bundle.json", (done / "bundle.json").read_bytes())
    assert open_bundle(bundle).calibration == new
    # the next calibration repairs it
    write_calibration(open_bundle(bundle), old)
    after = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    assert after == before


@pytest.mark.parametrize("survives", [0, 1, 2, 3])
def test_a_full_disk_leaves_the_bundle_as_it_was(bundle, monkeypatch, survives):
    """At each of the writes before the manifest names the new calibration."""
    opened = open_bundle(bundle)
    assert opened.calibration is not None
    before = {path.name: path.read_bytes() for path in files_of(bundle)}
    writes, sync = 0, os.fsync

    def full(descriptor):
        nonlocal writes
        writes += 1
        if writes > survives:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    new = dataclasses.replace(opened.calibration, data="another")
    with pytest.raises(InputError, match="No space left.*calibrate again") as error:
        write_calibration(opened, new)
    assert "--out" not in str(error.value)
    monkeypatch.undo()
    if survives < 3:  # the fourth sync comes after the manifest has its name
        assert {path.name: path.read_bytes() for path in files_of(bundle)} == before
    else:
        assert open_bundle(bundle).calibration == new


def test_a_calibration_killed_twice_loses_nothing(bundle, monkeypatch):
    """Once between commit and rename, then again before the next commit."""
    opened = open_bundle(bundle)
    assert opened.calibration is not None
    second = dataclasses.replace(opened.calibration, data="second")
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda self, to: os.replace(self, to) if self.suffix == ".tmp" else None)
        write_calibration(opened, second)
    assert (bundle / "calibration.json.new").exists()
    assert open_bundle(bundle).calibration == second
    opened = open_bundle(bundle)
    monkeypatch.setattr(room, "write_bundle", kill)
    with pytest.raises(KeyboardInterrupt):
        write_calibration(opened, dataclasses.replace(second, data="third"))
    assert open_bundle(bundle).calibration == second


def kill(folder, bundle):
    raise KeyboardInterrupt


def test_memory_is_profiled_for_the_batch_that_is_screened(bundle, tmp_path):
    opened = open_bundle(bundle)
    write_bundle(bundle, dataclasses.replace(opened.bundle, measured_batch=5))
    assert screened_at_once(bundle) == 5
    assert screened_at_once(tmp_path / "a-pool") == 32
