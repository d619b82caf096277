"""Curves over epsilon, and whether the attacks themselves work: a weak attack would make any defence look good."""

from collections.abc import Sequence

import numpy as np

from pdtool.evaluation.adaptive_results import Cell, Check, Curve, half_point
from pdtool.evaluation.metrics import rate
from pdtool.wording import counted

__all__ = ["check_attacks", "curves_of"]

NEAR_ALL = 0.95  # share that counts as "reaches 100 %"


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
    curves: Sequence[Curve], cells: Sequence[Cell], checked: Sequence[Cell], middle: float, steps: int
) -> tuple[Check, ...]:
    """More steps are never weaker, a ball without bounds holds what is looked for, noise does not do, and who knows
    more evades more. `checked`: the cells at `middle` with fewer steps, and noise.

    Full knowledge counts as weaker where another attacker's share lies above the interval of its own.

    Attackers who see nothing of the screener are judged by what they aim at, the original's label.
    """
    checks = []
    at_middle: dict[tuple[str, int | None], Cell] = {
        (c.threat, c.surrogates): c for c in cells if c.epsilon == middle and c.threat != "decision"
    }
    for few in checked:
        many = at_middle.get((few.threat, few.surrogates))
        if few.threat == "noise" or many is None:
            continue
        what, less, more = _aim(few, many)
        checks.append(
            Check(
                name=f"{few.threat}: more steps are not weaker",
                holds=more >= less,
                says=f"at {_grey(middle)} {few.steps} steps {what} {counted(less, few.attacked)}, "
                f"{many.steps} steps {counted(more, many.attacked)}",
            )
        )
    for cell in cells:
        if cell.epsilon >= 1 and cell.threat in ("oblivious", "stolen", "full"):
            reached = cell.fooled if cell.threat == "oblivious" else cell.evasion
            what = "fools the original on" if cell.threat == "oblivious" else "evades on"
            checks.append(
                Check(
                    name=f"{cell.threat}: without bounds it reaches 100 %",
                    holds=(reached.share or 0.0) >= NEAR_ALL,
                    says=f"at {_grey(cell.epsilon)} it {what} {counted(reached.events, reached.count)}",
                )
            )
    checks += _noise(checked, at_middle.get(("oblivious", None)), middle)
    full = next((curve for curve in curves if curve.threat == "full"), None)
    for other in curves:
        if full is not None and other.threat in ("oblivious", "surrogates", "stolen", "decision"):
            pairs = list(zip(full.within, other.within, strict=True))
            own = "" if other.surrogates is None else f" of {other.surrogates}"
            checks.append(
                Check(
                    name=f"full knowledge is not weaker than {other.threat}{own}",
                    holds=all((best.high or 0.0) >= (less.share or 0.0) for best, less in pairs),
                    says=", ".join(
                        f"{_grey(epsilon)}: {best.events} against {less.events}"
                        for epsilon, (best, less) in zip(full.epsilons, pairs, strict=True)
                    )
                    + f" of {full.within[0].count}",
                )
            )
    return tuple(checks)


def _aim(few: Cell, many: Cell) -> tuple[str, int, int]:
    if few.threat in ("oblivious", "surrogates"):
        return "fool the original on", few.fooled.events, many.fooled.events
    return "evade on", few.evasion.events, many.evasion.events


def _noise(checked: Sequence[Cell], oblivious: Cell | None, middle: float) -> list[Check]:
    noise = next((cell for cell in checked if cell.threat == "noise"), None)
    if noise is None or oblivious is None:
        return []
    random, aimed = (counted(cell.fooled.events, cell.attacked) for cell in (noise, oblivious))
    return [
        Check(
            name="random noise fails",
            holds=2 * noise.fooled.events <= oblivious.fooled.events,
            says=f"at {_grey(middle)} random signs fool the original on {random}, the attack on {aimed}",
        )
    ]


def _grey(epsilon: float) -> str:
    return f"{255 * epsilon:.4g}/255"
