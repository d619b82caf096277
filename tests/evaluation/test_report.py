"""The report: one file, nothing fetched, nothing executed, every number with its n."""

import dataclasses
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pdtool.artifacts import FileEntry
from pdtool.decisions import Verdict
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.attacks import parse_attack
from pdtool.evaluation.baselines import BaselineResult, BaselineSet
from pdtool.evaluation.canvas import COLOURS
from pdtool.evaluation.counting import (
    attack_result,
    clean_result,
    count_frames,
    overall,
    separate,
    worst_case,
    wrong_result,
)
from pdtool.evaluation.metrics import mean_of, rate
from pdtool.evaluation.report import LIMITS, Evidence, html_report
from pdtool.evaluation.report_markdown import markdown_report
from pdtool.evaluation.report_plots import cost_curves, histograms, roc_curves
from pdtool.evaluation.report_tables import tables
from pdtool.evaluation.report_words import labels, summary
from pdtool.evaluation.results import (
    AttackResult,
    BenignResult,
    CompareResult,
    Evaluation,
    Machine,
    Subject,
)
from pdtool.evaluation.screening import Screened

CLASSES = ("stop", "<b>go</b>", "turn & wait")


class _Page(HTMLParser):
    """Collects tags, attributes and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def _screened(name: str, given: list[int], truth: list[int], flagged: list[bool]) -> Screened:
    """Nine members, of which ever more disagree from the first frame to the last."""
    count = len(given)
    rng = np.random.default_rng(len(name))
    verdicts = tuple(
        Verdict(
            frame=i,
            source=name,
            time=0.0,
            label=CLASSES[given[i]],
            verdict="adversarial" if flagged[i] else "clean",
            models_used=2 + i % 7,
            changes=1,
            evidence=1 / (2 + i % 7),
            corrected_label=CLASSES[truth[i]] if flagged[i] else None,
            latency_ms=1.0,
        )
        for i in range(count)
    )
    changes = np.arange(9) < np.linspace(0, 9, count)[:, None]
    labels = np.array(given)[:, None]
    return Screened(
        name=name,
        images=rng.random((count, 8, 8, 3)).astype(np.float32),
        truth=np.array(truth),
        source=np.arange(count) if name == "clean" else np.arange(count) % 3,  # those that the original gets right
        verdicts=verdicts,
        given=np.array(given),
        order=tuple(f"m{i:03d}" for i in range(9)),
        kinds=None,
        votes=np.where(changes, (labels + 1) % 3, labels),
        graded=np.where(changes, 0.8, 0.1) + rng.random((count, 9)) / 10,
        evidence="label",
        costs=1 + 0.3 * np.arange(10, dtype=np.float64),
        flagged=np.array(flagged),
        screened=np.ones(count, dtype=bool),
        corrected=np.array([truth[i] if flagged[i] else -1 for i in range(count)]),
        used=np.arange(count) % 7 + 2,
    )


def _attacked(name: str, frames: Screened) -> AttackResult:
    count = len(frames)
    found = Attacked(
        images=np.asarray(frames.images, dtype=np.float32),
        labels=frames.truth,
        given=frames.given,
        success=frames.wrong,
        source=frames.source,
        linf=np.full(count, 0.03),
        l2=np.full(count, 1.0),
        provenance={},
    )
    clean = _screened("clean", [0, 1, 2, 0], [0, 1, 2, 1], [False, True, False, True])
    file = FileEntry(path=f"{name}.npz", bytes=10, sha256="a" * 64)
    return attack_result(name, parse_attack(name.partition("-")[0]), file, count, found, frames, clean)


@pytest.fixture(scope="module")
def made() -> tuple[Evaluation, Evidence]:
    clean = _screened("clean", [0, 1, 2, 0], [0, 1, 2, 1], [False, True, False, True])
    attacked = _screened("fgsm", [1, 2, 0], [0, 1, 0], [True, False, False])
    many = _screened("pgd", [1] * 12, [0] * 12, [True] * 3 + [False] * 9)
    results = (_attacked("fgsm", attacked), _attacked("pgd", many))
    everything = np.ones(4, dtype=bool)
    evaluation = Evaluation(
        pdtool="0",
        command="pdtool evaluate 'a <b>'",
        machine=Machine(cpu="a <cpu>", cores=2, gpus=(), engines="onnxruntime"),
        subject=Subject(
            model="lenet5",
            method="random-channel",
            rate=0.5,
            members=9,
            original_accuracy=0.9,
            original_macs=1_000_000,
            member_macs=300_000.0,
            bundle_digest="d" * 64,
            precision="fp32",
            rule="wald",
            evidence="label",
            temperatures="1",
            target_fpr=0.05,
            confidence=0.95,
            fpr_upper=0.049,
            p0=0.1,
            p1=0.5,
            max_models=9,
            calibration_data="clean<script>",
            calibration_images=400,
        ),
        data="photos/'quoted' & more",
        data_fingerprint="f" * 64,
        images="attacked",
        seed=7,
        order=clean.order,
        overall=overall(results, "label"),
        worst_case=worst_case(clean, (attacked, many)),
        clean=clean_result(clean),
        wrong=wrong_result(clean),
        attacks=results,
        benign=(
            BenignResult(
                name="jpeg",
                kind="control",
                spec="jpeg:quality=75",
                description="JPEG compression",
                relabelled=rate(~everything),
                frames=count_frames(clean, everything),
                lcr=separate(clean.lcr(), clean.lcr()),
            ),
        ),
        compared=(
            CompareResult(
                bundle="other|bundle",
                digest="e" * 64,
                precision="int8",
                relabelled=rate(~everything),
                members_relabelled=0.125,
                flagged=rate(clean.flagged),
                label_change_rate=mean_of(clean.lcr()),
            ),
        ),
        baselines=(
            BaselineResult(
                name="softmax",
                source="Hendrycks and Gimpel 2017",
                passes=1.0,
                n_fit=0,
                sets=(
                    BaselineSet(
                        name="pgd",
                        n=12,
                        auroc=results[1].lcr.auroc,
                        tpr_1=results[1].lcr.tpr_1,
                        tpr_5=results[1].lcr.tpr_5,
                    ),
                ),
            ),
        ),
        baseline_data="train",
        whole_pool_cost=3.7,
        seconds={"screen": 1.0},
    )
    return evaluation, Evidence(clean, (attacked, many), CLASSES)


@pytest.fixture(scope="module")
def page(made: tuple[Evaluation, Evidence]) -> str:
    return html_report(*made)


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    parsed = _Page(page)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    for name, value in parsed.attributes:
        if name == "src":
            assert value is not None and value.startswith("data:image/png;base64,")
        if name.endswith("href"):
            assert value is not None and value.startswith("#")
        assert not name.startswith("on")
    assert "http://" not in page and "https://" not in page and "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_names_are_escaped(page: str) -> None:
    assert "<b>go</b>" not in page and "clean<script>" not in page
    text = _Page(page).text
    assert "<b>go</b>" in text and "turn & wait" in text and "photos/'quoted' & more" in text


def test_numbers_stand_with_their_n(page: str) -> None:
    text = " ".join(_Page(page).text.split())
    assert "Of the clean frames 50.0 % (2 of 4) were cleared (15.0–85.0 %)" in text
    assert "66.7 %2 of 320.8–93.9 %" in text.replace("\u2009", "")  # fgsm's success, its n and its interval
    assert "n = 4" in text and "n = 2" in text and "n = 12" in text  # the plots
    assert "not_there" not in text and "12.5 %" in text and "other|bundle" in text
    for limit in LIMITS:
        assert limit in text


def test_the_worst_attack_comes_first(made: tuple[Evaluation, Evidence], page: str) -> None:
    evaluation, _ = made
    first, second, third, *rest = summary(evaluation)
    assert first.startswith("An attacker who tries every attack on each image gets 100.0 % (3 of 3) of the images")
    assert second.startswith("Of the attacks alone pgd:") and "75.0 % (9 of 12) of the images" in second
    assert third.startswith("Of the frames that pgd:") and "25.0 % (3 of 12) were flagged" in third
    assert "fewest" not in third and "; the AUROC is" in third  # the only attack with frames enough
    assert any("In no mean" in line and "fgsm" in line for line in rest)  # two frames
    assert page.index("An attacker who tries") < page.index("Of the clean frames")
    alone = dataclasses.replace(
        evaluation, attacks=evaluation.attacks[1:], overall=overall(evaluation.attacks[1:], "label")
    )
    assert summary(alone)[0].startswith("An attacker with pgd:") and summary(alone)[1].startswith("Of the frames")


def test_every_frame_shows_its_verdict_and_its_error(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, evidence = made
    page = html_report(evaluation, dataclasses.replace(evidence, attacked=evidence.attacked[:1]))
    text = " ".join(_Page(page).text.split())
    assert text.count("⚑ flagged: false alarm") == 1 and text.count("✓ cleared: missed") == 1
    assert "1 of the 2 attacked frames that fool the original" in text
    assert page.count("<img") == 2 * 3 + 4  # two attacked frames in three pictures each, four clean frames
    assert "disagreed" in text and "members say" in text


def test_both_reports_print_the_same_figures(made: tuple[Evaluation, Evidence], page: str) -> None:
    evaluation, _ = made
    flat, text = " ".join(_Page(page).text.replace("\u00a0", " ").split()), markdown_report(evaluation)
    for table in tables(evaluation):
        assert f"## {table.title}" in text and table.title in flat
        for row in table.rows:
            assert len(row) in (1, len(table.headers))
            for figure, beside in row:
                assert figure.strip().replace("|", "\\|") in text and figure.strip() in flat
                assert beside.replace("|", "\\|") in text


def test_evidence_that_weighs_the_margin_is_called_so(made: tuple[Evaluation, Evidence]) -> None:
    plain = markdown_report(made[0])
    weighed = markdown_report(replace(made[0], subject=replace(made[0].subject, evidence="margin")))
    assert "the original's margin weighed in" in weighed and "margin weighed in" not in plain


def test_attacks_stand_in_groups(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, _ = made
    first = tables(evaluation)[0]
    names = [row[0][0] for row in first.rows]
    assert names.index("weak") < names.index("fgsm") < names.index("strong") < names.index("pgd")
    assert "minimal-norm" not in names and "black-box" not in names  # none was made
    assert names[0] == "worst attack of each image"


def test_ten_attacks_have_curves_of_their_own(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, evidence = made
    names = [f"pgd-{i}" for i in range(10)]
    many = tuple(dataclasses.replace(evidence.attacked[1], name=name) for name in names)
    specs = [parse_attack(f"pgd:epsilon={i}/255,steps={20 if i == 3 else 10}") for i in (1, 3, 2, 4, 5, 6, 7, 8, 9, 10)]
    attacks = tuple(
        dataclasses.replace(evaluation.attacks[1], name=name, spec=of.spec, settings=dict(of.settings))
        for name, of in zip(names, specs, strict=True)
    )
    called = labels(attacks)
    assert list(called) == names and called["pgd-0"] == "pgd epsilon=1/255"
    ten = dataclasses.replace(evaluation, attacks=attacks)
    for plot in (
        roc_curves(ten, dataclasses.replace(evidence, attacked=many)),
        cost_curves(ten),
    ):
        styles = re.findall(r'stroke: (#[0-9a-f]{6});[^"]*stroke-width: 1\.8', plot)
        dashed = re.findall(r'stroke-dasharray: [^;]*;[^"]*stroke: (#[0-9a-f]{6}); stroke-width: 1\.8', plot)
        assert set(styles) == set(COLOURS) and len(set(dashed)) == 4  # six solid lines, then dashed ones
        assert all(f"{name} (n = 12)" in plot for name in called.values())
    assert histograms(ten, dataclasses.replace(evidence, attacked=many)).count(">pgd epsilon=") == 10


@pytest.mark.parametrize("count", [4, 30, 60, 400])
def test_roc_curves_begin_within_the_plot(
    made: tuple[Evaluation, Evidence], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    evaluation, evidence = made
    figure = Figure()
    monkeypatch.setattr("pdtool.evaluation.report_plots.svg_of", lambda title, draw, size: draw(figure))
    clean = _screened("clean", [0] * count, [0] * count, [True] * count)
    roc_curves(evaluation, dataclasses.replace(evidence, clean=clean))
    for axes in figure.axes:
        left, _ = axes.get_xlim()
        assert left <= 0.01 and left < 1 / count
        curves = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
        assert len(curves) == 3 and all(np.min(curve.get_xdata()) == pytest.approx(left) for curve in curves)
        assert "worst of each image that any attack fooled (n = 3)" in [line.get_label() for line in curves]


def test_an_attack_of_one_setting_is_called_by_its_name_alone(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, _ = made
    assert labels(evaluation.attacks) == {"fgsm": "fgsm", "pgd": "pgd"}
    other = parse_attack("fgsm:epsilon=0.0075")
    both = (
        evaluation.attacks[0],
        dataclasses.replace(evaluation.attacks[0], name="fgsm-2", spec=other.spec, settings=dict(other.settings)),
    )
    steps = [parse_attack(f"pgd:epsilon={e},steps={n}") for e, n in ((0.1, 3), (0.1, 5), (0.2, 3))]
    three = tuple(
        dataclasses.replace(evaluation.attacks[1], name=f"{i}", spec=of.spec, settings=dict(of.settings))
        for i, of in enumerate(steps)
    )
    assert list(labels(three).values()) == ["pgd epsilon=0.1 steps=3", "pgd epsilon=0.1 steps=5", "pgd epsilon=0.2"]
    assert labels(both) == {"fgsm": "fgsm epsilon=0.03", "fgsm-2": "fgsm epsilon=0.0075"}


def test_nothing_that_fooled_the_original_is_still_a_report(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, evidence = made
    nothing = _screened("fgsm", [0, 1, 2], [0, 1, 2], [False] * 3)
    results = (_attacked("fgsm", nothing),)
    empty = dataclasses.replace(
        evaluation, attacks=results, overall=overall(results, "label"), worst_case=worst_case(evidence.clean, [nothing])
    )
    page = html_report(empty, dataclasses.replace(evidence, attacked=(nothing,)))
    assert "In no mean" in page and "nan" not in _Page(page).text
    assert "| fgsm (one signed gradient step" in markdown_report(empty)


def test_light_and_dark(page: str) -> None:
    assert "color-scheme: light dark" in page and "prefers-color-scheme: dark" in page
    assert "currentColor" in page  # the plots take the page's ink


def test_same_numbers_same_bytes(made: tuple[Evaluation, Evidence], page: str) -> None:
    assert html_report(*made) == page


def test_markdown_tables_are_whole(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, _ = made
    text = markdown_report(evaluation)
    assert "| clean |  | 4 |  | 50.0 % (2 of 4; 15.0–85.0 %) |" in text
    assert "pdtool evaluate 'a <b>'" in text and "seed 7" in text and "other\\|bundle" in text
    assert all(f"- {limit}" in text for limit in LIMITS)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_many_false_alarms_are_not_all_drawn(made: tuple[Evaluation, Evidence], tmp_path: Path) -> None:
    evaluation, evidence = made
    many = _screened("clean", [0] * 30, [0] * 30, [True] * 30)
    page = html_report(evaluation, dataclasses.replace(evidence, clean=many))
    assert page.count("false alarm") < 10 and "30 of the 30 clean frames" in page
