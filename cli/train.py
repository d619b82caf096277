"""`pdtool train`: train the classifier to protect, where there is none yet."""

from dataclasses import replace
from typing import Annotated

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, note, percent, progress, set_quiet, table


def train(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    test: Annotated[
        str | None,
        typer.Option(
            help="Data for the accuracy; default: a tenth of --data, which is held back all the same, for compress."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step; default 128, 32 for small data.")] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="Highest learning rate, for batches of 128.")] = None,
    flip: options.Flip = False,
    mean: options.Mean = None,
    std: options.Std = None,
    seed: options.Seed = 0,
    train_on: options.TrainOn = "auto",
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model from scratch and write its weights (.safetensors) with everything `compress` needs."""
    set_quiet(quiet)
    from pdtool.compress.original import train_original
    from pdtool.compress.training import RECIPES

    recipe = RECIPES["train"]
    trained = train_original(
        model,
        data,
        out,
        test=test,
        recipe=replace(
            recipe, epochs=epochs or recipe.epochs, batch=batch, lr=recipe.lr if lr is None else lr, flip=flip
        ),
        seed=seed,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        device=train_on,
        force=force,
        dry_run=dry_run,
        watch=progress,
    )
    if dry_run:
        note(f"would train {trained.model} on {trained.train_images} images for {trained.steps} steps")
    if json:
        emit(trained)
    elif not dry_run:
        rows = [
            ("model", trained.model),
            ("accuracy", f"{percent(trained.accuracy)} of {trained.accuracy_images} images ({trained.accuracy_on})"),
            ("trained", f"{trained.steps} steps on {trained.train_images} images in {trained.seconds:.1f} s"),
        ]
        table(str(out), ("", ""), rows)
        note(f"next: pdtool compress --weights {out} --data {data} --out POOL")
