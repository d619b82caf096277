"""`pdtool compress`: a classifier becomes a pool of pruned copies of it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, mib, note, percent, progress, set_quiet, table
from pdtool.errors import GateError, UsageError
from pdtool.wording import duration

if TYPE_CHECKING:
    from pdtool.compress.plan import PoolPlan
    from pdtool.compress.prepare import PoolRequest
    from pdtool.compress.timing import Spread
    from pdtool.devices.catalogue import DeviceProfile


def compress(
    weights: Annotated[Path, typer.Option(help="The original's weights: .safetensors, or .pt/.pth of tensors only.")],
    data: options.Data,
    out: options.Out,
    model: Annotated[
        str | None, typer.Option(help="Model spec; needed where the weights do not say it, or name your code.")
    ] = None,
    holdout: Annotated[
        str | None, typer.Option(help="Data for the accuracies; default: a tenth of --data, held back.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="random-channel, l1-norm (remove channels), lottery-ticket, subnetwork (zero weights), "
            "mutation-nai, -gf, -ws or -ns (change a few), or prune-and-scale (one hardened model)."
        ),
    ] = "random-channel",
    members: Annotated[int | None, typer.Option(min=1, help="How many members; default: 16.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Share of channels or weights to remove (default: 0.5), or to mutate (default: 0.007)."),
    ] = None,
    group_rate: Annotated[
        list[str] | None, typer.Option(help="CHANNELS=RATE for the layers with that many channels; repeatable.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A paper's group rates: chen-2021 or wang-2021.")] = None,
    round_to: Annotated[
        int | None, typer.Option(min=1, help="Pruned layers keep a multiple of so many channels; engines like 8.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="2:4, the zeros that NVIDIA's sparse tensor cores make use of.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of pruning: lottery-ticket, prune-and-scale (default: 20).")
    ] = None,
    search_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the data: of each round (lottery-ticket: 6, prune-and-scale: 1), of the search for the "
            "subnetwork (30).",
        ),
    ] = None,
    tau: Annotated[float | None, typer.Option(help="prune-and-scale: factor of the last layer's weights.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Leave this layer, and those coupled to it, whole; repeatable.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Training: hardened (on attacks, too; the default of random-channel and l1-norm), paper (on the data "
            "alone; the others'), or distilled (imitate the original)."
        ),
    ] = None,
    hardening: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for --recipe hardened, e.g. epsilon=8/255; repeatable: docs/compress.md."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Passes over the data, a member.")] = None,
    flip: options.Flip = False,
    min_accuracy: Annotated[float | None, typer.Option(help="Least accuracy of a used member.")] = None,
    max_drop: Annotated[float, typer.Option(help="Most accuracy a used member may lose (a share).")] = 0.1,
    mean: options.Mean = None,
    std: options.Std = None,
    seed: options.Seed = 0,
    train_on: options.TrainOn = "auto",
    cluster: Annotated[
        str | None,
        typer.Option(help="Make members at once: local:N, N processes here, or tcp://HOST:PORT of a Dask scheduler."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="With --dry-run or --report: does the pool fit this board (`pdtool devices`)?")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report here: what the pool costs, how apart its members err.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Keep finished members of a run that was stopped.")] = True,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a pool: many differently pruned and fine-tuned copies of one classifier. Stopped? Run it again to go on."""
    set_quiet(quiet)
    from pdtool.compress.cluster import check_cluster
    from pdtool.compress.cluster import cluster as workers
    from pdtool.compress.hardening import HARDENINGS, hardening_for, parse_hardening
    from pdtool.compress.making import here
    from pdtool.compress.methods import check_options, method_named
    from pdtool.compress.plan import plan_pool
    from pdtool.compress.pool import PoolRequest, make_pool
    from pdtool.compress.summary import summary
    from pdtool.compress.training import RECIPES
    from pdtool.devices.catalogue import find

    if device is not None and not dry_run and report is None:
        raise UsageError(
            "--device names a board that the pool should fit, for --dry-run and --report; where to train: --train-on"
        )
    board = find(device) if device is not None else None
    single, inherits = method_named(method).single, method_named(method).inherits
    training = {
        "epochs": epochs is not None,
        "recipe": recipe is not None,
        "hardening": bool(hardening),
        "flip": flip,
    }
    check_options(method, [name for name, given in training.items() if given])
    if recipe is not None and recipe not in RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    tuning = RECIPES[recipe or ("hardened" if inherits else "paper")]
    hard = hardening_for(tuning.name, inherits=inherits)
    if hardening and hard is None:
        raise UsageError(f"--hardening goes with --recipe {' or '.join(HARDENINGS)}, not with {tuning.name}")
    if hard is not None:
        hard = parse_hardening(hardening or [], hard)
    request = PoolRequest(
        weights=weights,
        data=data,
        model=model,
        holdout=holdout,
        method=method,
        members=members or (1 if single else 16),
        rate=rate,
        group_rates=options.group_rates(group_rate or []),
        preset=preset,
        round_to=round_to,
        pattern=pattern,
        rounds=rounds,
        search_epochs=search_epochs,
        tau=tau,
        ignore=tuple(ignore or []),
        recipe=replace(tuning, epochs=tuning.epochs if epochs is None else epochs, flip=flip),
        hardening=hard,
        seed=seed,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        device=train_on,
    )
    if cluster is not None:
        check_cluster(cluster)
    if report is not None:
        from pdtool.evaluation.pool_report import check_pool_report

        check_pool_report(report, out)
    if dry_run:
        plan = plan_pool(request, board)
        for line in plan.notes:
            note(line)
        if json:
            emit(plan)
        else:
            table(f"{out}: would be made", ("", ""), _plan_rows(plan, request.floor(plan.original_accuracy)))
        if plan.board is not None and not (fit := plan.board.fp32).fits:
            raise GateError(
                f"the weights of all models take {fit.need_bytes / 1e9:.1f} GB at fp32, {plan.board.name} has "
                f"{fit.memory_bytes / 1e9:g} GB: screen with --memory-budget or make fewer members"
            )
        return
    with workers(cluster) if cluster is not None else nullcontext(here) as make:
        pool = make_pool(request, out, resume=resume, force=force, make=make, watch=progress)
    if json:
        emit(pool)
    else:
        drawn = summary(pool)
        title = f"{out}: {pool.method}, accuracy on {pool.original.accuracy_images} held-out images"
        unused = {member.id for member in pool.members if not member.used}
        rows = [
            (*row, "not used" if row[0].partition(" ")[0] in unused else "") if unused else row for row in drawn.rows
        ]
        table(title, (*drawn.headers, "") if unused else drawn.headers, rows, drawn.used)
    if report is not None:
        _write_report(report, request, out, board)
        note(f"report: {report}")
    if not json:
        note(f"next: pdtool export {out} --out BUNDLE")


def _write_report(report: Path, request: "PoolRequest", out: Path, board: "DeviceProfile | None") -> None:
    """Measure the finished pool on the images that it was judged on."""
    from pdtool.compress.folder import open_pool
    from pdtool.compress.original import pick_device
    from pdtool.compress.prepare import held_out
    from pdtool.evaluation.pool_report import write_pool_report
    from pdtool.evaluation.pool_study import study

    folder = open_pool(out, model=request.model)
    done = study(
        folder,
        held_out(request),
        floor=request.floor(folder.pool.original.accuracy),
        board=board,
        place=pick_device(request.device),
        watch=progress,
    )
    write_pool_report(report, done)


def _plan_rows(plan: "PoolPlan", floor: float) -> list[tuple[str, str]]:
    seconds, of = plan.seconds, "steps" if plan.steps > 1 else "members"
    between = f": {duration(seconds.least)} to {duration(seconds.most)}" if plan.timed > 4 else ""
    left_whole = ", ".join(plan.left_whole) or "none"
    rows = [
        ("model", plan.model),
        ("original", f"{_millions(plan.original_macs)}, {mib(plan.original_bytes)}"),
        ("its accuracy", f"{percent(plan.original_accuracy)} of {plan.held_images} held-out images"),
        ("members", f"{plan.members}, used with an accuracy of at least {percent(floor)}"),
        ("a member", f"{_spread(plan.member_macs, _millions)}, {_spread(plan.member_bytes, mib)}"),
        ("disk", mib(plan.bytes)),
        (
            "memory, all models loaded",
            f"at least {mib(4 * plan.parameters)} at fp32, {mib(2 * plan.parameters)} at fp16 (weights alone)",
        ),
        ("layers changed", f"{plan.units} units; left whole: {left_whole}"),
        ("time, one after another", f"about {duration(seconds.mean)}"),
        ("", f"as {plan.timed} of {plan.members * plan.steps:,} {of} took just now{between}"),
    ]
    if plan.board is not None:
        fit = plan.board.fp32
        verdict = "fits" if fit.fits else "DOES NOT FIT"
        rows.append((plan.board.name, f"{verdict}: {percent(fit.share)} of {fit.memory_bytes / 1e9:g} GB at fp32"))
        rows.append(("", fit.note))
    return rows


def _spread(of: "Spread", text: Callable[[float], str]) -> str:
    least, most = text(of.least), text(of.most)
    return text(of.mean) if least == most else f"{text(of.mean)} ({least} to {most})"


def _millions(macs: float) -> str:
    return f"{macs / 1e6:.2f} M MACs"
