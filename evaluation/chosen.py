"""Which attacks an evaluation makes, under which names, and on how many images."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pdtool.errors import UsageError
from pdtool.evaluation.attacks import ATTACKS, PRESETS, Attack, parse_attack
from pdtool.evaluation.results import Group

__all__ = ["attack_limits", "choose_attacks", "evenly", "group_of"]

BLACK_BOX = ("one-pixel", "square", "local-search")
STRONG_FROM = 0.03  # what papers give iterated attacks in [0, 1] pixels: 0.03 or 8/255


def choose_attacks(attacks: Sequence[str], presets: Sequence[str] = ()) -> dict[str, Attack]:
    """Each attack under a name that is a file name: its own, with -2, -3 behind it for other settings of the same.

    A preset's attack that is there already is left out. Raises UsageError for an unknown attack or preset, for an
    attack given twice, and for none.
    """
    named: dict[str, Attack] = {}
    for text in attacks:
        attack = parse_attack(text)
        if attack in named.values():
            raise UsageError(f"attack {text!r} is given twice with the same settings; give it once")
        _add(named, attack)
    for preset in presets:
        if preset not in PRESETS:
            raise UsageError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
        for text in PRESETS[preset]:
            attack = parse_attack(text)
            if attack not in named.values():
                _add(named, attack)
    if not named:
        raise UsageError("expected at least one attack, got none; add --attack fgsm")
    return named


def _add(named: dict[str, Attack], attack: Attack) -> None:
    times = 1 + sum(other.name == attack.name for other in named.values())
    named[attack.name if times == 1 else f"{attack.name}-{times}"] = attack


def attack_limits(texts: Sequence[str]) -> dict[str, int]:
    """`NAME=N` as {NAME: N}. Raises UsageError for anything else or an attack named twice."""
    limits: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not count.isascii() or not count.isdigit() or int(count) == 0:
            raise UsageError(f"--limit-attack should be NAME=N with N of at least 1, such as cw=200, is {text!r}")
        if name not in ATTACKS:
            raise UsageError(f"--limit-attack {text!r}: unknown attack {name!r}; expected one of {', '.join(ATTACKS)}")
        if name in limits:
            raise UsageError(f"--limit-attack {name} is given twice")
        limits[name] = int(count)
    return limits


def evenly(count: int, limit: int | None) -> NDArray[np.int64]:
    """At most `limit` of `count` indices, evenly spread: data come sorted by class more often than not.

    >>> evenly(10, 4).tolist()
    [0, 2, 5, 7]
    """
    if limit is None or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit


def group_of(attack: Attack) -> Group:
    """How an attack goes about it: smallest change that does, bounded change (weak or strong), or answers alone.

    `strong`: several steps within at least 0.03, or a margin that it goes beyond the boundary.
    """
    if attack.name in BLACK_BOX:
        return "black-box"
    settings: Mapping[str, float] = attack.settings
    if "epsilon" not in settings:
        return "strong" if settings.get("confidence", 0) > 0 else "minimal-norm"
    steps = settings.get("steps", 1)
    return "strong" if steps > 1 and settings["epsilon"] >= STRONG_FROM else "weak"
