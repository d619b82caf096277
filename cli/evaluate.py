"""`pdtool evaluate`: how much a bundle catches, what it costs, how often it is wrong."""

from pathlib import Path
from typing import Annotated

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, note, percent, progress, set_quiet, table
from pdtool.wording import number


def evaluate(
    bundle: options.BundleFolder,
    pool: Annotated[Path, typer.Option(help="The folder written by `pdtool compress` that the bundle came from.")],
    data: options.Data,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="fgsm, bim, pgd, deepfool or cw, with settings if wanted: pgd:epsilon=8/255,steps=20; "
            "may be given several times (default: fgsm and deepfool)."
        ),
    ] = None,
    limit: options.Limit = None,
    out: Annotated[Path, typer.Option(help="Folder for the reports and the attacked images.")] = Path(
        "pdtool-evaluation"
    ),
    seed: options.Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 128,
    memory_budget: Annotated[
        str | None, typer.Option(help="Most bytes that models may hold while screening, e.g. 64MiB.")
    ] = None,
    model: options.PoolModel = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Attack POOL's original on labelled images and screen clean and attacked ones through its BUNDLE.

    Writes report.html, report.md, report.json, verdicts.jsonl, the attacked images and a mixed stream to --out.
    """
    set_quiet(quiet)
    from pdtool.evaluation.evaluate import DEFAULT_ATTACKS, evaluate_bundle

    result = evaluate_bundle(
        bundle,
        pool,
        data,
        attack or DEFAULT_ATTACKS,
        out=out,
        limit=limit,
        seed=seed,
        batch=batch,
        memory_budget=memory_budget,
        model=model,
        force=force,
        watch=progress,
    )
    if json:
        emit(result)
        return
    clean = result.clean
    rows = [
        ("clean", clean.images, percent(clean.flagged.share), "", "", number(clean.models_used), number(clean.cost)),
        (
            "  of them misclassified",
            clean.wrong_flagged.count,
            percent(clean.wrong_flagged.share),
            *("", "", "", ""),
        ),
        *(
            (
                f"attacked: {a.name}",
                a.flagged.count,
                percent(a.flagged.share),
                number(a.auroc, 3),
                percent(a.corrected.share),
                number(a.models_used),
                number(a.cost),
            )
            for a in result.attacks
        ),
    ]
    headers = ("frames", "n", "flagged", "AUROC", "corrected right", "members asked", "cost, runs of the original")
    table(f"{bundle}: screened {clean.images} clean images and what attacks made of them", headers, rows)
    note(f"report: {out / 'report.html'}")
