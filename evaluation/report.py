"""An evaluation as one self-contained HTML page."""

from pdtool.evaluation.page import render
from pdtool.evaluation.report_gallery import Evidence, galleries
from pdtool.evaluation.report_plots import cost_curves, histograms, roc_curves
from pdtool.evaluation.report_tables import tables
from pdtool.evaluation.report_words import LIMITS, labels, summary
from pdtool.evaluation.results import Evaluation

__all__ = ["LIMITS", "Evidence", "html_report"]


def html_report(evaluation: Evaluation, evidence: Evidence) -> str:
    """The page: no scripts, no links to elsewhere, light and dark. Raises MissingError without jinja2 or matplotlib."""
    return render(
        "report.html",
        e=evaluation,
        s=evaluation.subject,
        summary=summary(evaluation),
        tables={table.title: table for table in tables(evaluation)},
        roc=roc_curves(evaluation, evidence),
        curves=cost_curves(evaluation),
        histograms=histograms(evaluation, evidence),
        galleries=list(galleries(evidence, labels(evaluation.attacks))),
        limits=LIMITS,
    )
