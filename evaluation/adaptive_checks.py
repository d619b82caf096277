"""Curves over epsilon, and whether the attacks themselves work: a weak attack would make any defence look good."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pdtool.evaluation.adaptive_results import Cell, Check, Curve, Disturbance, half_point
from pdtool.evaluation.metrics import rate
from pdtool.wording import counted

__all__ = ["check_attacks", "check_disturbances", "curves_of"]

NEAR_ALL = 0.95  # share that an attack without bounds should reach
SLACK = 0.05  # members asked by chance: the attacker judges by random orders, the screener has one
LITTLE = 0.05  # share of the images that another restart may add


def curves_of(cells: Sequence[Cell]) -> tuple[Curve, ...]:
    """One curve an attacker; `within` counts an image that evades at that epsilon or a smaller one.

    What was found within a smaller epsilon lies within the larger one, too.
    """
    curves = []
    for threat, surrogates in dict.fromkeys((cell.threat, cell.surrogates) for cell in cells):
        own = sorted(
            (cell for cell in cells if (cell.threat, cell.surrogates) == (threat, surrogates)),
            key=lambda cell: cell.epsilon,
        )
        reached: set[int] = set()
        within = []
        for cell in own:
            reached |= {*cell.evaded}
            within.append(rate(np.arange(cell.attacked) < len(reached)))
        epsilons = tuple(cell.epsilon for cell in own)
        curves.append(
            Curve(
                threat=threat,
                surrogates=surrogates,
                epsilons=epsilons,
                fooled=tuple(cell.fooled for cell in own),
                evasion=tuple(cell.evasion for cell in own),
                within=tuple(within),
                half=half_point(epsilons, tuple(each.share or 0.0 for each in within)),
            )
        )
    return tuple(curves)


def check_attacks(
    curves: Sequence[Curve], cells: Sequence[Cell], checked: Sequence[Cell], middle: float
) -> tuple[Check, ...]:
    """More steps are never weaker, another restart adds little, a ball without bounds holds what is looked for, noise
    does not do, and who knows more evades more. `checked`: the cells at `middle` with fewer steps, with another
    restart alone, and noise.

    Full knowledge counts as weaker where another attacker's share lies above the interval of its own.

    Attackers who see nothing of the screener are judged by what they aim at, the original's label.
    """
    checks = []
    at_middle: dict[tuple[str, int | None], Cell] = {
        (c.threat, c.surrogates): c for c in cells if c.epsilon == middle and c.threat != "decision"
    }
    for other in checked:
        usual = at_middle.get((other.threat, other.surrogates))
        if other.threat != "noise" and usual is not None:
            checks.append(_restarted(other, usual) if other.again else _stepped(other, usual))
    for cell in cells:
        if cell.epsilon >= 1 and cell.threat in ("oblivious", "stolen", "full"):
            reached = cell.fooled if cell.threat == "oblivious" else cell.evasion
            what = "fools the original on" if cell.threat == "oblivious" else "evades on"
            checks.append(
                Check(
                    name=f"{cell.threat}: unbounded reaches {100 * NEAR_ALL:.0f} %",
                    holds=(reached.share or 0.0) >= NEAR_ALL,
                    empty=None,
                    says=f"at {_grey(cell.epsilon)} it {what} {counted(reached.events, reached.count)}",
                )
            )
    checks += _noise(checked, at_middle.get(("oblivious", None)))
    full = next((curve for curve in curves if curve.threat == "full"), None)
    checks += [_knows_more(full, less) for less in curves if full is not None and less.threat != "full"]
    return tuple(checks)


def check_disturbances(
    disturbed: Sequence[Disturbance], fewer: Sequence[Disturbance], middle: float, most: int
) -> tuple[Check, ...]:
    """Of those who keep the label: more steps are not weaker, and the clean frames do less. `fewer`: with fewer steps,
    at `middle`; `most` members are asked. Of all frames; one whose label was lost counts as no alarm and no member."""
    clean = next((d for d in disturbed if d.goal is None), None)
    checks = []
    for goal in ("alarm", "delay"):
        own = [d for d in disturbed if d.goal == goal]
        few = next((d for d in fewer if d.goal == goal), None)
        many = next((d for d in own if d.epsilon == middle), None)
        if few is not None and many is not None:
            words = (f"{few.steps} steps", f"{many.steps} steps")
            checks.append(_compared(f"{goal}: more steps are not weaker", words, few, many, most, strictly=False))
        if own and clean is not None:
            words = ("clean", "disturbed")
            checks.append(_compared(f"{goal}: more than of clean frames", words, clean, own[-1], most, strictly=True))
    return tuple(checks)


def _compared(
    name: str, words: tuple[str, str], less: Disturbance, more: Disturbance, most: int, *, strictly: bool
) -> Check:
    """Flagged frames for alarms, members asked for delays."""
    if more.goal == "alarm":
        counts = (less.flagged.events, more.flagged.events)
        said = [f"{word} {counted(count, more.attacked)}" for word, count in zip(words, counts, strict=True)]
        gain, what, empty = float(counts[1] - counts[0]), "flagged", _empty(counts, more.attacked)
    else:
        means = [(d.models_used.value or 0.0) * d.kept.events / max(1, d.attacked) for d in (less, more)]
        said = [f"{word} {mean:.2f}" for word, mean in zip(words, means, strict=True)]
        gain, what = means[1] - means[0] + (0.0 if strictly else SLACK), "members asked a frame"
        # a table that asks most members of frames on which all agree leaves nothing to be had
        empty = "saturated" if min(means) == most or more.share == 0 else None
    return Check(
        name=name,
        holds=gain > 0 or empty == "saturated" or (gain == 0 and not strictly),
        empty=empty if empty == "saturated" or not strictly else None,
        says=f"at {_grey(more.epsilon)} {', '.join(said)} {what}",
    )


def _stepped(few: Cell, many: Cell) -> Check:
    what, less, more = _aim(few, many)
    return Check(
        name=f"{few.threat}: more steps are not weaker",
        holds=more >= less,
        empty=_empty((less, more), many.attacked),
        says=f"at {_grey(many.epsilon)} {few.steps} steps {what} {counted(less, few.attacked)}, "
        f"{many.steps} steps {counted(more, many.attacked)}",
    )


def _restarted(again: Cell, usual: Cell) -> Check:
    added = len({*again.evaded} - {*usual.evaded})
    return Check(
        name=f"{usual.threat}: one more restart adds at most {100 * LITTLE:.0f} %",
        holds=added <= LITTLE * usual.attacked,
        empty=_empty((usual.evasion.events, usual.evasion.events + added), usual.attacked),
        says=f"at {_grey(usual.epsilon)} it adds {counted(added, usual.attacked)} "
        f"to {counted(usual.evasion.events, usual.attacked)}",
    )


def _knows_more(full: Curve, other: Curve) -> Check:
    pairs = list(zip(full.within, other.within, strict=True))
    own = "" if other.surrogates is None else f" of {other.surrogates}"
    kinds = {_empty((best.events, less.events), best.count) for best, less in pairs}
    return Check(
        name=f"full knowledge is not weaker than {other.threat}{own}",
        holds=all((best.high or 0.0) >= (less.share or 0.0) for best, less in pairs),
        empty=None if None in kinds else "saturated" if "saturated" in kinds else "no success",
        says=", ".join(
            f"{_grey(epsilon)}: {best.events} against {less.events}"
            for epsilon, (best, less) in zip(full.epsilons, pairs, strict=True)
        )
        + f" of {full.within[0].count}",
    )


def _aim(few: Cell, many: Cell) -> tuple[str, int, int]:
    if few.threat in ("oblivious", "surrogates"):
        return "fool the original on", few.fooled.events, many.fooled.events
    return "evade on", few.evasion.events, many.evasion.events


def _noise(checked: Sequence[Cell], oblivious: Cell | None) -> list[Check]:
    noise = next((cell for cell in checked if cell.threat == "noise"), None)
    if noise is None or oblivious is None:
        return []
    random, aimed = (counted(cell.fooled.events, cell.attacked) for cell in (noise, oblivious))
    return [
        Check(
            name="random noise fails",
            holds=2 * noise.fooled.events <= oblivious.fooled.events,
            empty="no success" if oblivious.fooled.events == noise.fooled.events == 0 else None,
            says=f"at {_grey(noise.epsilon)} random signs fool the original on {random}, the attack on {aimed}",
        )
    ]


def _empty(counts: tuple[int, int], most: int) -> Literal["saturated", "no success"] | None:
    """What two equal counts at either end of the scale say: nothing of which is more."""
    if counts == (0, 0):
        return "no success"
    return "saturated" if counts == (most, most) else None


def _grey(epsilon: float) -> str:
    return f"{255 * epsilon:.4g}/255"
