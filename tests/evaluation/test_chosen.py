"""Which attacks are made: names that are file names, presets without repetitions, frames evenly over the data."""

import numpy as np
import pytest

from pdtool.errors import UsageError
from pdtool.evaluation.attacks import ATTACKS, PRESETS, parse_attack
from pdtool.evaluation.chosen import attack_limits, choose_attacks, evenly, group_of


def test_names_tell_settings_apart() -> None:
    chosen = choose_attacks(("fgsm", "deepfool", "fgsm:epsilon=0.1", "fgsm:epsilon=0.2"))
    assert list(chosen) == ["fgsm", "deepfool", "fgsm-2", "fgsm-3"]
    assert chosen["fgsm-3"].settings["epsilon"] == 0.2


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_adds_what_is_not_there_yet(preset: str) -> None:
    wanted = [parse_attack(text) for text in PRESETS[preset]]
    alone = choose_attacks((), (preset,))
    assert list(alone.values()) == wanted
    again = choose_attacks((PRESETS[preset][-1],), (preset, preset))
    assert len(again) == len(wanted) and set(map(str, again.values())) == set(map(str, wanted))


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown preset 'paper'; expected one of"):
        choose_attacks((), ("paper",))
    with pytest.raises(UsageError, match="given twice with the same settings"):
        choose_attacks(("fgsm", "fgsm:epsilon=0.03"))
    with pytest.raises(UsageError, match="expected at least one attack"):
        choose_attacks((), ())


def test_limits_are_read_and_checked() -> None:
    assert attack_limits(("cw=200", "pgd=5")) == {"cw": 200, "pgd": 5}
    for text, says in (("cw", "NAME=N"), ("cw=0", "at least 1"), ("cw=-3", "NAME=N"), ("no=3", "unknown attack 'no'")):
        with pytest.raises(UsageError, match=says):
            attack_limits((text,))
    with pytest.raises(UsageError, match="cw is given twice"):
        attack_limits(("cw=2", "cw=3"))


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 10), (10, 40), (7, 1), (1000, 333), (5, None)])
def test_frames_are_taken_evenly(count: int, limit: int | None) -> None:
    taken = evenly(count, limit)
    assert len(taken) == min(count, count if limit is None else limit)
    assert taken[0] == 0 and (np.diff(taken) > 0).all() and taken[-1] < count
    assert np.ptp(np.diff([*taken, count])) <= 1  # every stretch between two is as long as any other, or one longer


def test_every_attack_is_in_a_group() -> None:
    groups = {name: group_of(attack) for name, attack in ATTACKS.items()}
    assert groups["deepfool"] == groups["cw"] == "minimal-norm" and groups["pgd"] == groups["bim"] == "strong"
    assert groups["fgsm"] == "weak" and group_of(parse_attack("pgd:epsilon=2/255")) == "weak"
    assert group_of(parse_attack("fgsm:epsilon=8/255")) == "weak"  # a single step
    assert group_of(parse_attack("cw:confidence=20")) == "strong"
    assert set(groups.values()) <= {"minimal-norm", "weak", "strong", "black-box"}
