"""The tables of an evaluation's reports, once for HTML and Markdown: every cell a figure and what stands beside it."""

from pdtool.evaluation.report_beside import baselines, benign, compared
from pdtool.evaluation.report_cells import EMPTY, Cell, Table, by_group, told
from pdtool.evaluation.report_words import area, average, share
from pdtool.evaluation.results import Evaluation, Frames, Separation
from pdtool.wording import NOTHING, number

__all__ = ["Table", "tables"]


def tables(e: Evaluation) -> tuple[Table, ...]:
    """Every table that has rows, in the order in which they are read."""
    every = (_caught(e), _cost(e), _curve(e), benign(e), compared(e), baselines(e), _attacks(e))
    return tuple(table for table in every if table.rows)


def _caught(e: Evaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    weighed = ", the original's margin weighed in" if e.subject.evidence == "margin" else ""
    w = e.worst_case
    if w.inputs:
        what = ("worst attack of each image", "n and all but the first figure: of images that any attack fooled")
        found = (str(w.inputs), "")
        rows.append((what, share(w.evaded), found, EMPTY, share(w.caught), *_separation(w.lcr, w.graded)))
    clean = e.clean
    for name, frames in (("clean", clean.every), ("  original right", clean.right), ("  original wrong", clean.wrong)):
        rows.append(((name, ""), EMPTY, (str(frames.count), ""), EMPTY, share(frames.flagged), *([EMPTY] * 6)))
    for called, a in by_group(e, rows):
        rows.append(
            (
                (called, f"{a.description}; {a.spec}"),
                share(a.evaded),
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
        rows.append((what, EMPTY, n, EMPTY, wrong, *_separation(e.wrong.lcr, e.wrong.graded)))
    scores = [
        f"{what}, {score}" for score in ("LCR", "graded") for what in ("AUROC", "TPR at 1 % FPR", "TPR at 5 % FPR")
    ]
    return Table(
        "What is caught",
        ("frames", "evaded, of all images attacked", "n", "fooled the original", "flagged", *scores),
        tuple(rows),
        "Evaded: labelled wrongly and not flagged, of all images attacked that the exported original gets right "
        "unattacked. The rest is of the n frames that fool it. Flagged: by the calibrated test (what papers call "
        "detection accuracy); of the worst attack of each image, where every attack that fooled the image was flagged: "
        "a weak attack that is seen adds to those n, so that this share may be better than that of one attack. AUROC "
        "and TPR ask every member and tell such frames from all clean ones: by the label change rate (LCR), and by the "
        "mean graded evidence, 1 - the member's probability of the original's label, of a mixed pool the largest of "
        "the kinds' means "
        f"(temperatures: {e.subject.temperatures}{weighed}). A TPR at x % FPR counts frames strictly above the lowest "
        "threshold that at most x % of the clean frames pass; where clean frames tie, fewer pass, and nothing is "
        f"interpolated.{_unscreened(e)}",
    )


def _unscreened(e: Evaluation) -> str:
    clean, attacked = e.clean.every.unscreened, sum(a.frames.unscreened for a in e.attacks)
    if not clean + attacked:
        return ""
    return (
        f" Unscreened: {clean} clean and {attacked} attacked frames; they count in n as not flagged, and not "
        "in members asked and forward passes."
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
    for called, a in by_group(e, rows):
        d = a.diversity
        add(
            called,
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
    for called, a in by_group(e, rows):
        for name in ("lcr", "graded"):
            found: list[Separation] = [getattr(point, name) for point in a.asked]
            cells = [told(s.auroc, s.tpr_5) for s in found]
            rows.append(((f"{called}, {'LCR' if name == 'lcr' else 'graded'}", f"n = {a.frames.count}"), *cells))
    return Table(
        "What asking more members buys",
        ("AUROC, and TPR at 5 % FPR", *(f"{p.members} asked ({number(p.cost, 2)} passes)" for p in steps)),
        tuple(rows),
        f"A test of fixed size: the first n members asked, in this session's order (seed {e.seed}), and no sequential "
        "test; intervals are in report.json.",
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
            (str(a.wrong_before), ""),
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
            "wrong before by the export",
            "failed, flagged all the same",
            f"file in {e.images}",
        ),
        tuple(rows),
        "Only images that the original classifies correctly are attacked; those that the exported original gets wrong "
        "all the same, unattacked, count neither as fooled nor as withstood. Pixels lie in [0, 1]: 8/255 = 0.031. "
        "Changes are those of the frames that fool the exported original.",
    )


def _separation(lcr: Separation, graded: Separation) -> tuple[Cell, ...]:
    return tuple(cell for s in (lcr, graded) for cell in (area(s.auroc), share(s.tpr_1), share(s.tpr_5)))


def _plain(value: float | None, digits: int) -> Cell:
    return (NOTHING if value is None else number(value, digits)), ""
