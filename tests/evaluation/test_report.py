"""The report: one file, nothing fetched, nothing executed, every number with its n."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pdtool.artifacts import FileEntry
from pdtool.decisions import Verdict
from pdtool.evaluation.diversity import Diversity
from pdtool.evaluation.metrics import mean, rate
from pdtool.evaluation.report import LIMITS, Evidence, html_report, markdown_report
from pdtool.evaluation.results import AttackResult, CleanResult, Evaluation, Subject
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
    count = len(given)
    rng = np.random.default_rng(len(name))
    verdicts = tuple(
        Verdict(
            frame=i,
            source=name,
            time=0.0,
            label=CLASSES[given[i]],
            verdict="adversarial" if flagged[i] else "clean",
            models_used=2 + i,
            changes=1,
            evidence=1 / (2 + i),
            corrected_label=CLASSES[truth[i]] if flagged[i] else None,
            latency_ms=1.0,
        )
        for i in range(count)
    )
    return Screened(
        name=name,
        images=rng.random((count, 8, 8, 3)).astype(np.float32),
        truth=np.array(truth),
        source=np.arange(count),
        verdicts=verdicts,
        given=np.array(given),
        lcr=np.linspace(0, 1, count),
        score=np.linspace(0, 1, count),
        diversity=Diversity(correlation=0.5, effective_votes=1.8),
        flagged=np.array(flagged),
        screened=np.ones(count, dtype=bool),
        corrected=np.array([truth[i] if flagged[i] else -1 for i in range(count)]),
        used=np.arange(count) + 2,
        cost=np.linspace(1.0, 2.0, count),
    )


@pytest.fixture(scope="module")
def made() -> tuple[Evaluation, Evidence]:
    clean = _screened("clean", [0, 1, 2, 0], [0, 1, 2, 1], [False, True, False, True])
    attacked = _screened("fgsm", [1, 2, 0], [0, 1, 0], [True, False, False])
    fooled = attacked.wrong
    yes = rate(np.array([True, False]))
    evaluation = Evaluation(
        pdtool="0",
        subject=Subject(
            model="lenet5",
            method="random-channel",
            rate=0.5,
            members=9,
            original_accuracy=0.9,
            original_macs=1_000_000,
            member_macs=300_000.0,
            bundle_digest="d" * 64,
            rule="wald",
            evidence="label",
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
        seed=7,
        clean=CleanResult(
            images=4,
            accuracy=rate(~clean.wrong),
            flagged=rate(clean.flagged),
            right_flagged=rate(clean.flagged[~clean.wrong]),
            wrong_flagged=rate(clean.flagged[clean.wrong]),
            unscreened=0,
            models_used=mean(clean.used),
            most_models_used=5,
            cost=mean(clean.cost),
            label_change_rate=0.1,
            diversity=clean.diversity,
        ),
        attacks=(
            AttackResult(
                name="fgsm",
                spec="fgsm:epsilon=0.03",
                description="one step",
                source="someone",
                settings={"epsilon": 0.03},
                file=FileEntry(path="fgsm.npz", bytes=10, sha256="a" * 64),
                attacked=3,
                success=rate(fooled),
                lost=0,
                linf=0.03,
                l2=1.0,
                flagged=rate(attacked.flagged[fooled]),
                auroc=0.75,
                corrected=rate(np.zeros(0, dtype=bool)),
                failed_flagged=yes,
                unscreened=1,
                models_used=2.5,
                most_models_used=3,
                cost=1.7,
                label_change_rate=0.4,
                diversity=attacked.diversity,
            ),
        ),
        whole_pool_cost=3.7,
        seconds={"screen": 1.0},
    )
    return evaluation, Evidence(clean, (attacked,), CLASSES)


def test_the_page_needs_nothing_from_elsewhere(made: tuple[Evaluation, Evidence]) -> None:
    page = html_report(*made)
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


def test_names_are_escaped(made: tuple[Evaluation, Evidence]) -> None:
    page = html_report(*made)
    assert "<b>go</b>" not in page and "clean<script>" not in page
    text = _Page(page).text
    assert "<b>go</b>" in text and "turn & wait" in text and "photos/'quoted' & more" in text


def test_numbers_stand_with_their_n(made: tuple[Evaluation, Evidence]) -> None:
    text = " ".join(_Page(html_report(*made)).text.split())
    assert "2 of 4 clean frames were cleared" in text
    assert "1 of 2 (fgsm) were flagged" in text
    assert "50.0 % 2 of 4; 15.0–85.0 %" in text  # the interval of 2 of 4
    assert "66.7 % (2 of 3)" in text  # success
    assert "n = 4" in text and "n = 2" in text  # the plots
    assert "Unscreened: 0 clean, 1 attacked frames." in text
    for limit in LIMITS:
        assert limit in text


def test_every_frame_shows_its_verdict_and_its_error(made: tuple[Evaluation, Evidence]) -> None:
    page = html_report(*made)
    text = " ".join(_Page(page).text.split())
    assert text.count("⚑ flagged: false alarm") == 1 and text.count("✓ cleared: missed") == 1
    assert "1 of the 2 attacked frames that fool the original" in text
    assert page.count("<img") == 2 * 3 + 4  # two attacked frames in three pictures each, four clean frames
    assert "disagreed" in text and "members say" in text


def test_light_and_dark(made: tuple[Evaluation, Evidence]) -> None:
    page = html_report(*made)
    assert "color-scheme: light dark" in page and "prefers-color-scheme: dark" in page
    assert "currentColor" in page  # the plots take the page's ink


def test_same_numbers_same_bytes(made: tuple[Evaluation, Evidence]) -> None:
    assert html_report(*made) == html_report(*made)


def test_markdown_has_a_row_an_attack(made: tuple[Evaluation, Evidence]) -> None:
    evaluation, _ = made
    text = markdown_report(evaluation)
    assert "| clean | 4 | 50.0 % (2 of 4) | 15.0–85.0 % |" in text
    assert "| fgsm:epsilon=0.03 | 2 | 50.0 % (1 of 2) |" in text and "| – (0 frames) | 2.5 | 1.7 |" in text
    assert all(f"- {limit}" in text for limit in LIMITS)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table[:4]}) == 1


def test_many_false_alarms_are_not_all_drawn(made: tuple[Evaluation, Evidence], tmp_path: Path) -> None:
    evaluation, evidence = made
    many = _screened("clean", [0] * 30, [0] * 30, [True] * 30)
    page = html_report(evaluation, dataclasses.replace(evidence, clean=many))
    assert page.count("false alarm") < 10 and "30 of the 30 clean frames" in page
