"""Tables 1 to 8 of the Access paper, in its layout, ours beside."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import published
from cells import beside, figure, markdown, mean_figure, plain, share_of
from documents import POOLS, Found, attack_of
from published import ACCESS_ATTACKS, METHODS, REMARKS

from pdtool.artifacts import Pool
from pdtool.evaluation.metrics import Area, Mean, Rate
from pdtool.evaluation.results import AttackResult
from pdtool.wording import NOTHING

__all__ = ["access_tables"]

OURS = "RC hardened"  # a pool of ours that the papers have not
OF_METHOD = {method: name for name, method in reversed(POOLS.items())}  # random-channel: the pool `paper`


def access_tables(every: Sequence[Found]) -> Iterator[str]:
    """Each table with its title and its remarks, as Markdown."""
    yield "\n\n".join(["### Table 1: rates of pruning and FLOPs of a model", _table_1(every), _notes("flops", "zeros")])
    yield "\n\n".join(["### Table 2: mean accuracy of the models, %", _table_2(every)])
    yield "\n\n".join(["### Table 3: size of a model, MB", _table_3(every), _notes("sizes")])
    yield "\n\n".join(["### Table 4: AUROC of the label change rate, %", _table_4(every), _notes("means")])
    yield "\n\n".join(
        ["### Figures 3 and 4: detection accuracy on attacked images, %", _figures_3(every), _notes("mmt")]
    )
    yield "\n\n".join(["### Figures 5 and 6: models asked for an attacked image", _figures_5(every)])
    yield "\n\n".join(["### Table 5: detection accuracy on clean images, %", _table_5(every), _notes("clean")])
    yield "\n\n".join(
        ["### Table 6: detection accuracy on FIA, the papers' adaptive attack, %", _table_6(every), _notes("fia")]
    )
    yield "\n\n".join(["### Table 7: attacked images labelled rightly, mean over the six attacks, %", _table_7(every)])
    yield "\n\n".join(["### Table 8: FIA's images labelled rightly, %", _table_8(every), _notes("fia")])


def _notes(*names: str) -> str:
    return " ".join(REMARKS[name] for name in names)


def _used(pool: Pool | None) -> list[float]:
    return [] if pool is None else [member.model.accuracy for member in pool.members if member.used]


def _table_1(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        for method, short in METHODS.items():
            channels, weights, flops = published.ACCESS_1[found.published][method]
            whole = published.ACCESS_1[found.published]["mutation-nai"][2]
            pool = found.pools.get(OF_METHOD[method])
            paper = f"{flops:g} M, {100 * flops / whole:.1f} %"
            if pool is None:
                rows.append(
                    (found.title, short, *(beside(v, NOTHING) for v in (channels, weights)), f"{paper} / {NOTHING}")
                )
                continue
            members = [member for member in pool.members if member.used]
            macs = fmean(member.model.nonzero_macs for member in members)
            dense = fmean(member.model.macs for member in members)
            ours = f"**{macs / 1e6:.2f} M, {100 * macs / pool.original.macs:.1f} %**"
            ours += "" if round(dense) == round(macs) else f" ({dense / 1e6:.2f} M)"
            rates = (
                beside(channels, plain(fmean(member.channel_rate for member in members), 3)),
                beside(weights, plain(fmean(member.weight_rate for member in members), 3), 4),
            )
            rows.append((found.title, short, *rates, f"{paper} / {ours}"))
    headers = ("data", "method", "channels removed", "weights removed or zero", "FLOPs, and of the original's")
    return markdown(headers, rows, left=2)


def _table_2(every: Sequence[Found]) -> str:
    order = ("original", "lottery-ticket", "subnetwork", "random-channel", "l1-norm")
    rows = []
    for found in every:
        paper = published.ACCESS_2[found.published]
        any_pool = next(iter(found.pools.values()), None)
        original = NOTHING if any_pool is None else plain(100 * any_pool.original.accuracy)
        cells = [beside(paper["original"], original)]
        cells += [beside(paper[method], _accuracy(found.pools.get(OF_METHOD[method]))) for method in order[1:]]
        cells += [_accuracy(found.pools.get("mutation-nai")), _accuracy(found.pools.get("hardened"))]
        held = "" if any_pool is None else str(any_pool.original.accuracy_images)
        rows.append((found.title, held, *cells))
    headers = ("data", "n, ours", "original", "LTH", "SE", "RC", "L1N", "ours: mutants", f"ours: {OURS}")
    note = "Ours on training images that were held back (n): mean of the members (least–most), and how many are used."
    return f"{markdown(headers, rows)}\n\n{note}"


def _accuracy(pool: Pool | None) -> str:
    shares = [100 * value for value in _used(pool)]
    if pool is None or not shares:
        return NOTHING
    return f"**{fmean(shares):.1f}** ({min(shares):.1f}–{max(shares):.1f}; {len(shares)} of {len(pool.members)})"


def _table_3(every: Sequence[Found]) -> str:
    kinds = {"mutated": ("mutation-nai",), "unstructured": ("lottery-ticket", "subnetwork")}
    kinds["structured"] = ("random-channel", "l1-norm")
    rows = []
    for found in every:
        paper = published.ACCESS_3[found.published]
        pool = next(iter(found.pools.values()), None)
        cells = [beside(paper["original"], NOTHING if pool is None else plain(pool.original.file.bytes / 1e6, 2))]
        for kind, methods in kinds.items():
            pools = [found.pools[OF_METHOD[method]] for method in methods if OF_METHOD[method] in found.pools]
            sizes = [member.model.file.bytes / 1e6 for each in pools for member in each.members if member.used]
            cells.append(beside(paper[kind], plain(fmean(sizes), 2) if sizes else NOTHING))
        rows.append((found.title, *cells))
    return markdown(("data", "original", "mutated (MMT)", "unstructured (LTH, SE)", "structured (RC, L1N)"), rows)


def _table_4(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        paper = published.ACCESS_4[found.published]
        means = [fmean(column) for column in zip(*paper.values(), strict=True)]
        table = {name: dict(zip(published.ACCESS_4_METHODS, values, strict=True)) for name, values in paper.items()}
        of = {name: {method: value for method, value in row.items()} for name, row in table.items()}
        mean = dict(zip(published.ACCESS_4_METHODS, means, strict=True))
        rows += _by_attack(found, lambda a: a.lcr.auroc, of, mean)
    note = (
        "Attacked images that fool the original (n) against every clean image, wrongly labelled ones too. In the row "
        "of means ours has the means of the bounds, which is wider than a 95 % interval."
    )
    return f"{markdown(_headers(), rows, left=2)}\n\n{note}"


def _figures_3(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        paper = published.ACCESS_DETECTED[found.published]
        rows += _by_attack(found, lambda a: a.frames.flagged, {}, paper)
    note = (
        "Flagged by the bundle's test: `optimal` for the pruned pools, MMT's own rule for mutants (by which a pool as "
        "small as ours can hardly flag: see the rules above); what these tests flag of clean images is in Table 5. The "
        "papers give their means alone as numbers, of the four pruning methods together 92.80 (CIFAR-10) and 92.43 "
        "(SVHN)."
    )
    return f"{markdown(_headers(), rows, left=2)}\n\n{note}"


def _figures_5(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        paper = published.ACCESS_MODELS_USED[found.published]
        rows += _by_attack(found, lambda a: a.frames.models_used, {}, {"mutation-nai": paper["mutation-nai"]})
    note = (
        "Of up to 100 models in the papers, of as many as the pools here have. The papers' four pruning methods "
        "together: 28.95 (CIFAR-10) and 30.97 (SVHN)."
    )
    return f"{markdown(_headers(), rows, left=2)}\n\n{note}"


def _headers() -> tuple[str, ...]:
    return ("data", "attack", "n", *(METHODS[method] for method in published.ACCESS_4_METHODS), f"ours: {OURS}")


def _by_attack(
    found: Found,
    take: Callable[[AttackResult], Rate | Area | Mean | None],
    paper: dict[str, dict[str, float]],
    means: dict[str, float],
) -> list[tuple[str, ...]]:
    """A row for each of the papers' attacks and one of means; a column a method and one for the hardened pool."""
    rows: list[tuple[str, ...]] = []
    taken: dict[str, list[Rate | Area | Mean | None]] = {name: [] for name in POOLS}
    for attack, short in ACCESS_ATTACKS.items():
        cells = []
        counts = set()
        for pool in (*(OF_METHOD[method] for method in published.ACCESS_4_METHODS), "hardened"):
            result = attack_of(found.reports.get(pool), attack)
            own = None if result is None or result.frames.count == 0 else take(result)
            taken[pool].append(own)
            if result is not None:
                counts.add(result.frames.count)
            value = paper.get(attack, {}).get(POOLS[pool])
            ours = figure(own)
            cells.append(ours if pool == "hardened" or value is None else beside(value, ours))
        rows.append((found.title, short, ", ".join(map(str, sorted(counts))), *cells))
    cells = []
    for pool in (*(OF_METHOD[method] for method in published.ACCESS_4_METHODS), "hardened"):
        ours, value = mean_figure(taken[pool]), means.get(POOLS[pool])
        cells.append(ours if pool == "hardened" or value is None else beside(value, ours))
    return [*rows, (found.title, "mean", "", *cells)]


def _table_5(every: Sequence[Found]) -> str:
    order = ("mutation-nai", "lottery-ticket", "subnetwork", "random-channel", "l1-norm")
    rows = []
    for found in every:
        cells, asked = [], []
        for pool in (*(OF_METHOD[method] for method in order), "hardened"):
            report = found.reports.get(pool)
            ours = figure(None if report is None else report.clean.every.cleared)
            cells.append(ours if pool == "hardened" else beside(published.ACCESS_5[found.published][POOLS[pool]], ours))
            asked.append(figure(None if report is None else report.clean.every.models_used))
        report = found.reports.get("paper")
        count = "" if report is None else str(report.clean.every.count)
        rows.append((found.title, "cleared", count, *cells))
        rows.append((found.title, "models asked", count, *asked))
    headers = ("data", "", "n", *(METHODS[method] for method in order), f"ours: {OURS}")
    note = "The papers print no number of models for clean images; by their rule none is cleared with fewer than 100."
    return f"{markdown(headers, rows)}\n\n{note}"


def _one_attack(
    every: Sequence[Found],
    table: dict[str, dict[str, float]],
    take: Callable[[AttackResult], Rate | Area | Mean | None],
) -> str:
    order = ("mutation-nai", "lottery-ticket", "subnetwork", "random-channel", "l1-norm")
    rows = []
    for found in every:
        cells = []
        counts = set()
        for pool in (*(OF_METHOD[method] for method in order), "hardened"):
            result = attack_of(found.reports.get(pool), "fia")
            if result is not None:
                counts.add(result.frames.count)
            ours = figure(None if result is None or result.frames.count == 0 else take(result))
            cells.append(ours if pool == "hardened" else beside(table[found.published][POOLS[pool]], ours, 1))
        rows.append((found.title, ", ".join(map(str, sorted(counts))), *cells))
    return markdown(("data", "n", *(METHODS[method] for method in order), f"ours: {OURS}"), rows)


def _table_6(every: Sequence[Found]) -> str:
    return _one_attack(every, published.ACCESS_6, lambda a: a.frames.flagged)


def _table_8(every: Sequence[Found]) -> str:
    return _one_attack(every, published.ACCESS_8, right)


def right(a: AttackResult) -> Rate | None:
    """Attacked images that are flagged and whose corrected label is right, of all that fool the original."""
    return share_of(a.corrected, a.frames.count)


def _table_7(every: Sequence[Found]) -> str:
    rows = []
    for found in every:
        paper = published.ACCESS_7[found.published]
        for row in found.defences.rows if found.defences is not None else ():
            specs = [
                a.spec for name in ACCESS_ATTACKS if (a := attack_of(found.reports.get("paper"), name)) is not None
            ]
            ours = [row.attacked.get(spec) for spec in specs]
            label = {"pgd-at": "PGD", "trades": "TRADES", "fast-at": "FGSM-RI"}.get(row.name, f"TI, {row.name}")
            value = paper["TI"] if row.kind == "transformation" else paper[row.name]
            counts = str(sum(rate.count for rate in ours if rate is not None))
            rows.append((found.title, label, row.source, counts, beside(value, mean_figure(ours)), figure(row.clean)))
        for pool in POOLS:
            report = found.reports.get(pool)
            if report is None:
                continue
            results = [a for name in ACCESS_ATTACKS if (a := attack_of(report, name)) is not None]
            results = [a for a in results if a.frames.count]
            counts = str(sum(a.frames.count for a in results))
            label = OURS if pool == "hardened" else METHODS[POOLS[pool]]
            given = None if pool == "hardened" else paper.get(POOLS[pool])
            corrected, majority = mean_figure(map(right, results)), mean_figure(a.majority for a in results)
            rows.append(
                (found.title, label, "corrected label of flagged images", counts, beside(given, corrected), NOTHING)
            )
            clean = figure(report.clean.majority)
            rows.append(
                (found.title, label, "majority of all members, no verdict", counts, beside(None, majority), clean)
            )
    note = (
        "All rows: the same attacked images, made on the original without knowledge of the defence, which flatters "
        "every row. The papers' TI is a model trained on transformed images; ours transform what the original sees. "
        "The adversarially trained models were trained for fewer epochs than published ones (stages below)."
    )
    headers = ("data", "defence", "what answers", "n", "paper / ours", "ours on clean images")
    return f"{markdown(headers, rows, left=3)}\n\n{note}"
