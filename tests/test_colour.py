"""From training to a report on colour pictures: some traffic signs of GTSRB, the real commands, a small ResNet-18.

The other tests of the whole way use grey digits. Here a track is a sign that the camera passed, so that halves are
cut between tracks, pictures are resized, and residual layers are pruned together.
"""

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdtool.cli.main import app
from pdtool.data import load_data
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.votes import collect_votes

SIGNS = ("07", "13", "17", "38")  # speed limit 100, give way, no entry, keep right
MEMBERS = 4


def unpack(archive: Path, folder: Path, every: int = 1) -> Path:
    """The pictures of SIGNS, of each class every so many."""
    count: Counter[str] = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            sign, _, name = member.name.rpartition("/")
            if member.isfile() and sign in SIGNS:
                file = tar.extractfile(member)
                assert file is not None
                if count[sign] % every == 0:
                    (folder / sign).mkdir(parents=True, exist_ok=True)
                    (folder / sign / name).write_bytes(file.read())
                count[sign] += 1
    return folder


def pdtool(*arguments: object) -> None:
    app([*map(str, arguments), "--quiet"], standalone_mode=False)


@pytest.fixture(scope="module")
def signs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, pool, calibrated bundle and evaluation of a net for SIGNS, and with their pictures."""
    folder = tmp_path_factory.mktemp("signs")
    train = unpack(shared_data / "gtsrb-train.tar.gz", folder / "train")
    test = unpack(shared_data / "gtsrb-test-public.tar.gz", folder / "test")
    unpack(shared_data / "gtsrb-original-tracks-public.tar.gz", folder / "camera", every=3)
    weights, pool, bundle = folder / "weights.safetensors", folder / "pool", folder / "bundle"
    pdtool("train", "--model", "resnet18:width=4", "--data", train, "--epochs", 4, "--out", weights)
    made_of = ("--recipe", "paper", "--members", MEMBERS, "--rate", 0.5, "--epochs", 2, "--max-drop", 0.5)
    pdtool("compress", "--weights", weights, "--data", train, *made_of, "--out", pool)
    pdtool("export", pool, "--out", bundle)
    pdtool("calibrate", bundle, "--data", f"{test}#1/2", "--accept-miss")
    pdtool(
        *("evaluate", bundle, "--pool", pool, "--data", f"{test}#2/2", "--limit", 40),
        *("--attack", "fgsm:epsilon=8/255", "--out", folder / "evaluation"),
    )
    return folder


def document(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_members_are_pruned_through_the_shortcuts(signs: Path) -> None:
    pool = document(signs / "pool" / "pool.json")
    assert pool["classes"] == list(SIGNS) and pool["original"]["accuracy"] > 0.9
    assert len({member["model"]["file"]["sha256"] for member in pool["members"]}) == MEMBERS
    for member in pool["members"]:
        rates = member["layer_rates"]
        assert member["channel_rate"] == pytest.approx(0.5, abs=0.02)
        assert rates["layer2.0.shortcut.0"] == rates["layer2.0.conv2"] == rates["layer2.1.conv2"]  # they are added
        assert member["model"]["macs"] < 0.4 * pool["original"]["macs"]
        assert member["used"] and member["model"]["accuracy"] > 0.7


def test_the_exported_original_sees_the_colours_in_their_order(signs: Path) -> None:
    opened = open_bundle(signs / "bundle")
    for pictures in ("test", "camera"):
        data = load_data(str(signs / pictures), (3, 32, 32), role="test")
        right = collect_votes(opened, data.images).original == data.labels
        swapped = collect_votes(opened, data.images[..., ::-1]).original == data.labels
        assert right.mean() > 0.8 and swapped.mean() < 0.5  # blue and red in each other's place


def test_calibration_counts_tracks_and_cuts_none(signs: Path) -> None:
    calibration = document(signs / "bundle" / "calibration.json")
    half = load_data(f"{signs / 'test'}#1/2", (3, 32, 32), role="calibrate")
    assert calibration["fit_images"] + calibration["check_images"] == len(half.images) == 140
    assert calibration["check_groups"] == calibration["check_images"] / 10  # pictures a track
    assert calibration["fpr_upper"] > calibration["target_fpr"]  # so few tracks promise little; accepted all the same


def test_pictures_at_camera_size_are_screened(signs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    pdtool("screen", signs / "bundle", "--source", signs / "camera", "--json")
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(verdicts) == 10 * len(SIGNS)
    assert all(verdict["verdict"] in ("clean", "adversarial") for verdict in verdicts)
    assert np.mean([verdict["label"] == Path(verdict["source"]).parent.name for verdict in verdicts]) > 0.8
    assert np.mean([verdict["verdict"] == "clean" for verdict in verdicts]) > 0.7


def test_the_report_counts_clean_and_attacked_signs(signs: Path) -> None:
    report = document(signs / "evaluation" / "report.json")
    clean, (attack,) = report["clean"], report["attacks"]
    assert clean["every"]["count"] == 40 and clean["accuracy"]["share"] > 0.8
    assert attack["attacked"] == clean["accuracy"]["events"] and attack["success"]["events"] > 5
    assert attack["linf"]["value"] == pytest.approx(8 / 255, abs=1e-4)
    assert attack["lcr"]["auroc"]["value"] > 0.6
    assert clean["every"]["flagged"]["share"] < attack["frames"]["flagged"]["share"]
    page = (signs / "evaluation" / "report.html").read_text()
    assert page.count("data:image/png;base64,") > 10
    with np.load(signs / "evaluation" / "attacked" / "fgsm.npz", allow_pickle=False) as stored:
        images = stored["images"]
    assert images.shape == (attack["attacked"], 32, 32, 3)
    assert not np.array_equal(images[..., 0], images[..., 2])
