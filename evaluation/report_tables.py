"""The tables of an evaluation's reports, once for HTML and Markdown: every cell a figure and what stands beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from pdtool.evaluation.report_words import GROUPS, area, average, share
from pdtool.evaluation.results import AttackResult, Evaluation, Frames, Separation
from pdtool.wording import NOTHING, number, percent

__all__ = ["Table", "tables"]

Cell = tuple[str, str]  # the figure; count and interval
EMPTY: Cell = ("", "")


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; a row of a single cell is a heading over those that follow."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str


def tables(e: Evaluation) -> tuple[Table, ...]:
    """Every table that has rows, in the order in which they are read."""
    every = (_caught(e), _cost(e), _curve(e), _benign(e), _compared(e), _baselines(e), _attacks(e))
    return tuple(table for table in every if table.rows)


def _caught(e: Evaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    w = e.worst_case
    if w.inputs:
        what = ("worst attack of each image", "flagged: all attacks that succeeded on the image were")
        rows.append((what, (str(w.inputs), ""), EMPTY, share(w.caught), *_separation(w.lcr, w.graded)))
    clean = e.clean
    for name, frames in (("clean", clean.every), ("  original right", clean.right), ("  original wrong", clean.wrong)):
        rows.append(((name, ""), (str(frames.count), ""), EMPTY, share(frames.flagged), *([EMPTY] * 6)))
    for a in _by_group(e, rows):
        rows.append(
            (
                (a.name, f"{a.description}; {a.spec}"),
                (str(a.frames.count), ""),
                share(a.success),
                share(a.frames.flagged),
                *_separation(a.lcr, a.graded),
            )
        )
    if e.wrong.frames.count:
        rows.append((("not attacked at all", ""),))
        what = ("wrongly labelled", "clean images that the original gets wrong, against those that it gets right")
        n, wrong = (str(e.wrong.frames.count), ""), share(e.wrong.frames.flagged)
        rows.append((what, n, EMPTY, wrong, *_separation(e.wrong.lcr, e.wrong.graded)))
    scores = [
        f"{what}, {score}" for score in ("LCR", "graded") for what in ("AUROC", "TPR at 1 % FPR", "TPR at 5 % FPR")
    ]
    return Table(
        "What is caught",
        ("frames", "n", "fooled the original", "flagged", *scores),
        tuple(rows),
        "Attacked frames count where they fool the exported original. Flagged: by the calibrated test (what papers "
        "call detection accuracy). AUROC and TPR ask every member and tell such frames from all clean ones: by the "
        "label change rate (LCR), and by the mean graded evidence, 1 - the member's probability of the original's "
        f"label (temperatures: {e.subject.temperatures}). A TPR at x % FPR counts frames strictly above the lowest "
        "threshold that at most x % of the clean frames pass; where clean frames tie, fewer pass, and nothing is "
        "interpolated.",
    )


def _cost(e: Evaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []

    def add(name: str, frames: Frames, corrected: Cell, majority: Cell, correlation: Cell, worth: Cell) -> None:
        used = average(frames.models_used)
        rows.append(
            (
                (name, ""),
                (str(frames.count), ""),
                average(frames.label_change_rate, 2),
                used,
                (str(frames.most_models_used), ""),
                average(frames.cost),
                corrected,
                majority,
                correlation,
                worth,
            )
        )

    d = e.clean.diversity
    add("clean", e.clean.every, EMPTY, share(e.clean.majority), _plain(d.correlation, 2), _plain(d.effective_votes, 1))
    add("  original right", e.clean.right, EMPTY, EMPTY, EMPTY, EMPTY)
    add("  original wrong", e.clean.wrong, EMPTY, EMPTY, EMPTY, EMPTY)
    for a in _by_group(e, rows):
        d = a.diversity
        add(
            a.name,
            a.frames,
            share(a.corrected),
            share(a.majority),
            _plain(d.correlation, 2),
            _plain(d.effective_votes, 1),
        )
    return Table(
        "What it costs, and what the members say",
        (
            "frames",
            "n",
            "label change rate",
            "members asked, mean",
            "most",
            "forward passes of the original",
            "corrected label right, of the flagged",
            "majority of all members right, of all n",
            "correlation of two members",
            f"effective votes of {e.subject.members}",
        ),
        tuple(rows),
        "Passes count multiply-accumulates, the original's own run included; asking every member would cost "
        f"{number(e.whole_pool_cost)}. The corrected label is the most frequent one among the members asked; the "
        "majority of all members is the papers' defence, which takes no verdict. A pool of copies of one member would "
        "have one effective vote; frames that differ in how hard they are make votes alike too.",
    )


def _curve(e: Evaluation) -> Table:
    if not e.attacks:
        return Table("", (), (), "")
    steps = e.attacks[0].asked
    rows: list[tuple[Cell, ...]] = []
    for a in _by_group(e, rows):
        for name in ("lcr", "graded"):
            found: list[Separation] = [getattr(point, name) for point in a.asked]
            cells = [(number(s.auroc.value, 3), f"TPR {percent(s.tpr_5.share)}") for s in found]
            rows.append(((f"{a.name}, {'LCR' if name == 'lcr' else 'graded'}", f"n = {a.frames.count}"), *cells))
    return Table(
        "What asking more members buys",
        ("AUROC, and TPR at 5 % FPR", *(f"{p.members} asked ({number(p.cost, 2)} passes)" for p in steps)),
        tuple(rows),
        f"The first members of this session's order (seed {e.seed}), without a sequential test; intervals are in "
        "report.json.",
    )


def _benign(e: Evaluation) -> Table:
    right = e.clean.right
    clean = (
        ("clean, original right", "unchanged"),
        (str(right.count), ""),
        EMPTY,
        share(right.flagged),
        average(right.label_change_rate, 2),
        EMPTY,
        average(right.models_used),
        average(right.cost),
    )
    rows = [
        (
            (b.name if b.kind == "control" else "foreign", f"{b.description}; {b.spec}"),
            (str(b.frames.count), ""),
            EMPTY if b.relabelled is None else share(b.relabelled),
            share(b.frames.flagged),
            average(b.frames.label_change_rate, 2),
            area(b.lcr.auroc),
            average(b.frames.models_used),
            average(b.frames.cost),
        )
        for b in e.benign
    ]
    return Table(
        "Frames that nobody attacked",
        (
            "change",
            "n",
            "original's label changed",
            "flagged",
            "label change rate",
            "AUROC against clean, LCR",
            "members asked",
            "forward passes",
        ),
        (clean, *rows) if rows else (),
        "Benign changes of the clean images that the original gets right, and images of classes that it does not "
        "know. What is flagged here is no attack: an AUROC of 0.5 is wanted.",
    )


def _compared(e: Evaluation) -> Table:
    rows = [
        (
            (c.bundle, f"{c.precision}; {c.digest[:12]}"),
            share(c.relabelled),
            (percent(c.members_relabelled), ""),
            share(c.flagged),
            average(c.label_change_rate, 2),
        )
        for c in e.compared
    ]
    return Table(
        f"The same pool exported otherwise (this bundle: {e.subject.precision})",
        ("bundle", "original's label differs", "members' labels differ", "clean frames flagged", "label change rate"),
        tuple(rows),
        "The clean images through another export, its members' votes under this bundle's calibration: a change of "
        f"engine can look like an attack. Here {percent(e.clean.every.flagged.share)} of them are flagged.",
    )


def _baselines(e: Evaluation) -> Table:
    if not e.baselines:
        return Table("", (), (), "")
    fooling = [a for a in e.attacks if a.frames.count]
    rows: list[tuple[Cell, ...]] = []
    for name in ("lcr", "graded"):
        found: list[Separation] = [getattr(a, name) for a in fooling]
        cells = [(number(s.auroc.value, 3), f"TPR {percent(s.tpr_5.share)}") for s in found]
        said = "label change rate" if name == "lcr" else "mean graded evidence"
        rows.append((("this pool, every member", said), (number(e.whole_pool_cost), ""), ("0", ""), *cells))
    for b in e.baselines:
        sets = {s.name: s for s in b.sets}
        own = [sets.get(a.name) for a in fooling]
        cells = [("", "") if s is None else (number(s.auroc.value, 3), f"TPR {percent(s.tpr_5.share)}") for s in own]
        rows.append(((b.name, b.source), (number(b.passes), ""), (str(b.n_fit), ""), *cells))
    return Table(
        "Other detectors on the same frames",
        ("AUROC, and TPR at 5 % FPR", "forward passes", "images fitted on", *(a.name for a in fooling)),
        tuple(rows),
        f"Fitted on clean images of {e.baseline_data} alone, never on attacked ones; the same clean and attacked "
        "frames for every row. The sequential test asks fewer members than every one; its rows are above.",
    )


def _attacks(e: Evaluation) -> Table:
    rows = [
        (
            (a.name, f"{a.spec}; {a.source}"),
            (str(a.given), ""),
            (str(a.attacked), ""),
            share(a.success),
            average(a.linf, 3),
            average(a.l2, 3),
            (str(a.lost), ""),
            share(a.failed_flagged),
            (a.file.path, a.file.sha256[:12]),
        )
        for a in e.attacks
    ]
    return Table(
        "Attacks",
        (
            "attack, settings, source",
            "images given",
            "attacked",
            "fooled the original",
            "L-inf change",
            "L2 change",
            "undone by the export",
            "failed, flagged all the same",
            f"file in {e.images}",
        ),
        tuple(rows),
        "Only images that the original classifies correctly are attacked. Pixels lie in [0, 1]: 8/255 = 0.031. "
        "Changes are those of the frames that fool the exported original.",
    )


def _by_group(e: Evaluation, rows: list[tuple[Cell, ...]]) -> Iterator[AttackResult]:
    """The attacks group by group; a group's heading goes into `rows` before its first."""
    for group, what in GROUPS.items():
        inside = [a for a in e.attacks if a.group == group]
        if inside:
            rows.append(((group, what),))
        yield from inside


def _separation(lcr: Separation, graded: Separation) -> tuple[Cell, ...]:
    return tuple(cell for s in (lcr, graded) for cell in (area(s.auroc), share(s.tpr_1), share(s.tpr_5)))


def _plain(value: float | None, digits: int) -> Cell:
    return (NOTHING if value is None else number(value, digits)), ""
