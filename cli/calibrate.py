"""`pdtool calibrate`: fit the test on clean images and check its promise on others."""

from typing import Annotated, Literal

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, note, percent, progress, set_quiet, table


def calibrate(
    bundle: options.BundleFolder,
    data: options.Data,
    target_fpr: Annotated[float, typer.Option(help="Most clean frames flagged, as a share.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Confidence of that promise.")] = 0.95,
    rule: Annotated[Literal["wald"], typer.Option(help="The sequential test.")] = "wald",
    preset: Annotated[
        Literal["search", "paper"],
        typer.Option(
            help="search: the cheapest of the sharpest tests that keep the promise; paper: sigma 0.1, flag at the cap."
        ),
    ] = "search",
    p0: Annotated[float | None, typer.Option(help="Label change rate of clean frames (with --p1).")] = None,
    p1: Annotated[float | None, typer.Option(help="Label change rate of adversarial frames (with --p0).")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="p0, p1 = clean rate x (1 -+ sigma), the papers' construction.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Chance to flag at p0 (Wald's nominal error).")] = 0.05,
    beta: Annotated[float, typer.Option(help="Chance to clear at p1.")] = 0.05,
    max_models: Annotated[int, typer.Option(min=1, help="Most members asked for one frame.")] = 100,
    at_cap: Annotated[
        Literal["adversarial", "clean", "threshold"] | None,
        typer.Option(help="Verdict when the last member leaves it open; threshold: the likelier hypothesis."),
    ] = None,
    accept_miss: Annotated[
        bool, typer.Option("--accept-miss", help="Store the calibration even where the target is not met.")
    ] = False,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Calibrate BUNDLE on clean images: fit on one half, run the whole test on the other, promise what was measured.

    --data may be unlabelled or a video; frames of one track or video stay together in the split.
    """
    set_quiet(quiet)
    del rule
    from pdtool.calibration.exact import operating
    from pdtool.calibration.fit import PAPER, WaldSettings
    from pdtool.calibration.table import DecisionTable
    from pdtool.runtime.calibrate import calibrate_bundle
    from pdtool.runtime.clean import load_clean

    if preset == "paper":
        sigma = PAPER.sigma if sigma is None and p0 is None else sigma
        at_cap = at_cap or PAPER.at_cap
    settings = WaldSettings(
        p0=p0, p1=p1, sigma=sigma, alpha=alpha, beta=beta, max_models=max_models, at_cap=at_cap or "threshold"
    )
    with progress("asking every model", None) as bar:
        calibration = calibrate_bundle(
            bundle,
            lambda size: load_clean(data, size, limit=limit),
            settings,
            target_fpr=target_fpr,
            confidence=confidence,
            seed=seed,
            accept_miss=accept_miss,
            advance=bar.advance,
        )
    if json:
        emit(calibration)
        return
    decision = DecisionTable(calibration.flag_at, calibration.clear_at)
    c = calibration
    wrong = "-" if c.check_wrong is None else f"{c.check_wrong_flagged} of {c.check_wrong} flagged"
    kept = "kept" if c.fpr_upper <= c.target_fpr else "NOT KEPT"
    sources = f"{c.check_images} check images"
    if c.check_groups < c.check_images:
        sources += f" of {c.check_groups} tracks"
    rows = [
        ("false alarms promised, at most", percent(c.target_fpr)),
        (f"measured on {sources}", f"{percent(c.realised_fpr)} ({c.check_flagged} flagged)"),
        (f"upper bound at {c.confidence:.0%} confidence", f"{percent(c.fpr_upper)}: promise {kept}"),
        ("check images the original gets wrong", wrong),
        ("models asked for a clean frame, mean", f"{c.expected_models_clean:.1f} of at most {c.max_models}"),
        (f"clean label change rate ({c.fit_images} images)", percent(c.clean_lcr)),
        ("clean below p0, adversarial above p1", f"{c.p0:.3f} / {c.p1:.3f}"),
    ]
    table(f"{bundle}: calibrated (wald)", ("", "value"), rows)
    exact = operating(decision, [0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    table(
        "what the test does at a given label change rate (exact)",
        ("label change rate", *map(percent, exact.p)),
        [
            ("flagged", *map(percent, exact.flag)),
            ("models asked, mean", *(f"{mean:.1f}" for mean in exact.mean_models)),
        ],
    )
    if c.fpr_upper > c.target_fpr:
        note("the target is not met; the calibration was stored because of --accept-miss")
    note(f"next: pdtool screen {bundle} --source IMAGES --memory-budget 64MiB --json")
