"""`pdtool calibrate`: fit the test on clean images and check its promise on others."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pdtool.cli import options
from pdtool.cli.output import emit, note, percent, progress, set_quiet, table
from pdtool.errors import UsageError
from pdtool.wording import number

if TYPE_CHECKING:
    from pdtool.decisions import Calibration


def calibrate(
    bundle: options.BundleFolder,
    data: options.Data,
    target_fpr: Annotated[float, typer.Option(help="Most clean frames flagged, as a share.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Confidence of that promise.")] = 0.95,
    rule: Annotated[
        Literal["optimal", "wald", "fixed", "mmt"],
        typer.Option(
            help="optimal: fewest members asked; wald: the papers' test; fixed: always ask all; mmt: as its program."
        ),
    ] = "optimal",
    evidence: Annotated[
        Literal["label", "graded", "margin"] | None,
        typer.Option(
            help="What a member says: label (0 or 1; the default of wald and mmt); graded (1 - its probability of the "
            "label); margin (graded, and doubt weighs more where the original is sure; the others' default)."
        ),
    ] = None,
    max_models: Annotated[int, typer.Option(min=1, help="Most members asked for one frame.")] = 100,
    mean_models: Annotated[
        float | None,
        typer.Option(help="Most members asked for a clean frame on average; flags as much as that allows."),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Most time for a frame that needs every member, as measured here: lowers --max-models."),
    ] = None,
    attacked: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help=".npz of attacked images (from evaluate) to design against, instead of an assumption; repeatable.",
        ),
    ] = None,
    preset: Annotated[
        Literal["paper"] | None,
        typer.Option(help="wald: the papers' setting, sigma 0.1, and what the pool leaves open is adversarial."),
    ] = None,
    p0: Annotated[float | None, typer.Option(help="wald, mmt: label change rate of clean frames (with --p1).")] = None,
    p1: Annotated[
        float | None, typer.Option(help="wald, mmt: label change rate of adversarial frames (with --p0).")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="wald, mmt: p0, p1 = clean rate x (1 -+ sigma), the papers' construction.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="wald, mmt: chance to flag at p0 (Wald's nominal error); default 0.05.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="wald, mmt: chance to clear at p1; default 0.05.")] = None,
    at_cap: Annotated[
        Literal["adversarial", "clean", "threshold"] | None,
        typer.Option(help="wald: verdict when the last member leaves it open; threshold: the likelier hypothesis."),
    ] = None,
    backend: options.Backend = None,
    accept_miss: Annotated[
        bool, typer.Option("--accept-miss", help="Store the calibration even where the target is not met.")
    ] = False,
    fps: Annotated[float, typer.Option(min=0.001, help="Frames a second, to count false alarms an hour.")] = 30.0,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report here, with plots and every rule on the same votes.")
    ] = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Calibrate BUNDLE on clean images: fit on one part, run the whole test on the other, promise what was measured.

    --data may be unlabelled or a video; frames of one track or video stay together in the split.
    """
    set_quiet(quiet)
    from pdtool.calibration.rules import PAPER, Settings
    from pdtool.runtime.calibrate import calibrate_bundle
    from pdtool.runtime.clean import load_clean

    if not math.isfinite(fps):
        raise UsageError(f"expected --fps to be a number of frames a second, got {fps}")
    _refuse(rule, {"optimal"}, {"--mean-models": mean_models, "--attacked": attacked})
    _refuse(rule, {"wald"}, {"--preset": preset, "--at-cap": at_cap})
    _refuse(rule, {"wald", "mmt"}, {"--p0": p0, "--p1": p1, "--sigma": sigma, "--alpha": alpha, "--beta": beta})
    evidence = evidence or ("label" if rule in ("wald", "mmt") else "margin")
    if preset == "paper":
        sigma = PAPER.sigma if sigma is None and p0 is None else sigma
        at_cap = at_cap or PAPER.at_cap
    settings = Settings(
        rule=rule, evidence="label" if evidence == "label" else "graded", margin=evidence == "margin",
        p0=p0, p1=p1, sigma=sigma, alpha=0.05 if alpha is None else alpha,
        beta=0.05 if beta is None else beta, max_models=max_models, mean_models=mean_models,
        at_cap=at_cap or "threshold",
    )  # fmt: skip
    if report is not None:
        from pdtool.evaluation.calibration_report import check_report, write_report

        check_report(report)
    with progress("asking every model", None) as bar:
        done = calibrate_bundle(
            bundle,
            lambda size: load_clean(data, size, limit=limit),
            settings,
            target_fpr=target_fpr,
            confidence=confidence,
            seed=seed,
            attacked=attacked or (),
            latency_ms=latency_ms,
            accept_miss=accept_miss,
            backend=backend,
            advance=bar.advance,
        )
    if report is not None:
        write_report(report, done, seed=seed, fps=fps)
    if json:
        emit(done.calibration)
        return
    _print(bundle, done.calibration, fps)
    if report is not None:
        note(f"report: {report}")
    note(f"next: pdtool screen {bundle} --source IMAGES --memory-budget 64MiB --json")


def _refuse(rule: str, rules: set[str], given: Mapping[str, object]) -> None:
    """Options that the rule would ignore are mistakes. Raises UsageError."""
    named = [option for option, value in given.items() if value is not None]
    if named and rule not in rules:
        belongs = " and ".join(f"--rule {each}" for each in sorted(rules))
        raise UsageError(f"{named[0]} belongs to {belongs}, not to --rule {rule}; leave it out or choose that rule")


def _print(bundle: Path, c: "Calibration", fps: float) -> None:
    """What a person can act on, then what the test does."""
    from pdtool.calibration.exact import change_rate_flagged, operating
    from pdtool.calibration.response import evidence_flagged, within
    from pdtool.calibration.table import DecisionTable, table_of

    test = table_of(c)
    hour = 3600 * fps
    sources = f"{c.check_images} check images"
    if c.check_groups < c.check_images:
        sources += f" of {c.check_groups} tracks"
    wrong = "-" if c.check_wrong is None else f"{c.check_wrong_flagged} of {c.check_wrong} flagged"
    against = "assumed" if c.adversarial == "assumed" else "given"
    rows = [
        ("false alarms promised, at most", percent(c.target_fpr)),
        (f"measured on {sources}", f"{percent(c.realised_fpr)} ({c.check_flagged} flagged)"),
        (
            f"upper bound at {100 * c.confidence:g} % confidence",
            f"{percent(c.fpr_upper)}: promise {'kept' if c.fpr_upper <= c.target_fpr else 'NOT KEPT'}",
        ),
        (
            f"flagged clean frames an hour at {fps:g} fps",
            f"{hour * c.realised_fpr:,.0f}, at most {hour * c.fpr_upper:,.0f}",
        ),
        ("check images the original gets wrong", wrong),
        (
            "members asked for a clean frame: mean, 99 of 100, most",
            f"{c.expected_models_clean:.1f}, {c.p99_models_clean}, {within(test)[-1]}",
        ),
        (f"adversarial frames flagged ({against})", percent(c.power)),
        (f"clean label change rate ({c.fit_images} images)", percent(c.clean_lcr)),
    ]
    if c.p0 is not None and c.p1 is not None:
        rows.append(("clean below p0, adversarial above p1", f"{c.p0:.3f} / {c.p1:.3f}"))
    for n in within(test):
        if isinstance(test, DecisionTable):
            rate = change_rate_flagged(test, n)
            rows.append((f"chance of a change at which 9 of 10 frames are flagged within {n} members", percent(rate)))
        else:
            bound = evidence_flagged(test, n)
            rows.append((f"evidence of each member that is flagged within {n}", number(bound, 2)))
    table(f"{bundle}: calibrated ({c.rule}, {c.counts} evidence, measured with {c.engines})", ("", "value"), rows)
    if isinstance(test, DecisionTable):
        exact = operating(test, [0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
        table(
            "what the test does where every member changes the label with the same chance, independently (exact)",
            ("chance that a member changes the label", *map(percent, exact.p)),
            [
                ("flagged", *map(percent, exact.flag)),
                ("members asked, mean", *(f"{mean:.1f}" for mean in exact.mean_models)),
            ],
        )
    if c.fpr_upper > c.target_fpr:
        note("the target is not met; the calibration was stored because of --accept-miss")
    if c.power < 0.1:
        note(
            "the promise leaves a test that flags hardly anything: calibrate on more images, raise --target-fpr, or "
            "make a pool that changes fewer clean labels"
        )
