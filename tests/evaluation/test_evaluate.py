"""Evaluating a real bundle: the counts are those of the stored frames, the folder can be trusted and repeated."""

import dataclasses
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdtool.compress.folder import open_pool
from pdtool.data import load_data
from pdtool.decisions import Grading, Verdict
from pdtool.errors import InputError, MissingError, UsageError
from pdtool.evaluation.evaluate import Extras, evaluate_bundle
from pdtool.evaluation.metrics import threshold_at
from pdtool.evaluation.results import Evaluation
from pdtool.files import sha256_file
from pdtool.images import as_input
from pdtool.jsonform import decode, parse
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes

ATTACKS = ("fgsm:epsilon=0.1", "deepfool:steps=10", "fgsm:epsilon=0")
FILES = {"report.html", "report.json", "report.md", "verdicts.jsonl", "votes.npz", "mixed.npz", "attacked"}


@pytest.fixture(scope="module")
def evaluated(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    out = tmp_path_factory.mktemp("evaluate") / "out"
    result = evaluate_bundle(workshop / "bundle", workshop / "pool", "digits", ATTACKS, out=out, limit=90)
    return out, result


def _stored(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_folder_holds_what_it_promises(evaluated: tuple[Path, Evaluation]) -> None:
    out, result = evaluated
    assert {path.name for path in out.iterdir()} == FILES
    assert {path.name for path in (out / "attacked").iterdir()} == {"fgsm.npz", "deepfool.npz", "fgsm-2.npz"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing is left beside it
    assert decode(Evaluation, parse((out / "report.json").read_bytes(), file="report.json"), file="r") == result
    for attack in result.attacks:
        assert sha256_file(out / result.images / attack.file.path) == attack.file.sha256


def test_counts_are_those_of_the_verdict_lines(evaluated: tuple[Path, Evaluation], workshop: Path) -> None:
    out, result = evaluated
    opened = open_bundle(workshop / "bundle")
    verdicts: dict[str, list[Verdict]] = {}
    for line in (out / "verdicts.jsonl").read_text().splitlines():
        verdict = decode(Verdict, json.loads(line), file="verdicts.jsonl")
        verdicts.setdefault(verdict.source, []).append(verdict)
    clean = verdicts["clean"]
    assert len(clean) == result.clean.every.count == 90
    assert sum(v.verdict == "adversarial" for v in clean) == result.clean.every.flagged.events
    assert sum(v.verdict == "clean" for v in clean) == result.clean.every.cleared.events
    assert result.clean.every.models_used.value == pytest.approx(np.mean([v.models_used for v in clean]))
    assert result.clean.right.count + result.clean.wrong.count == 90
    for attack in result.attacks:
        stored = _stored(out / "attacked" / attack.file.path)
        own = verdicts[attack.name]
        fooled = [i for i, v in enumerate(own) if v.label != opened.bundle.classes[stored["labels"][i]]]
        caught = [i for i in fooled if own[i].verdict == "adversarial"]
        right = [i for i in caught if own[i].corrected_label == opened.bundle.classes[stored["labels"][i]]]
        flagged = attack.frames.flagged
        assert (flagged.events, flagged.count) == (len(caught), len(fooled))
        assert (attack.corrected.events, attack.corrected.count) == (len(right), len(caught))
        assert attack.attacked == len(stored["labels"]) and attack.success.events == int(stored["success"].sum())
    assert result.attacks[0].frames.count > 20  # there was something to count


def test_auroc_tpr_and_cost_by_hand(evaluated: tuple[Path, Evaluation], workshop: Path) -> None:
    """From the bundle's own votes, member by member in the order that the report names."""
    out, result = evaluated
    opened = open_bundle(workshop / "bundle")
    data = load_data("digits", (1, 32, 32), role="test", limit=90)
    place = [[m.id for m in opened.bundle.members].index(id) for id in result.order]
    stored = _stored(out / "attacked" / "fgsm.npz")
    ones = Grading(temperatures=(1.0,) * 8)
    below = collect_votes(opened, data.images, grading=ones)
    above = collect_votes(opened, stored["images"], grading=ones)
    fooled = above.original != stored["labels"]
    attack = result.attacks[0]
    macs = {member.macs for member in opened.bundle.members}
    assert len(macs) == 1  # all members cost the same at one rate
    one = macs.pop() / opened.bundle.original.macs
    assert [point.members for point in attack.asked] == [1, 2, 4, 8]
    for point in attack.asked:
        for name in ("changed", "graded"):
            c, a = (
                np.asarray(getattr(votes.evidence, name), dtype=float)[:, place[: point.members]].mean(axis=1)
                for votes in (below, above)
            )
            a = a[fooled]
            pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in c]
            found = point.lcr if name == "changed" else point.graded
            assert found.auroc.value == pytest.approx(np.mean(pairs))
            for share, tpr, fpr in ((0.01, found.tpr_1, found.fpr_1), (0.05, found.tpr_5, found.fpr_5)):
                at = threshold_at(c, share)
                assert tpr.events == sum(x > at for x in a) and tpr.count == len(a)
                assert fpr.events == sum(y > at for y in c) and fpr.events <= share * 90
        assert point.cost == pytest.approx(1 + one * point.members)
    assert attack.asked[-1].lcr == attack.lcr and attack.asked[-1].graded == attack.graded
    assert attack.lcr.auroc.value is not None and attack.lcr.auroc.value > 0.7
    counts = [np.bincount(labels, minlength=10).argmax() for labels in above.members[fooled]]
    assert attack.majority.events == sum(counts == stored["labels"][fooled])
    assert result.clean.every.models_used.value is not None
    assert result.clean.every.cost.value == pytest.approx(1 + one * result.clean.every.models_used.value)
    assert result.whole_pool_cost == pytest.approx(1 + one * 8)


def test_votes_are_left_to_be_counted_again(evaluated: tuple[Path, Evaluation]) -> None:
    out, result = evaluated
    votes = _stored(out / "votes.npz")
    assert tuple(votes["order"]) == result.order
    for a in result.attacks:
        fooled = votes[f"{a.name}/given"] != votes[f"{a.name}/truth"]
        lcr = (votes[f"{a.name}/votes"] != votes[f"{a.name}/given"][:, None]).mean(axis=1)
        assert fooled.sum() == a.frames.count and votes[f"{a.name}/graded"].shape == (len(fooled), 8)
        if fooled.any():
            assert lcr[fooled].mean() == pytest.approx(a.frames.label_change_rate.value)


def test_the_worst_attack_of_each_image_is_counted(evaluated: tuple[Path, Evaluation]) -> None:
    out, result = evaluated
    votes = _stored(out / "votes.npz")
    lowest: dict[int, float] = {}
    caught: dict[int, bool] = {}
    for a in result.attacks:
        of = {name: votes[f"{a.name}/{name}"] for name in ("source", "given", "truth", "votes", "flagged")}
        for i in np.flatnonzero(of["given"] != of["truth"]):
            image = int(of["source"][i])
            lowest[image] = min(lowest.get(image, 1.0), float((of["votes"][i] != of["given"][i]).mean()))
            caught[image] = caught.get(image, True) and bool(of["flagged"][i])
    worst = result.worst_case
    passed = {
        int(i)
        for a in result.attacks
        for i in votes[f"{a.name}/source"][
            (votes[f"{a.name}/given"] != votes[f"{a.name}/truth"]) & ~votes[f"{a.name}/flagged"]
        ]
    }
    attacked = {int(i) for a in result.attacks for i in votes[f"{a.name}/source"]}
    assert (worst.evaded.events, worst.evaded.count) == (len(passed), len(attacked))
    assert all(a.wrong_before == 0 for a in result.attacks)  # fp32: what torch gets right the bundle gets right
    assert worst.inputs == len(lowest) and worst.caught.events == sum(caught.values())
    clean = (votes["clean/votes"] != votes["clean/given"][:, None]).mean(axis=1)
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in lowest.values() for y in clean]
    assert worst.lcr.auroc.value == pytest.approx(np.mean(pairs))
    enough = [a for a in result.attacks if a.frames.count >= 10]
    assert result.overall.attacks == len(enough) and result.overall.too_few == ("fgsm-2",)
    assert result.overall.mean_auroc == pytest.approx(np.mean([a.lcr.auroc.value for a in enough]))
    assert result.overall.worst_flagged is not None
    assert result.overall.worst_flagged.share == min(a.frames.flagged.share or 0 for a in enough)


def test_an_attack_that_fools_nobody_has_no_rates(evaluated: tuple[Path, Evaluation]) -> None:
    _, result = evaluated
    nothing = result.attacks[2]
    assert nothing.spec == "fgsm:epsilon=0" and nothing.name == "fgsm-2"
    assert (nothing.success.events, nothing.frames.count, nothing.frames.flagged.share) == (0, 0, None)
    assert nothing.lcr.auroc.value is None and nothing.corrected.share is None and nothing.majority.share is None
    right = result.clean.right.flagged  # unchanged frames are flagged exactly as often as the clean ones
    assert (nothing.failed_flagged.events, nothing.failed_flagged.count) == (right.events, right.count)


def test_mixed_stream_alternates_and_repeats_no_scene(evaluated: tuple[Path, Evaluation]) -> None:
    out, _ = evaluated
    with np.load(out / "mixed.npz", allow_pickle=False) as stream:
        mixed = {name: stream[name] for name in stream.files}
    assert mixed["images"].dtype == np.float32
    assert len(set(mixed["source"].tolist())) == len(mixed["source"])
    kinds = Counter(mixed["attack"].tolist())
    assert kinds[""] == 45 and kinds["fgsm"] > 5 and kinds["deepfool"] > 5 and kinds["fgsm-2"] == 0
    data = load_data("digits", (1, 32, 32), role="test", limit=90)
    pixels = np.moveaxis(as_input(data.images), 1, 3)
    for i, (source, kind) in enumerate(zip(mixed["source"], mixed["attack"], strict=True)):
        assert mixed["labels"][i] == data.labels[source]  # type: ignore[index]
        assert np.array_equal(mixed["images"][i], pixels[source]) == (kind == "")


def test_same_seed_same_report_but_for_times(
    evaluated: tuple[Path, Evaluation], workshop: Path, tmp_path: Path
) -> None:
    out, first = evaluated
    again = evaluate_bundle(workshop / "bundle", workshop / "pool", "digits", ATTACKS, out=tmp_path / "b", limit=90)
    assert dataclasses.replace(again, seconds={}) == dataclasses.replace(first, seconds={})
    for name in ("attacked/fgsm.npz", "attacked/deepfool.npz", "mixed.npz", "votes.npz", "report.md"):
        assert (tmp_path / "b" / name).read_bytes() == (out / name).read_bytes()


def test_provenance_binds_the_images_to_the_original(evaluated: tuple[Path, Evaluation], workshop: Path) -> None:
    out, result = evaluated
    provenance = json.loads(str(_stored(out / "attacked" / "fgsm.npz")["provenance"]))
    assert provenance["model_sha256"] == open_pool(workshop / "pool").pool.original.file.sha256
    assert provenance["data"] == "digits" and provenance["data_fingerprint"] == result.data_fingerprint


def test_a_small_memory_budget_changes_no_verdict(
    evaluated: tuple[Path, Evaluation], workshop: Path, tmp_path: Path
) -> None:
    _, first = evaluated
    with Screener.open(workshop / "bundle") as screener:
        least, everything = screener.plan().least, screener.plan().everything
    assert least < everything  # members have to be evicted
    again = evaluate_bundle(
        workshop / "bundle",
        workshop / "pool",
        "digits",
        ATTACKS[:1],
        out=tmp_path / "b",
        limit=90,
        memory_budget=str(least),
    )
    assert again.clean == first.clean and again.attacks[0] == first.attacks[0]


def test_what_cannot_be_evaluated_is_refused(workshop: Path, bundle: Path, tmp_path: Path) -> None:
    pool, out = workshop / "pool", tmp_path / "out"
    with pytest.raises(InputError, match="is not calibrated; run: pdtool calibrate"):
        evaluate_bundle(workshop / "plain", pool, "digits", out=out)
    with pytest.raises(UsageError, match="given twice with the same settings"):
        evaluate_bundle(bundle, pool, "digits", ("fgsm", "fgsm:epsilon=0.03"), out=out)
    with pytest.raises(UsageError, match="at least one attack"):
        evaluate_bundle(bundle, pool, "digits", (), out=out)
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        evaluate_bundle(bundle, pool, "digits", out=out)
    assert (out / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("missing", "purpose"),
    [
        ("jinja2", "write the report"),
        ("matplotlib", "write the report"),
        ("PIL.Image", "write the report"),
        ("foolbox", "attack the original"),
        ("art", "attack the original"),
        ("scipy.ndimage", "blur images"),
        ("sklearn.covariance", "fit a detector"),
    ],
)
def test_a_package_that_is_needed_is_asked_for_before_the_attacks(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, purpose: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    extras = Extras(controls=["blur"], baselines=["mahalanobis"], baseline_data="digits#train")
    attacks = ("fgsm", "one-pixel") if missing == "art" else ("fgsm",)  # the toolbox imports others itself
    with pytest.raises(MissingError, match=purpose):
        evaluate_bundle(workshop / "bundle", workshop / "pool", "digits", attacks, out=tmp_path / "out", extras=extras)
    assert not list(tmp_path.iterdir())  # nor an attacked image


def test_images_of_the_pool_or_of_the_calibration_are_refused(workshop: Path, tmp_path: Path) -> None:
    def evaluate(data: str) -> None:
        evaluate_bundle(workshop / "bundle", workshop / "pool", data, out=tmp_path / "out")

    with pytest.raises(InputError, match="493 of its 493 images are ones that the pool was made on"):
        evaluate("digits#train#1/2")
    with pytest.raises(InputError, match="digits#calibrate: 450 of its 450 images are ones that the bundle was cal"):
        evaluate("digits#calibrate")
    seen, new = (load_data("digits", (1, 32, 32), role=role) for role in ("calibrate", "test"))
    assert seen.labels is not None and new.labels is not None
    np.savez(  # what was calibrated on comes back in a file of another name, among images that are new
        tmp_path / "mixed.npz",
        images=np.concatenate([new.images[:90], seen.images[:10]]),
        labels=np.concatenate([new.labels[:90], seen.labels[:10]]),
    )
    with pytest.raises(InputError, match="mixed.npz: 10 of its 100 images are ones that the bundle was calibrated on"):
        evaluate(str(tmp_path / "mixed.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.npz"]


@pytest.mark.parametrize("whose", ["original", "members"])
def test_a_pool_of_other_weights_is_refused(workshop: Path, tmp_path: Path, whose: str) -> None:
    """Same classes, same data, same names of the members: only the weights tell the two pools apart."""
    pool = Path(shutil.copytree(workshop / "pool", tmp_path / "pool"))
    document = json.loads((pool / "pool.json").read_text())
    model = document["original"] if whose == "original" else document["members"][3]["model"]
    file = pool / model["file"]["path"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last weight
    file.write_bytes(content)
    model["file"]["sha256"] = sha256_file(file)
    (pool / "pool.json").write_text(json.dumps(document))
    assert len(open_pool(pool).pool.members) == 8  # a sound pool, but not the one of this bundle
    with pytest.raises(InputError, match=f"was not exported from the pool {pool}; give the pool that it came from"):
        evaluate_bundle(workshop / "bundle", pool, "digits", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
