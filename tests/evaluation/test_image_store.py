"""Attacked images kept between runs: used again only where everything that they depend on is the same."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdtool.compress.watch import silent
from pdtool.evaluation import attacks, image_store
from pdtool.evaluation.attacked import Attacked, read_attacked, write_attacked
from pdtool.evaluation.attacks import Attack, parse_attack, run_attack
from pdtool.evaluation.chosen import evenly
from pdtool.evaluation.image_store import Job, _code, attack_or_reuse

FGSM = parse_attack("fgsm:epsilon=0.1")


@pytest.fixture
def job(net: torch.nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Job:
    return Job(
        net=net,
        images=images,
        labels=labels,
        classes=tuple(map(str, range(10))),
        seed=1,
        batch=32,
        model_sha256="a" * 64,
        data_fingerprint="b" * 64,
        about={"data": "scans"},
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attacks that were really made."""
    made: list[str] = []

    def counted(net: torch.nn.Module, images: object, labels: object, attack: Attack, **rest: object) -> Attacked:
        made.append(attack.spec)
        return run_attack(net, images, labels, attack, **rest)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(image_store, "run_attack", counted)
    return made


def _get(
    job: Job, folder: Path, attack: Attack = FGSM, limit: int | None = None, earlier: Path | None = None
) -> Attacked:
    return attack_or_reuse(job, "fgsm", attack, limit, folder, earlier, silent)[0]


def test_the_same_is_made_once(job: Job, tmp_path: Path, runs: list[str]) -> None:
    first, path = attack_or_reuse(job, "fgsm", FGSM, None, tmp_path, None, silent)
    again, same = attack_or_reuse(
        replace(job, about={"data": "elsewhere"}), "other", FGSM, None, tmp_path, None, silent
    )
    assert runs == [FGSM.spec] and path == same and list(tmp_path.iterdir()) == [path]
    assert again.images.tobytes() == first.images.tobytes() and again.source.tolist() == first.source.tolist()
    assert again.provenance["data"] == "scans"  # where they were made
    direct = run_attack(job.net, job.images, job.labels, FGSM, seed=1, batch=32)
    assert direct.images.tobytes() == first.images.tobytes()


def test_anything_else_is_made_anew_beside_it(job: Job, tmp_path: Path, runs: list[str]) -> None:
    _get(job, tmp_path)
    _get(replace(job, seed=2), tmp_path)
    _get(replace(job, batch=16), tmp_path)
    _get(replace(job, model_sha256="c" * 64), tmp_path)
    _get(replace(job, data_fingerprint="c" * 64), tmp_path)
    _get(job, tmp_path, parse_attack("fgsm:epsilon=0.2"))
    _get(job, tmp_path, limit=10)
    assert len(runs) == 7 and len(list(tmp_path.iterdir())) == 7
    _get(job, tmp_path)
    assert len(runs) == 7


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("_version", lambda library: "0.0"),
        ("_code", lambda: "0"),
        ("device_of", lambda net: torch.device("cuda")),
    ],
)
def test_another_library_code_or_device_is_another_attack(
    job: Job, tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, what: str, other: object
) -> None:
    _get(job, tmp_path)
    monkeypatch.setattr(image_store, what, other)
    _get(job, tmp_path)
    assert len(runs) == 2


def test_the_code_of_all_attacks_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = Path(attacks.__file__).parent
    names = ["attacks.py", *(file.name for file in source.glob("attack_*.py"))]
    assert {"attack_common.py", "attack_square.py", "attack_features.py"} < {*names}
    for name in names:
        shutil.copyfile(source / name, tmp_path / name)
    monkeypatch.setattr(attacks, "__file__", str(tmp_path / "attacks.py"))
    code = _code.__wrapped__
    first = code()
    assert first == code() and len(first) == 64
    for name in names:
        with (tmp_path / name).open("a") as file:
            file.write("# changed")
        assert first != (first := code())


def test_the_key_names_what_computes(job: Job) -> None:
    key = job.key(FGSM, None)
    assert key["device"] == "cpu"
    assert key["versions"].keys() == {"torch", "numpy", "scipy", "foolbox", "adversarial-robustness-toolbox"}


def test_a_damaged_or_strange_file_is_made_again(
    job: Job, tmp_path: Path, runs: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, path = attack_or_reuse(job, "fgsm", FGSM, None, tmp_path, None, silent)
    images, whole = first.images.tobytes(), path.read_bytes()
    path.unlink()  # the images that were read lie in this file
    path.write_bytes(whole[:1000])
    assert _get(job, tmp_path).images.tobytes() == images
    assert len(runs) == 2 and "is made again" in caplog.text and "\n" not in caplog.messages[0]
    _, other = attack_or_reuse(replace(job, seed=2), "fgsm", FGSM, None, tmp_path, None, silent)
    path.unlink()
    path.write_bytes(other.read_bytes())  # a sound file under the wrong name
    assert _get(job, tmp_path).provenance["seed"] == 1 and len(runs) == 4


def test_a_file_of_an_earlier_report_is_used(job: Job, tmp_path: Path, runs: list[str]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    _, path = attack_or_reuse(job, "fgsm", FGSM, None, tmp_path / "old", None, silent)
    earlier = path.rename(tmp_path / "old" / "fgsm.npz")
    _, found = attack_or_reuse(job, "fgsm", FGSM, None, tmp_path / "new", earlier, silent)
    assert found == earlier and len(runs) == 1 and not list((tmp_path / "new").iterdir())


def test_a_limit_takes_images_evenly_and_counts_in_the_whole_data(job: Job, tmp_path: Path) -> None:
    few, path = attack_or_reuse(job, "fgsm", FGSM, 9, tmp_path, None, silent)
    assert 0 < len(few) <= 9 and {*few.source} <= {i * len(job.labels) // 9 for i in range(9)}
    assert (few.labels == job.labels[few.source]).all()
    change = np.abs(few.images - job.images[few.source].astype(np.float32) / 255).max(axis=(1, 2, 3))
    assert np.allclose(change, few.linf, atol=1e-6) and change.max() <= 0.1 + 1e-6
    assert read_attacked(path).provenance["images_given"] == 9


@pytest.mark.parametrize(
    "what", ["another image", "another label", "another shape", "beyond the data", "beyond the limit"]
)
def test_a_file_whose_arrays_are_not_of_the_job_is_made_again(
    job: Job, tmp_path: Path, runs: list[str], what: str
) -> None:
    """The provenance says all that it should; the arrays say otherwise."""
    first, path = attack_or_reuse(job, "fgsm", FGSM, 10, tmp_path, None, silent)
    given = set(evenly(len(job.labels), 10).tolist())
    images, labels, source = first.images, first.labels.copy(), first.source.copy()
    if what == "another image":  # one that was given, with another label than the one it now claims
        taken = next(i for i in given - {*source[1:].tolist()} if job.labels[i] != labels[0])
        source[0] = taken
    elif what == "another label":
        labels[0] = first.given[0] if first.success[0] else (labels[0] + 1) % 10
    elif what == "another shape":
        images = np.ascontiguousarray(images[:, 1:])
    elif what == "beyond the data":
        source[0] = len(job.labels)
    else:
        source[0] = next(i for i in range(len(job.labels)) if i not in given and job.labels[i] == labels[0])
    wrong = replace(first, images=images, labels=labels, source=source, success=first.given != labels)
    write_attacked(path, wrong, job.classes)
    again = _get(job, tmp_path, limit=10)
    assert len(runs) == 2
    for name in ("images", "labels", "source"):
        assert np.array_equal(getattr(again, name), getattr(first, name))
    assert np.array_equal(read_attacked(path).source, first.source)
