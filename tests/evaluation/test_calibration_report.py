"""The calibration report: its numbers by brute force and on a real bundle, its page whole in one file."""

import dataclasses
import itertools
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pdtool.calibration.evidence import Evidence
from pdtool.calibration.exact import operating
from pdtool.calibration.fit import CleanFrames
from pdtool.calibration.fit import calibrate as calibrate_frames
from pdtool.calibration.latent import ASSUMED
from pdtool.calibration.mmt import compile_mmt
from pdtool.calibration.promise import split
from pdtool.calibration.response import WITHIN, evidence_flagged, reach, respond
from pdtool.calibration.rules import Settings
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, GradedTable, SequentialTest, replay, table_of
from pdtool.calibration.wald import compile_wald
from pdtool.data import load_data
from pdtool.decisions import Grading
from pdtool.errors import InputError, MissingError, UsageError
from pdtool.evaluation import calibration_report as report
from pdtool.evaluation.calibration_study import ORDERS, Study, study
from pdtool.runtime.calibrate import Calibrated, calibrate_bundle

GRADED = GradedTable((None, 0.6, 0.3, None, 0.5, 0.4), (None, 0.01, 0.1, 0.2, None, 0.4))
COUNTS = {
    "wald": compile_wald(0.1, 0.5, 0.05, 0.05, 9, "threshold"),
    "never before the last": DecisionTable((None, None, None, 2), (None, None, None, 1)),
    "done before its cap": DecisionTable((1, 1, 1, 1, 2), (None, None, 0, 0, 1)),
    "mmt": compile_mmt(0.3, 0.6, 0.2, 0.2, 9),
}


def evidence_of(images, members, seed=0, hard=0.1):
    """Frames that hardly ever change a label, and a share of hard ones; graded evidence that goes with the changes."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(images) < hard, rng.beta(2, 4, images), rng.beta(0.5, 30, images))
    changed = rng.random((images, members)) < p[:, None]
    return Evidence(changed, np.where(changed, rng.beta(5, 2, changed.shape), rng.beta(1, 8, changed.shape)))


def calibrated(votes, attacked=None, wrong=None, groups=None, data="clean", **settings):
    frames = CleanFrames(
        evidence=votes,
        groups=np.arange(len(votes)) if groups is None else groups,
        wrong=wrong,
        grading=Grading(temperatures=(1.0,) * votes.changed.shape[1]),
    )
    given = Settings(**settings)
    c = calibrate_frames(
        frames, given, target_fpr=0.1, confidence=0.95, seed=0, data=data, seen="", models_sha256="0" * 64,
        attacked=attacked, accept_miss=True,
    )  # fmt: skip
    return Calibrated(c, given, frames, attacked)


def page_of(done, seed=0, fps=30.0):
    return report.html(done.calibration, study(done, seed=seed), seed=seed, fps=fps)


class Page(HTMLParser):
    """What a browser would show, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.text = [], [], ""
        self.feed(text)
        self.text = self.text.replace("\u00a0", " ")

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("href", "xlink:href", "src")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module", params=["graded", "label"])
def real(request, workshop: Path, tmp_path_factory) -> Calibrated:
    """The digits' bundle, calibrated anew."""
    bundle = tmp_path_factory.mktemp("calibrated") / "bundle"
    shutil.copytree(workshop / "plain", bundle)
    return calibrate_bundle(
        bundle,
        lambda size: load_data("digits", size, role="calibrate"),
        Settings(evidence=request.param),
        target_fpr=0.15,
        confidence=0.95,
        seed=0,
    )


@pytest.fixture(scope="module")
def studied(real: Calibrated) -> Study:
    return study(real, seed=0)


@pytest.mark.parametrize("name", COUNTS)
def test_the_staircase_of_counts_is_what_every_sequence_of_votes_meets(name):
    """All 2^N of them: no frame comes to a place outside, and both ends of every column are met."""
    table = COUNTS[name]
    bounds = reach(table)
    met: list[set[tuple[int, bool, int]]] = [set() for _ in range(table.max_models)]
    for votes in itertools.product((False, True), repeat=table.max_models):
        test = SequentialTest(table)
        for n, vote in enumerate(votes):
            decision = test.update(vote)
            met[n].add((int(sum(test.said)), vote, decision))
            if decision != CONTINUE:
                break
    assert len(bounds.low) == sum(map(bool, met))
    for n, places in enumerate(met[: len(bounds.low)]):
        counts = [z for z, _, _ in places]
        assert (min(counts), max(counts)) == (bounds.low[n] + 0.5, bounds.high[n] - 0.5)
        for z, changed, decision in places:
            if table.after_change and not changed:
                continue  # the picture is of frames whose last member changed the label
            assert decision == (CLEAR if z < bounds.clear_to[n] else FLAG if z > bounds.flag_from[n] else CONTINUE)


def test_the_staircase_of_means_holds_every_path():
    rng = np.random.default_rng(0)
    paths = np.concatenate([rng.beta(a, b, (40_000, 6)) for a, b in ((0.2, 0.2), (0.2, 2), (1, 1))])
    bounds = reach(GRADED)
    _, used = replay(GRADED, paths)
    assert len(bounds.low) == 6 == used.max()
    means = paths.cumsum(axis=1) / np.arange(1, 7)
    for n in range(6):
        here = means[used > n, n]
        assert bounds.low[n] <= here.min() <= here.max() <= bounds.high[n]
        assert here.max() - here.min() > 0.8 * (bounds.high[n] - bounds.low[n])
        decisions = GRADED.decide(n + 1, here, here)
        np.testing.assert_array_equal(decisions == FLAG, here > bounds.flag_from[n])
        np.testing.assert_array_equal(decisions == CLEAR, here <= bounds.clear_to[n])


def test_means_that_decide_everything_end_the_staircase():
    assert len(reach(GradedTable((0.2, 0.5, 0.5), (0.2, 0.5, 0.5))).low) == 1
    assert len(reach(GradedTable((0.5, 0.1, 0.5), (0.4, None, 0.5))).low) == 2  # 0.4 to 0.5 cannot fall to 0.1
    assert len(reach(GradedTable((0.0, 0.5), (None, 0.5))).low) == 2  # evidence of exactly 0 goes on


def test_simulated_frames_answer_like_the_exact_ones_where_graded_evidence_is_the_label_change():
    """Evidence 1 for a change and 0 else: thresholds between whole counts make both tests one."""
    changed = evidence_of(300, 9).changed
    clean = Evidence(changed, changed.astype(float))
    counts = COUNTS["wald"]
    above = tuple(None if k is None else (k - 0.5) / n for n, k in enumerate(counts.flag_at, start=1))
    below = tuple(None if k is None else (k + 0.5) / n for n, k in enumerate(counts.clear_at, start=1))
    means = GradedTable((*above[:-1], above[-1]), (*below[:-1], above[-1]))
    simulated, rates = respond(means, clean, np.random.default_rng(0))
    exact = operating(counts, simulated.p)
    assert simulated.frames is not None
    deviation = np.sqrt(exact.flag * (1 - exact.flag) / simulated.frames)
    assert (np.abs(simulated.flag - exact.flag) <= 4 * deviation + 2 / simulated.frames).all()
    assert np.abs(simulated.mean_models - exact.mean_models).max() < 0.3
    known, known_rates = respond(counts, clean, np.random.default_rng(0))
    assert known.frames is None and known.flag[60] == operating(counts, [0.3]).flag[0]
    assert list(rates) == list(known_rates) == [4, 8, 9]
    for n, rate in known_rates.items():
        assert rates[n] == pytest.approx(rate, abs=0.04)


def test_evidence_that_flags_is_the_least_that_does_from_there_on():
    used = {}
    for each in np.linspace(0, 1, 1001):
        test = SequentialTest(GRADED)
        while test.decision == CONTINUE:
            test.update(float(each))
        used[float(each)] = test.models_used if test.decision == FLAG else 99
    for most in range(1, 7):
        enough = [each for each in used if all(n <= most for above, n in used.items() if above >= each)]
        assert evidence_flagged(GRADED, most) == (min(enough) if enough else None)
    assert evidence_flagged(GRADED, 1) is None
    assert evidence_flagged(GRADED, 2) == pytest.approx(0.6, abs=0.0011)
    assert evidence_flagged(GRADED, 3) == pytest.approx(0.3, abs=0.0011)
    assert evidence_flagged(COUNTS["wald"], 4) is None


def test_the_study_shows_the_frames_that_the_calibration_counted(real: Calibrated, studied: Study) -> None:
    c = real.calibration
    assert studied.clean_used.mean() == pytest.approx(c.expected_models_clean)
    assert len(studied.clean_used) == c.check_images
    assert studied.most_models <= c.max_models and studied.most_models >= studied.clean_used.max()
    assert studied.needs[-1].within == studied.most_models
    assert studied.needs[-1].adversarial_flagged == pytest.approx(c.power)
    assert studied.needs[-1].clean_decided == 1
    assert [need.within for need in studied.needs[:-1]] == [n for n in WITHIN if n < studied.most_models]
    assert all((need.mean_evidence is None) == (c.evidence == "label") for need in studied.needs)
    assert studied.expected.sum() == pytest.approx(1)
    fit, _ = split(real.frames.groups, 0)
    rates = np.arange(len(studied.expected)) / (len(studied.expected) - 1)
    assert studied.expected @ rates == pytest.approx(real.frames.evidence.changed[fit].mean(), abs=0.02)


def test_the_calibration_stands_among_the_rules_with_its_own_numbers(real: Calibrated, studied: Study) -> None:
    c = real.calibration
    (own,) = [row for row in studied.compared if row.name == studied.own]
    assert studied.own == {"label": "optimal", "graded": "optimal, graded"}[c.evidence]
    assert (own.realised_fpr, own.fpr_upper, own.power) == (c.realised_fpr, c.fpr_upper, c.power)
    assert (own.mean_models, own.p99_models) == (c.expected_models_clean, c.p99_models_clean)
    set_here = dataclasses.replace(real, settings=dataclasses.replace(real.settings, mean_models=50.0))
    other = study(set_here, seed=0)
    assert other.own == "optimal, as set here" == other.compared[0].name
    assert other.compared[1:] == studied.compared and other.compared[0].fpr_upper == c.fpr_upper


def test_a_session_asks_all_frames_in_one_order() -> None:
    """Members of which one always changes the label: a session's false alarms are none or all, as that one comes."""
    changed = np.zeros((200, 4), dtype=bool)
    changed[:, 2] = True
    done = calibrated(Evidence(changed), rule="wald", p0=0.1, p1=0.6, max_models=2)
    sessions = study(done, seed=0).sessions
    table = table_of(done.calibration)
    possible = {float(replay(table, changed[:, order])[0].mean()) for order in itertools.permutations(range(4))}
    assert possible == {0.0, 1.0} == set(sessions.fpr)
    assert len(sessions.fpr) == ORDERS and 0.2 < sessions.fpr.mean() < 0.8
    assert sessions.middle == (0.0, 1.0)


def test_the_order_moves_nothing_where_all_members_are_asked() -> None:
    done = calibrated(evidence_of(300, 8), rule="fixed", evidence="label")
    sessions = study(done, seed=0).sessions
    assert set(sessions.fpr) == {done.calibration.realised_fpr} and set(sessions.mean_models) == {8}
    assert "The order of members moves no false alarms" in page_of(done)


def test_another_seed_than_the_calibrations_is_noticed() -> None:
    done = calibrated(evidence_of(300, 8), groups=np.repeat(np.arange(60), np.arange(60) % 9 + 1)[:300])
    with pytest.raises(ValueError, match="seed 1 does not split"):
        study(done, seed=1)


def test_the_page_is_one_file_of_same_bytes_with_all_that_it_should_say(real: Calibrated, studied: Study) -> None:
    c = real.calibration
    text = report.html(c, studied, seed=0, fps=25)
    assert text == page_of(real, fps=25)
    page = Page(text)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == 8
    assert "prefers-color-scheme: dark" in text and "mathdefault" not in text
    for line in (*report.summary(c, studied, 25), *report.limits(c)):
        assert line in page.text, line
    for row in studied.compared:
        assert row.name in page.text
    assert f"{c.realised_fpr * 90_000:,.0f}" in page.text and f"{c.fpr_upper * 90_000:,.0f}" in page.text  # an hour
    assert f"{c.check_wrong_flagged} of {c.check_wrong}" in page.text
    assert ("simulated" in page.text) == (c.evidence == "graded")
    assert "The promise is kept." in page.text and "not kept:" not in page.text


def test_a_rule_without_a_test_is_shown_with_its_reason_and_names_are_text() -> None:
    """No member ever changes a label: the papers' rule has no hypotheses; the calibration still stands."""
    evil = "<script>alert(1)</script>"
    done = calibrated(Evidence(np.zeros((400, 6), dtype=bool)), data=evil, rule="fixed", evidence="label")
    page = Page(page_of(done))
    assert "script" not in page.tags and evil in page.text
    assert "no test: the clean label change rate is 0.0000" in page.text
    assert "graded" not in page.text  # nothing is said of evidence that was not recorded


def test_a_missed_promise_and_a_useless_test_are_said_first() -> None:
    done = calibrated(evidence_of(300, 8, hard=0.9), rule="wald", p0=0.01, p1=0.02)
    c = done.calibration
    assert c.fpr_upper > c.target_fpr
    page = Page(page_of(done)).text
    assert page.index("The promise is not kept") < page.index("In short") < page.index("The promise is NOT kept")
    weak = dataclasses.replace(c, power=0.05)
    assert any("hardly any" in line for line in report.summary(weak, study(done, seed=0), 30))


def test_what_is_not_promised_depends_on_what_was_measured() -> None:
    clean, attacked = evidence_of(600, 8, hard=0.02), evidence_of(200, 8, seed=1, hard=1.0)
    groups = np.arange(600) // 2
    assumed, measured = calibrated(clean), calibrated(clean, attacked=attacked, groups=groups)
    one, other = (" ".join(report.limits(done.calibration)) for done in (assumed, measured))
    assert f"{100 * ASSUMED.p.min():.1f} %" in one and "None were at hand" in one
    assert "None were at hand" not in other and "given with --attacked" in other
    assert "independent sources" not in one and "independent sources, not of" in other
    page = Page(page_of(measured)).text
    assert "adversarial, given (n = 200)" in page and "assumed" not in page
    assert "The images have no labels" in page


@pytest.mark.parametrize(
    "settings",
    [{"rule": "wald"}, {"rule": "mmt"}, {"rule": "fixed", "evidence": "graded"}, {"evidence": "graded"}, {}],
)
def test_every_rule_has_a_page(settings) -> None:
    wrong = np.arange(300) % 7 == 0
    done = calibrated(evidence_of(300, 5), wrong=wrong, **settings)
    page = Page(page_of(done))
    assert page.tags.count("svg") == 8
    right = done.calibration.check_images - done.calibration.check_wrong
    assert f"of {right}), of those it gets wrong" in page.text
    assert ("decides only when the last member asked changed the label" in page.text) == (settings.get("rule") == "mmt")


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"r.pdf: expected a name that ends in .html"):
        report.check_report(tmp_path / "r.pdf")
    with pytest.raises(InputError, match=r"missing does not exist; make it or choose another"):
        report.check_report(tmp_path / "missing" / "r.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        report.check_report(tmp_path / "folder.html")
    for module in ("jinja2", "matplotlib"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(MissingError, match=rf"{module} is needed .* pip install 'pdtool\[evaluate\]'"):
                report.check_report(tmp_path / "r.html")
    report.check_report(tmp_path / "r.html")


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    done = calibrated(evidence_of(300, 8))
    report.write_report(tmp_path / "r.html", done, seed=0, fps=30)
    assert (tmp_path / "r.html").read_text() == page_of(done)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
