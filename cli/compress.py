"""`pdtool compress`: a classifier becomes a pool of pruned copies of it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pdtool.artifacts import Pool
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
    method: Annotated[str, typer.Option(help="random-channel or l1-norm.")] = "random-channel",
    members: Annotated[int, typer.Option(min=1, help="How many members.")] = 16,
    rate: Annotated[float, typer.Option(help="Share of the channels to remove.")] = 0.5,
    group_rate: Annotated[
        list[str] | None, typer.Option(help="CHANNELS=RATE for the layers with that many channels; repeatable.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Leave this layer, and those coupled to it, whole; repeatable.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Fine-tuning: paper, or distilled (imitate the original).")] = "paper",
    epochs: Annotated[int | None, typer.Option(min=0, help="Passes over the data, a member.")] = None,
    flip: options.Flip = False,
    min_accuracy: Annotated[float | None, typer.Option(help="Least accuracy of a used member.")] = None,
    max_drop: Annotated[float, typer.Option(help="Most accuracy a used member may lose (a share).")] = 0.1,
    mean: options.Mean = None,
    std: options.Std = None,
    seed: options.Seed = 0,
    device: options.TorchDevice = "auto",
    resume: Annotated[bool, typer.Option(help="Keep finished members of a run that was stopped.")] = True,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a pool: many differently pruned and fine-tuned copies of one classifier. Stopped? Run it again to go on."""
    set_quiet(quiet)
    from pdtool.compress.pool import PoolRequest, make_pool, plan_pool
    from pdtool.compress.training import RECIPES

    if recipe not in RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    tuning = RECIPES[recipe]
    request = PoolRequest(
        weights=weights,
        data=data,
        model=model,
        holdout=holdout,
        method=method,
        members=members,
        rate=rate,
        group_rates=options.group_rates(group_rate or []),
        ignore=tuple(ignore or []),
        recipe=replace(tuning, epochs=tuning.epochs if epochs is None else epochs, flip=flip),
        seed=seed,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        device=device,
    )
    if dry_run:
        plan = plan_pool(request)
        if json:
            emit(plan)
        else:
            size = plan.original_bytes + plan.members * plan.member_bytes
            rows = [
                ("model", plan.model),
                ("members", f"{plan.members} of about {mib(plan.member_bytes)}, original {mib(plan.original_bytes)}"),
                ("disk", mib(size)),
                ("time", f"about {plan.seconds:.0f} s ({plan.steps} steps a member)"),
                ("layers pruned", f"{plan.units} units; left whole: {', '.join(plan.left_whole) or 'none'}"),
            ]
            table(f"{out}: would be made", ("", ""), rows)
        return
    pool = make_pool(request, out, resume=resume, force=force, watch=progress)
    if json:
        emit(pool)
    else:
        _show(pool, out)


def _show(pool: Pool, out: Path) -> None:
    rows = [_row("original", pool.original.accuracy, pool.original.macs, pool.original.file.bytes, 0.0, "")]
    for member in pool.members:
        model = member.model
        used = "" if member.used else "not used"
        rows.append(_row(member.id, model.accuracy, model.macs, model.file.bytes, member.channel_rate, used))
    title = f"{out}: {pool.method}, accuracy on {pool.original.accuracy_images} held-out images"
    table(title, ("model", "accuracy", "M MACs", "file", "channels removed", ""), rows)
    note(f"next: pdtool export {out} --out BUNDLE")


def _row(id: str, accuracy: float, macs: int, size: int, removed: float, used: str) -> tuple[str, ...]:
    return id, percent(accuracy), f"{macs / 1e6:.2f}", mib(size), percent(removed), used
