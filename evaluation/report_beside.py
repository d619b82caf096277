"""The tables beside the attacks': frames that nobody attacked, other exports of the pool, other detectors."""

from pdtool.evaluation.report_cells import EMPTY, Cell, Table, by_group, told
from pdtool.evaluation.report_words import area, average, share
from pdtool.evaluation.results import Evaluation
from pdtool.wording import number, percent

__all__ = ["baselines", "benign", "compared"]


def benign(e: Evaluation) -> Table:
    """Benign changes and foreign images beside the clean ones."""
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
        "know. What is flagged here is no attack; where the change leaves the original's label alone, an AUROC of 0.5 "
        "is wanted.",
    )


def compared(e: Evaluation) -> Table:
    """Other exports of the same pool."""
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


def baselines(e: Evaluation) -> Table:
    """Other detectors beside this pool's two scores, attack by attack."""
    if not e.baselines:
        return Table("", (), (), "")
    rows: list[tuple[Cell, ...]] = []
    for called, a in by_group(e, rows):
        if not a.frames.count:
            continue
        others = [next((s for s in b.sets if s.name == a.name), None) for b in e.baselines]
        own = [told(s.auroc, s.tpr_5) for s in (a.lcr, a.graded)]
        cells = [EMPTY if s is None else told(s.auroc, s.tpr_5) for s in others]
        rows.append(((called, f"n = {a.frames.count}"), *own, *cells))
    pool = f"{number(e.whole_pool_cost)} passes"
    return Table(
        "Other detectors on the same frames",
        (
            "AUROC, and TPR at 5 % FPR",
            f"this pool, LCR ({pool})",
            f"this pool, graded ({pool})",
            *(f"{b.name} ({number(b.passes)} passes)" for b in e.baselines),
        ),
        tuple(rows),
        f"Detectors are fitted on clean images of {e.baseline_data} alone, never on attacked ones, and every column "
        "scores the same clean and attacked frames. The pool's columns ask every member; the sequential test asks few, "
        "its figures are above. "
        + " ".join(f"{b.name}: {b.source}{f', fitted on {b.n_fit} images' if b.n_fit else ''}." for b in e.baselines),
    )
