"""Tables 1 to 4 of the workshop paper, in its layout, ours beside."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import published
from cells import beside, figure, markdown, mean_figure, plain
from documents import Found, attack_of, channels_of
from published import ICML_ATTACKS, REMARKS

from pdtool.evaluation.metrics import Area
from pdtool.evaluation.results import Evaluation
from pdtool.wording import NOTHING

__all__ = ["icml_tables"]


def icml_tables(every: Sequence[Found]) -> Iterator[str]:
    """Each table with its title and its remarks, as Markdown."""
    yield "\n\n".join(["### Table 1: channels removed from a group of layers, %", _table_1(every), REMARKS["groups"]])
    yield "\n\n".join(["### Table 2: size of a model, MB", _sizes(every), REMARKS["sizes"]])
    yield "\n\n".join(["### Table 3: FLOPs of a model, M", _flops(every), f"{REMARKS['flops']} {REMARKS['ratios']}"])
    yield "\n\n".join(["### Table 4: AUROC of the label change rate, %", _table_4(every), REMARKS["mmt"]])


def _table_1(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        pool = found.pools.get("paper")
        removed: dict[int, list[tuple[float, int]]] = {}
        if pool is not None:
            for layer, channels in channels_of(pool).items():
                given = [m.layer_rates[layer] for m in pool.members if m.used and layer in m.layer_rates]
                if given:
                    removed.setdefault(channels, []).append((fmean(given), channels))
        groups = [(size, fmean(rate for rate, _ in removed[size])) for size in sorted(removed)]
        cells = []
        for k, (size, paper) in enumerate(published.ICML_1.items()):
            ours = f"**{100 * groups[k][1]:.0f}** ({groups[k][0]})" if k < len(groups) else NOTHING
            cells.append(f"{paper} ({size}) / {ours}")
        rows.append((found.title, *cells))
    note = (
        "In brackets the layers' channels. Ours is the Access paper's way, rates of the layers drawn at random, half "
        "of all channels removed; `compress --preset chen-2021` takes this paper's rates."
    )
    return f"{markdown(('data', *('group ' + str(k) for k in range(1, 5))), rows)}\n\n{note}"


def _sizes(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        ours = []
        for name in ("mutation-nai", "paper"):
            pool = found.pools.get(name)
            sizes = [] if pool is None else [m.model.file.bytes / 1e6 for m in pool.members if m.used]
            ours.append(plain(fmean(sizes), 2) if sizes else NOTHING)
        pool = found.pools.get("paper")
        original = NOTHING if pool is None else plain(pool.original.file.bytes / 1e6, 2)
        given = published.ICML_2[found.published]
        rows.append((found.title, *(beside(v, c) for v, c in zip(given, (original, *ours), strict=True))))
    return markdown(("data", "original", "mutated", "pruned"), rows)


def _flops(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        ours = []
        for name in ("mutation-nai", "paper"):
            pool = found.pools.get(name)
            macs = [] if pool is None else [m.model.macs / 1e6 for m in pool.members if m.used]
            ours.append(plain(fmean(macs), 2) if macs else NOTHING)
        pool = found.pools.get("paper")
        original = NOTHING if pool is None else plain(pool.original.macs / 1e6, 2)
        given = published.ICML_3[found.published]
        rows.append((found.title, *(beside(v, c) for v, c in zip(given, (original, *ours), strict=True))))
    return markdown(("data", "original", "mutated", "pruned"), rows)


def _table_4(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        reports = [found.reports.get(name) for name in ("mutation-nai", "paper", "hardened")]
        taken: list[list[Area | None]] = [[], [], []]
        for attack, short in ICML_ATTACKS.items():
            own = [_area(report, attack) for report in reports]
            for column, area in zip(taken, own, strict=True):
                column.append(area)
            paper = published.ICML_4[found.published][attack]
            count = ", ".join(sorted({str(area.attacked) for area in own if area is not None}))
            cells = (beside(paper[0], figure(own[0])), beside(paper[1], figure(own[1])), figure(own[2]))
            rows.append((found.title, short, count, *cells))
        means = published.ICML_4_MEANS[found.published]
        cells = (
            beside(means[0], mean_figure(taken[0])),
            beside(means[1], mean_figure(taken[1])),
            mean_figure(taken[2]),
        )
        rows.append((found.title, "mean", "", *cells))
    note = (
        "WL, clean images that the original labels wrongly, stand against those that it labels rightly; the others "
        "against every clean image."
    )
    headers = ("data", "attack", "n", "MMT (NAI)", "theirs: random channels", "ours: hardened")
    return f"{markdown(headers, rows, left=2)}\n\n{note}"


def _area(report: Evaluation | None, attack: str) -> Area | None:
    if report is None:
        return None
    if attack == "wrong":
        return report.wrong.lcr.auroc if report.wrong.frames.count else None
    result = attack_of(report, attack, ("paper-icml2021", "paper-access2021"))
    return result.lcr.auroc if result is not None and result.frames.count else None
