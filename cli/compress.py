"""`pdtool compress`: a classifier becomes a pool of pruned copies of it."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pdtool.artifacts import Pool, PoolMember, PoolModel
from pdtool.cli import options
from pdtool.cli.output import emit, mib, note, percent, progress, set_quiet, table
from pdtool.errors import UsageError


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
        str | None, typer.Option(help="Training: paper (the default), or distilled (imitate the original).")
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
    resume: Annotated[bool, typer.Option(help="Keep finished members of a run that was stopped.")] = True,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a pool: many differently pruned and fine-tuned copies of one classifier. Stopped? Run it again to go on."""
    set_quiet(quiet)
    from pdtool.compress.cluster import cluster as workers
    from pdtool.compress.making import here
    from pdtool.compress.methods import check_options, method_named
    from pdtool.compress.plan import plan_pool
    from pdtool.compress.pool import PoolRequest, make_pool
    from pdtool.compress.training import RECIPES

    single = method_named(method).single
    training = {"epochs": epochs is not None, "recipe": recipe is not None, "flip": flip}
    check_options(method, [name for name, given in training.items() if given])
    if recipe is not None and recipe not in RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    tuning = RECIPES[recipe or "paper"]
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
        seed=seed,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        device=train_on,
    )
    if dry_run:
        plan = plan_pool(request)
        for line in plan.notes:
            note(line)
        if json:
            emit(plan)
        else:
            size = plan.original_bytes + plan.members * plan.member_bytes
            rows = [
                ("model", plan.model),
                ("members", f"{plan.members} of about {mib(plan.member_bytes)}, original {mib(plan.original_bytes)}"),
                ("disk", mib(size)),
                ("time", f"about {plan.seconds:.0f} s ({plan.steps} steps a member)"),
                ("layers changed", f"{plan.units} units; left whole: {', '.join(plan.left_whole) or 'none'}"),
            ]
            table(f"{out}: would be made", ("", ""), rows)
        return
    with workers(cluster) if cluster else nullcontext(here) as make:
        pool = make_pool(request, out, resume=resume, force=force, make=make, watch=progress)
    if json:
        emit(pool)
    else:
        _show(pool, out)


def _show(pool: Pool, out: Path) -> None:
    rows = [_row("original", pool.original)]
    rows += [_row(member.id, member.model, member) for member in pool.members]
    title = f"{out}: {pool.method}, accuracy on {pool.original.accuracy_images} held-out images"
    headers = (
        "model",
        "accuracy",
        "M MACs",
        "without zeros",
        "file",
        "channels removed",
        "weights removed or zero",
        "",
    )
    table(title, headers, rows)
    note(f"next: pdtool export {out} --out BUNDLE")


def _row(id: str, model: PoolModel, member: PoolMember | None = None) -> tuple[str, ...]:
    channels, weights = (0.0, 0.0) if member is None else (member.channel_rate, member.weight_rate)
    used = "" if member is None or member.used else "not used"
    macs, left = (f"{count / 1e6:.2f}" for count in (model.macs, model.nonzero_macs))
    return id, percent(model.accuracy), macs, left, mib(model.file.bytes), percent(channels), percent(weights), used
