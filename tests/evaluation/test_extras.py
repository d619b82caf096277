"""What is evaluated beside the attacks: benign changes, foreign images, another precision, other detectors."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdtool.calibration.table import SequentialTest, table_of
from pdtool.data import load_data
from pdtool.errors import InputError, UsageError
from pdtool.evaluation import image_store
from pdtool.evaluation.attacked import read_attacked
from pdtool.evaluation.attacks import run_attack
from pdtool.evaluation.controls import CONTROLS, run_control, same_norm
from pdtool.evaluation.evaluate import Extras, evaluate_bundle
from pdtool.evaluation.results import Evaluation
from pdtool.export.bundle import export_pool
from pdtool.runtime.bundle import open_bundle
from pdtool.runtime.screener import Screener
from pdtool.runtime.votes import collect_votes


@pytest.fixture(scope="module")
def int8(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    export_pool(workshop / "pool", folder, precision="int8", min_agreement=0.5)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Letters, as it were: digits upside down and in negative."""
    images = load_data("digits", (1, 32, 32), role="test", limit=40).images
    path = tmp_path_factory.mktemp("foreign") / "signs.npz"
    np.savez(path, images=255 - images[:, ::-1])
    return path


@pytest.fixture(scope="module")
def evaluated(
    workshop: Path, int8: Path, foreign: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Evaluation]:
    folder = tmp_path_factory.mktemp("extras")
    result = evaluate_bundle(
        workshop / "bundle",
        workshop / "pool",
        "digits",
        ("fgsm:epsilon=0.1",),
        out=folder / "out",
        extras=Extras(
            controls=("noise:epsilon=0.3", "all"),
            foreign=(str(foreign),),
            compare=(workshop / "plain", int8),
            limits={"fgsm": 50},
            baselines=("softmax",),
            baseline_data="digits#train",
            images=folder / "images",
        ),
        seed=3,
    )
    return folder, result


def _votes(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_controls_change_the_images_that_the_original_gets_right(
    evaluated: tuple[Path, Evaluation], workshop: Path
) -> None:
    _, result = evaluated
    controls = [b for b in result.benign if b.kind == "control"]
    assert [c.name for c in controls] == [
        "noise" if c.spec.endswith("0.3") else "noise-2" if c.name.startswith("noise") else c.name for c in controls
    ]
    assert len(controls) == 1 + len(CONTROLS) + 1 and controls[-1].name == "same-norm: fgsm:epsilon=0.1"
    data = load_data("digits", (1, 32, 32), role="test")
    opened = open_bundle(workshop / "bundle")
    before = collect_votes(opened, data.images)
    right = before.original == data.labels
    first = controls[0]
    assert first.spec == "noise:epsilon=0.3" and first.frames.count == right.sum() == result.clean.right.count
    noisy = run_control(data.images[right], "noise:epsilon=0.3", seed=3)
    after = collect_votes(opened, noisy)
    assert first.relabelled is not None
    assert first.relabelled.events == (after.original != before.original[right]).sum()
    rates = after.evidence.changed.mean(axis=1)
    assert first.frames.label_change_rate.value == pytest.approx(rates.mean())
    with Screener.open(workshop / "bundle", seed=3) as screener:
        flagged = [v.verdict == "adversarial" for v in screener.screen(noisy)]
    assert first.frames.flagged.events == sum(flagged)
    clean = before.evidence.changed.mean(axis=1)[right]
    pairs = (rates[:, None] > clean).mean() + 0.5 * (rates[:, None] == clean).mean()
    assert first.lcr.auroc.value == pytest.approx(pairs)


def test_noise_in_place_of_an_attack_is_judged_against_the_same_images(
    evaluated: tuple[Path, Evaluation], workshop: Path
) -> None:
    folder, result = evaluated
    row = next(b for b in result.benign if b.name.startswith("same-norm"))
    (path,) = (folder / "images").glob("fgsm-*.npz")
    stored, votes = read_attacked(path), _votes(folder / "out" / "votes.npz")
    won = (votes["fgsm/given"] != votes["fgsm/truth"]) & (votes["clean/given"] == votes["clean/truth"])[stored.source]
    source = stored.source[won]
    assert row.frames.count == len(source) == result.attacks[0].frames.count >= 10
    images = load_data("digits", (1, 32, 32), role="test").images[source]
    noisy = same_norm(images, stored.images[won], seed=3)
    with Screener.open(workshop / "bundle", seed=3) as screener:
        verdicts = list(screener.screen(noisy))
    assert row.frames.flagged.events == sum(v.verdict == "adversarial" for v in verdicts)
    after = collect_votes(open_bundle(workshop / "bundle"), noisy).evidence.changed.mean(axis=1)
    before = (votes["clean/votes"] != votes["clean/given"][:, None]).mean(axis=1)[source]
    pairs = (after[:, None] > before).mean() + 0.5 * (after[:, None] == before).mean()
    assert row.lcr.auroc.value == pytest.approx(pairs)


def test_foreign_images_are_counted_without_labels(
    evaluated: tuple[Path, Evaluation], workshop: Path, foreign: Path
) -> None:
    _, result = evaluated
    (row,) = [b for b in result.benign if b.kind == "foreign"]
    assert row.relabelled is None and row.frames.count == 40 and row.spec == str(foreign)
    with np.load(foreign) as archive, Screener.open(workshop / "bundle", seed=3) as screener:
        flagged = [v.verdict == "adversarial" for v in screener.screen(archive["images"])]
    assert row.frames.flagged.events == sum(flagged) > 0


def test_another_export_votes_under_this_table(evaluated: tuple[Path, Evaluation], workshop: Path, int8: Path) -> None:
    _, result = evaluated
    same, other = result.compared
    assert (same.relabelled.events, same.members_relabelled) == (0, 0.0)
    assert same.flagged == result.clean.every.flagged  # the same files: the same verdicts
    assert other.precision == "int8" and 0 < other.members_relabelled < 0.2
    data = load_data("digits", (1, 32, 32), role="test")
    opened, here = open_bundle(int8), open_bundle(workshop / "bundle")
    assert here.calibration is not None and here.calibration.evidence == "label"
    votes = collect_votes(opened, data.images)
    place = [[m.id for m in opened.bundle.members].index(id) for id in result.order]
    flagged = 0
    for changed in votes.evidence.changed[:, place]:  # one frame, one member after another
        test = SequentialTest(table_of(here.calibration))
        flagged += next(decision for vote in changed if (decision := test.update(bool(vote)))) == 1
    assert other.flagged.events == flagged
    assert other.relabelled.events == (votes.original != collect_votes(here, data.images).original).sum()


def test_baselines_see_the_frames_that_fool_the_exported_original(evaluated: tuple[Path, Evaluation]) -> None:
    _, result = evaluated
    (row,) = result.baselines
    (attack,) = result.attacks
    assert row.name == "softmax" and result.baseline_data == "digits#train"
    assert [(s.name, s.n, s.auroc.clean) for s in row.sets] == [("fgsm", attack.frames.count, result.clean.every.count)]


def test_a_limit_holds_for_its_attack_alone(evaluated: tuple[Path, Evaluation]) -> None:
    folder, result = evaluated
    (attack,) = result.attacks
    assert attack.given == 50 and attack.attacked <= 50 < result.clean.every.count
    assert result.images == str(folder / "images") and (folder / "images" / attack.file.path).is_file()
    assert not (folder / "out" / "attacked").exists()


def test_wrongly_labelled_images_are_a_row_of_their_own(evaluated: tuple[Path, Evaluation]) -> None:
    folder, result = evaluated
    votes = _votes(folder / "out" / "votes.npz")
    wrong = votes["clean/given"] != votes["clean/truth"]
    lcr = (votes["clean/votes"] != votes["clean/given"][:, None]).mean(axis=1)
    assert result.wrong.frames.count == wrong.sum() == result.clean.wrong.count > 0
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in lcr[wrong] for y in lcr[~wrong]]
    assert result.wrong.lcr.auroc.value == pytest.approx(np.mean(pairs))
    assert result.wrong.frames.flagged.events == votes["clean/flagged"][wrong].sum()


def test_a_killed_run_goes_on_where_it_was(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def until(most: int) -> None:
        def attack(*given: Any, **rest: Any) -> Any:
            if len(made) == most:
                raise KeyboardInterrupt
            made.append(given[3].name)
            return run_attack(*given, **rest)

        monkeypatch.setattr(image_store, "run_attack", attack)

    def evaluate(**rest: Any) -> Evaluation:
        attacks = ("fgsm:epsilon=0.1", "pgd:epsilon=0.1,steps=3", "bim:epsilon=0.1,steps=3")
        return evaluate_bundle(
            workshop / "bundle", workshop / "pool", "digits", attacks, out=tmp_path / "out", limit=40, **rest
        )

    until(2)
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert {path.name for path in tmp_path.iterdir()} == {"out.attacked"}  # no half report, no work lost
    until(99)
    result = evaluate()
    assert made == ["fgsm", "pgd", "bim"]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    again = evaluate(force=True)  # a report that is replaced gives its images to the next
    assert made == ["fgsm", "pgd", "bim"] and again.attacks == result.attacks
    mine = tmp_path / "out.attacked" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    evaluate(force=True)
    assert mine.read_text() == "keep"


def test_two_pools_of_one_original_share_the_images(
    workshop: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extras = Extras(images=tmp_path / "images")
    given = ("digits", ("fgsm:epsilon=0.1",))
    first = evaluate_bundle(workshop / "bundle", workshop / "pool", *given, out=tmp_path / "a", limit=40, extras=extras)
    monkeypatch.setattr(image_store, "run_attack", None)  # would fail
    pool = Path(shutil.copytree(workshop / "pool", tmp_path / "pool"))
    second = evaluate_bundle(bundle, pool, *given, out=tmp_path / "b", limit=40, extras=extras)
    assert first.attacks == second.attacks and len(list((tmp_path / "images").iterdir())) == 1


def test_what_does_not_fit_is_refused_before_anything_is_attacked(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "run_attack", None)

    def refused(extras: Extras, kind: type[Exception], says: str) -> None:
        with pytest.raises(kind, match=says):
            evaluate_bundle(workshop / "bundle", workshop / "pool", "digits", out=tmp_path / "out", extras=extras)
        assert list(tmp_path.iterdir()) == []

    refused(Extras(controls=("fog",)), UsageError, "unknown control 'fog'")
    refused(Extras(controls=("same-norm", "same-norm")), UsageError, "'same-norm' is given twice")
    refused(Extras(controls=("same-norm:epsilon=1",)), UsageError, "takes no settings")
    refused(Extras(controls=("jpeg", "jpeg:quality=75")), UsageError, "given twice with the same settings")
    refused(Extras(presets=("none",)), UsageError, "unknown preset 'none'")
    refused(Extras(limits={"nothing": 3}), UsageError, "unknown attack 'nothing'")
    refused(Extras(baselines=("softmax",)), UsageError, "add --baseline-data")
    refused(Extras(baselines=("magic",), baseline_data="digits"), UsageError, "unknown baseline 'magic'; expected all")
    refused(Extras(baselines=("all",), baseline_data="digits#test"), InputError, "baselines would be fitted on")
    refused(Extras(foreign=("no/such",)), InputError, "no/such: does not exist")
    refused(Extras(compare=(workshop / "pool",)), InputError, "no bundle.json in it")
    refused(Extras(images=tmp_path / "out" / "images"), UsageError, "lies in --out")
