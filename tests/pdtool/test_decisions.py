"""A calibration holds a table that decides every frame, or it is refused."""

import dataclasses

import numpy as np
import pytest

from pdtool.calibration.table import DecisionTable, GradedTable, replay, table_of
from pdtool.decisions import Calibration
from pdtool.errors import InputError
from pdtool.jsonform import decode, encode

REST = {
    "target_fpr": 0.1, "confidence": 0.95, "p0": None, "p1": None, "alpha": None, "beta": None, "at_cap": None,
    "after_change": False, "adversarial": "assumed", "power": 0.9, "clean_lcr": 0.05, "realised_fpr": 0.02,
    "fpr_upper": 0.05, "expected_models_clean": 2.0, "p99_models_clean": 3, "fit_images": 40, "check_images": 60,
    "check_groups": 60, "check_flagged": 1, "check_wrong": None, "check_wrong_flagged": None, "data": "d", "seen": "",
    "models_sha256": "0" * 64,
    "engines": "onnxruntime",
}  # fmt: skip


def counts(flag_at, clear_at, **changes):
    given = {
        "rule": "optimal", "evidence": "label", "max_models": len(flag_at), "flag_at": flag_at, "clear_at": clear_at,
        "flag_above": None, "clear_below": None, "temperatures": None,
    }  # fmt: skip
    models = {"models_clean": (0.0,) * (given["max_models"] - 1) + (1.0,)} if given["max_models"] else {}
    return Calibration(**(REST | models | given | changes))


def means(flag_above, clear_below, **changes):
    given = {
        "rule": "optimal", "evidence": "graded", "max_models": len(flag_above), "flag_at": None, "clear_at": None,
        "flag_above": flag_above, "clear_below": clear_below, "temperatures": (1.0,) * len(flag_above),
    }  # fmt: skip
    models = {"models_clean": (0.0,) * (given["max_models"] - 1) + (1.0,)} if given["max_models"] else {}
    return Calibration(**(REST | models | given | changes))


def random_counts(rng, members):
    flag = [int(rng.integers(0, n + 2)) for n in range(1, members + 1)]
    clear = [int(rng.integers(-1, f)) for f in flag]
    clear[-1] = flag[-1] - 1
    return (
        tuple(None if f > n else f for n, f in enumerate(flag, start=1)),
        tuple(None if c < 0 else c for c in clear),
    )


def random_means(rng, members):
    pairs = np.sort(rng.uniform(-1, 1, (members, 2)), axis=1)
    above = [float(high) if rng.random() < 0.6 else None for _, high in pairs]
    below = [float(low) if rng.random() < 0.6 else None for low, _ in pairs]
    above[-1] = below[-1] = float(rng.random())
    return tuple(above), tuple(below)


def test_every_table_that_decides_all_frames_is_taken_survives_its_file_and_comes_back():
    rng = np.random.default_rng(0)
    for _ in range(300):
        members = int(rng.integers(1, 9))
        c = counts(*random_counts(rng, members)) if rng.random() < 0.5 else means(*random_means(rng, members))
        again = decode(Calibration, encode(c), file="calibration.json")
        assert again == c
        table = table_of(again)
        assert isinstance(table, DecisionTable if c.evidence == "label" else GradedTable)
        evidence = rng.random((50, members))
        flagged, used = replay(table, evidence < 0.4 if c.evidence == "label" else evidence)
        assert used.max() <= members


def test_no_table_that_leaves_a_frame_undecided_is_taken():
    """Any two bounds for 3 members: taken if and only if they decide every count at the end, and each one way."""
    options = [None, -1, 0, 1, 2, 3, 4]
    for flag in options:
        for clear in options:
            z = np.arange(4)
            flags = z >= 9 if flag is None else z >= flag
            clears = z < 0 if clear is None else z <= clear
            whole = (flags ^ clears).all()
            legal = all(bound is None or 0 <= bound <= 3 for bound in (flag, clear))
            if whole and legal:
                counts((None, None, flag), (None, None, clear))
            else:
                with pytest.raises(ValueError, match="flag_at|clear_at"):
                    counts((None, None, flag), (None, None, clear))


def broken_counts(rng, flag, clear):
    """One thing wrong with a good table."""
    n = int(rng.integers(len(flag)))
    flag, clear = list(flag), list(clear)
    kind = rng.integers(5)
    if kind == 0:
        flag.append(0)
    elif kind == 1:
        flag[n] = n + 2  # more changes than models
    elif kind == 2:
        clear[n] = -1
    elif kind == 3:
        flag[n], clear[n] = 0, int(rng.integers(n + 2))  # decided both ways
    else:
        flag[-1] = clear[-1] = None
    return tuple(flag), tuple(clear)


def broken_means(rng, above, below):
    n = int(rng.integers(len(above)))
    above, below = list(above), list(below)
    kind = rng.integers(6)
    if kind == 0:
        below.append(0.0)
    elif kind == 1:
        above[n] = float("nan")
    elif kind == 2:
        below[n] = 1.5
    elif kind == 3:
        above[n], below[n] = 0.2, 0.3
    elif kind == 4:
        above[-1] = None
    else:
        below[-1] = above[-1] - 0.01
    return tuple(above), tuple(below)


def test_one_thing_wrong_with_a_table_is_enough():
    rng = np.random.default_rng(1)
    for _ in range(300):
        members = int(rng.integers(1, 9))
        with pytest.raises(ValueError, match="flag_at|clear_at"):
            counts(*broken_counts(rng, *random_counts(rng, members)))
        with pytest.raises(ValueError, match="flag_above|clear_below"):
            means(*broken_means(rng, *random_means(rng, members)))


@pytest.mark.parametrize(
    "name", ["target_fpr", "confidence", "realised_fpr", "fpr_upper", "clean_lcr", "power", "p0", "beta"]
)
@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_rates_are_rates(name, bad):
    with pytest.raises(ValueError, match=name):
        counts((1,), (0,), **{name: bad})


@pytest.mark.parametrize("temperatures", [None, (), (1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan"))])
def test_graded_evidence_needs_a_temperature_for_every_member(temperatures):
    with pytest.raises(ValueError, match="temperature"):
        means((None, 0.5), (None, 0.5), temperatures=temperatures)
    assert (
        means((None, 0.5), (None, 0.5), temperatures=(1.0, 2.0, 3.0)).max_models == 2
    )  # it may ask fewer than there are


@pytest.mark.parametrize("missing", ["flag_at", "clear_at"])
def test_evidence_needs_its_own_bounds(missing):
    with pytest.raises(ValueError, match="flag_at and clear_at"):
        dataclasses.replace(counts((1,), (0,)), **{missing: None})
    with pytest.raises(ValueError, match="flag_above and clear_below"):
        dataclasses.replace(counts((1,), (0,)), evidence="graded", temperatures=(1.0,), flag_at=None, clear_at=None)


def test_fields_of_the_other_evidence_are_refused():
    for extra in ({"flag_above": (0.5,)}, {"clear_below": (0.5,)}, {"temperatures": (1.0,)}):
        with pytest.raises(ValueError, match="other kind of evidence"):
            dataclasses.replace(counts((1,), (0,)), **extra)
    with pytest.raises(ValueError, match="other kind of evidence"):
        dataclasses.replace(means((None, 0.5), (None, 0.5)), flag_at=(None, 1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"flag_at": [9, 9]}, "0..1"),
        ({"flag_at": [None, None]}, "decide every count"),
        ({"max_models": 3}, "3 entries"),
        ({"max_models": 0}, "0 entries"),
        ({"models_clean": [0.5]}, "models_clean should be"),
        ({"models_clean": [0.5, 0.4]}, "shares that sum to 1"),
        ({"rule": "bayes"}, "rule"),
        ({"evidence": "logits"}, "evidence"),
        ({"surprise": 1}, "surprise"),
        ({"format": "pdtool.calibration/2"}, "format"),
    ],
)
def test_a_broken_file_is_named_with_its_field(changes, says):
    written = encode(counts((None, 1), (None, 0))) | changes
    with pytest.raises(InputError, match=says) as caught:
        decode(Calibration, written, file="calibration.json")
    assert "calibration.json" in str(caught.value)


def test_hypotheses_that_cross_and_a_rule_of_the_other_evidence_are_refused():
    with pytest.raises(ValueError, match="p0 should lie below p1"):
        dataclasses.replace(counts((1,), (0,)), p0=0.5, p1=0.2)
    with pytest.raises(ValueError, match="after_change belongs to label"):
        dataclasses.replace(means((None, 0.5), (None, 0.5)), after_change=True)
