"""All rules side by side are each calibrated as alone."""

import numpy as np

from pdtool.calibration.compare import compare, every_rule
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import CleanFrames, calibrate
from pdtool.decisions import Grading


def test_every_row_is_the_calibration_of_its_rule(votes):
    rng = np.random.default_rng(0)
    evidence = votes(rng.beta(0.3, 5, 400), 8, rng)
    frames = CleanFrames(evidence=evidence, groups=np.arange(400), grading=Grading(temperatures=(1.0,) * 8))
    rows = compare(frames, max_models=6, target_fpr=0.1, confidence=0.9, seed=1)
    settings = every_rule(6, margin=False)
    assert [row.name for row in rows] == list(settings)
    assert {row.evidence for row in rows} == {"label", "graded"}
    for row in rows:
        c = calibrate(
            frames, settings[row.name], target_fpr=0.1, confidence=0.9, seed=1, data="", seen="",
            models_sha256="", accept_miss=True,
        )  # fmt: skip
        assert row.evidence == c.evidence
        assert (row.realised_fpr, row.fpr_upper, row.power) == (c.realised_fpr, c.fpr_upper, c.power)
        assert (row.mean_models, row.p99_models) == (c.expected_models_clean, c.p99_models_clean)
        assert row.kept == (c.fpr_upper <= 0.1)
        assert row.most_models is not None and row.p99_models is not None
        assert row.p99_models <= row.most_models <= 6
    assert sum(row.kept for row in rows) >= 5


def test_rules_without_a_test_say_why_and_graded_ones_need_graded_evidence():
    frames = CleanFrames(evidence=Evidence(np.zeros((200, 5), dtype=bool)), groups=np.arange(200))
    rows = compare(frames, max_models=5, target_fpr=0.1, confidence=0.9, seed=0)
    assert {row.evidence for row in rows} == {"label"}
    for row in rows:
        if "papers" in row.name or row.name == "mmt":  # no label ever changed: no hypotheses
            assert "label change rate is 0.0000" in row.why
            assert row.realised_fpr is row.power is None
            assert not row.kept
        else:
            assert (row.why, row.realised_fpr, row.kept) == ("", 0.0, True)


def test_measured_adversarial_frames_are_what_power_belongs_to(votes):
    rng = np.random.default_rng(1)
    frames = CleanFrames(evidence=Evidence(votes(rng.beta(0.3, 5, 300), 6, rng).changed), groups=np.arange(300))
    weak = Evidence(np.zeros((50, 6), dtype=bool))
    rows = compare(frames, max_models=6, target_fpr=0.15, confidence=0.9, seed=1, attacked=weak)
    power = {row.name: row.power for row in rows if row.power is not None}
    assert power.pop("papers' test, exhausted is adversarial", 1.0) == 1.0  # 6 members can clear nothing
    assert set(power.values()) == {0.0}
