"""`pdtool evaluate`: how much a bundle catches, what it costs, how often it is wrong."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pdtool.cli import options
from pdtool.cli.adaptive import run as study
from pdtool.cli.output import emit, note, percent, progress, set_quiet, table
from pdtool.errors import UsageError
from pdtool.wording import number

if TYPE_CHECKING:
    from pdtool.evaluation.results import Frames

KNOWING = "Attackers who know the defence"  # the panel of what goes with --adaptive


def evaluate(
    bundle: options.BundleFolder,
    pool: Annotated[Path, typer.Option(help="The folder written by `pdtool compress` that the bundle came from.")],
    data: options.Data,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="fgsm, bim, pgd, apgd-ce, deepfool, cw, jsma, square, ..., with settings if wanted: "
            "pgd:epsilon=8/255,steps=20; may be given several times (default: fgsm and deepfool)."
        ),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="A set of attacks: quick, strong, paper-access2021, paper-icml2021, paper-sors, paper-2018; may be "
            "given several times."
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="A benign change, or all: noise, gaussian, jpeg, blur, contrast, stretch, brightness; with a setting "
            "if wanted, e.g. jpeg:quality=50; or same-norm, noise as long as each attack's change. How often is it "
            "flagged?"
        ),
    ] = None,
    foreign: Annotated[
        list[str] | None, typer.Option(metavar="DATA", help="Images of other classes: how often are they flagged?")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(metavar="BUNDLE", help="The same pool exported otherwise, e.g. to int8: how many labels differ?"),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Another detector on the same images, or all: softmax, squeezing, lid, mahalanobis; fitted on "
            "--baseline-data."
        ),
    ] = None,
    baseline_data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Clean labelled images that baselines are fitted on (training).")
    ] = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Attackers who know the defence instead (docs/evaluation.md). --limit is 100 then unless given.",
            rich_help_panel=KNOWING,
        ),
    ] = False,
    surrogates: Annotated[
        Path | None,
        typer.Option(
            metavar="POOL",
            help="The attacker's own pool, the same weights, another --seed.",
            rich_help_panel=KNOWING,
        ),
    ] = None,
    threat: Annotated[
        list[str] | None,
        typer.Option(
            help="oblivious, surrogates, stolen, full, decision or availability; may be given several times (default: "
            "all).",
            rich_help_panel=KNOWING,
        ),
    ] = None,
    epsilon: Annotated[
        list[str] | None,
        typer.Option(
            help="Most change of a pixel; may be given several times (default: 1, 2, 4, 8, 16, 255/255).",
            rich_help_panel=KNOWING,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Gradient steps (default: 50).", rich_help_panel=KNOWING)
    ] = None,
    targets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Wrong classes aimed at, the likeliest and random ones (default: 2; 3 of more than 10 classes).",
            rich_help_panel=KNOWING,
        ),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Starts for each, the first at the image, others at random within epsilon (default: 1).",
            rich_help_panel=KNOWING,
        ),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(min=1, help="Queries an image, no gradients (default: 500).", rich_help_panel=KNOWING),
    ] = None,
    drop_unused: Annotated[
        bool,
        typer.Option(
            "--drop-unused",
            help="Delete what earlier runs kept in OUT/cells and this one did not use.",
            rich_help_panel=KNOWING,
        ),
    ] = False,
    limit: options.Limit = None,
    limit_attack: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="Give that attack at most N images, evenly over the data, e.g. cw=200."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the reports and the attacked images (default: pdtool-evaluation, with --adaptive "
            "pdtool-adaptive)."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Keep attacked images there and use again what was made alike; evaluations of several pools of one "
            "original may share it (default: in --out)."
        ),
    ] = None,
    seed: options.Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 128,
    attack_on: Annotated[str, typer.Option(help="Where torch attacks the original: auto, cpu or cuda.")] = "cpu",
    memory_budget: Annotated[
        str | None, typer.Option(help="Most bytes that models may hold while screening, e.g. 64MiB.")
    ] = None,
    model: options.PoolModel = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Attack POOL's original on labelled images and screen clean and attacked ones through its BUNDLE.

    Writes report.html, report.md, report.json, verdicts.jsonl, votes.npz, the attacked images and a mixed stream to
    --out. Started again after it was stopped, it goes on with the next attack. With --adaptive the attackers know the
    screener, and adaptive.html, adaptive.md, adaptive.json and their images are written.
    """
    set_quiet(quiet)
    command = shlex.join(["pdtool", *sys.argv[1:]])
    usual: dict[str, object] = {
        "attack": attack,
        "preset": preset,
        "control": control,
        "foreign": foreign,
        "compare": compare,
    }
    usual |= {"baseline": baseline, "baseline-data": baseline_data, "limit-attack": limit_attack, "images": images}
    usual |= {"attack-on": attack_on != "cpu"}
    knowing = {"surrogates": surrogates, "threat": threat, "epsilon": epsilon, "steps": steps, "queries": queries}
    knowing |= {"targets": targets, "restarts": restarts, "drop-unused": drop_unused}
    _refuse(usual if adaptive else knowing, "does not go with" if adaptive else "goes with")
    if adaptive:
        study(
            bundle, pool, data,
            out=out, surrogates=surrogates, threats=threat or (), epsilons=epsilon or (), steps=steps, queries=queries,
            targets=targets, restarts=restarts, drop=drop_unused,
            limit=limit, seed=seed, batch=batch, memory_budget=memory_budget, model=model, force=force, json=json,
            command=command,
        )  # fmt: skip
        return
    out = out or Path("pdtool-evaluation")
    from pdtool.evaluation.chosen import attack_limits
    from pdtool.evaluation.evaluate import DEFAULT_ATTACKS, Extras, evaluate_bundle

    extras = Extras(
        presets=preset or (),
        controls=control or (),
        foreign=foreign or (),
        compare=compare or (),
        limits=attack_limits(limit_attack or ()),
        baselines=baseline or (),
        baseline_data=baseline_data,
        images=images,
    )
    result = evaluate_bundle(
        bundle,
        pool,
        data,
        attack or (() if preset else DEFAULT_ATTACKS),
        out=out,
        extras=extras,
        limit=limit,
        seed=seed,
        batch=batch,
        memory_budget=memory_budget,
        model=model,
        force=force,
        attack_on=attack_on,
        command=command,
        watch=progress,
    )
    if json:
        emit(result)
        return
    from pdtool.evaluation.report_words import labels, summary

    called = labels(result.attacks)
    every, wrong = result.clean.every, result.clean.wrong
    rows: list[tuple[object, ...]] = [
        ("clean", *_frames(every), "", "", "", number(every.models_used.value), number(every.cost.value)),
        ("  of them misclassified", *_frames(wrong), *[""] * 5),
    ]
    for a in result.attacks:
        own = a.graded if result.subject.evidence != "label" else a.lcr
        told = (number(own.auroc.value, 3), percent(own.tpr_5.share), percent(a.corrected.share))
        spent = (number(a.frames.models_used.value), number(a.frames.cost.value))
        rows.append((f"attacked: {called[a.name]}", *_frames(a.frames), *told, *spent))
    for b in result.benign:
        spent = (number(b.frames.models_used.value), number(b.frames.cost.value))
        name = f"control: {b.name}" if b.kind == "control" else b.name
        rows.append((name, *_frames(b.frames), number(b.lcr.auroc.value, 3), "", "", *spent))
    title = f"{bundle}: screened {every.count} clean images and what attacks made of them"
    headers = ("frames", "n", "flagged", "AUROC", "TPR at 5 % FPR", "corrected right", "members asked", "passes")
    table(title, headers, rows)
    for line in summary(result):
        note(line)
    note(f"report: {out / 'report.html'}")


def _refuse(options: Mapping[str, object], how: str) -> None:
    """Raise UsageError for the first of these options that was given."""
    for name, value in options.items():
        if value:
            raise UsageError(f"--{name} {how} --adaptive; see docs/evaluation.md")


def _frames(frames: "Frames") -> tuple[object, ...]:
    return frames.count, percent(frames.flagged.share)
