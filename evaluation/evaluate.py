"""Attack the original, screen clean and attacked images through the exported bundle, count, write the reports."""

import json
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pdtool
from pdtool.artifacts import FileEntry
from pdtool.compress.folder import open_pool
from pdtool.compress.original import pick_device
from pdtool.compress.watch import Watch, silent
from pdtool.data import Dataset, labels_as, load_data, pixel_hashes, refuse_seen
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attack_art import toolbox
from pdtool.evaluation.attacked import Attacked
from pdtool.evaluation.attacks import Attack, library
from pdtool.evaluation.baselines import BaselineResult, run_baselines
from pdtool.evaluation.benign import (
    SAME_NORM,
    choose_controls,
    compare,
    open_other,
    screen_control,
    screen_foreign,
    screen_same_norm,
)
from pdtool.evaluation.chosen import attack_limits, choose_attacks, evenly
from pdtool.evaluation.controls import Control
from pdtool.evaluation.counting import FEW, attack_result, clean_result, overall, worst_case, wrong_result
from pdtool.evaluation.detectors import DETECTORS
from pdtool.evaluation.image_store import Job, attack_or_reuse, drop_kept, kept_folder, linked
from pdtool.evaluation.mixed import mixed_stream
from pdtool.evaluation.report import Evidence, html_report
from pdtool.evaluation.report_markdown import markdown_report
from pdtool.evaluation.results import Evaluation
from pdtool.evaluation.screening import fooled, screen_set
from pdtool.evaluation.subject import machine_here, subject_of
from pdtool.extras import require
from pdtool.files import npz_bytes, sha256_file, write_atomic
from pdtool.images import size_of
from pdtool.jsonform import encode
from pdtool.outputs import new_folder
from pdtool.runtime.bundle import OpenBundle, open_bundle, pretty
from pdtool.runtime.calibrated import calibration_of
from pdtool.runtime.screener import Screener

__all__ = ["DEFAULT_ATTACKS", "Extras", "evaluate_bundle"]

DEFAULT_ATTACKS = ("fgsm", "deepfool")
# What the folder OUT may hold that --force replaces; attacked images lay beside the reports in older versions
OWN = ("report.html", "report.md", "verdicts.jsonl", "votes.npz", "mixed.npz", "attacked", "*.npz")


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is evaluated beside the attacks named: everything here is optional.

    `presets`: names of `PRESETS`. `controls`: benign changes, "same-norm" for noise as long as each attack's change,
    "all" for each. `foreign`: data specs of images of other
    classes. `compare`: other exports of the same pool. `limits`: attack name -> most images that it is given.
    `baselines`: other detectors, "all" for each, fitted on the data spec `baseline_data`. `images`: a folder for the
    attacked images, which several evaluations may share.
    """

    presets: Sequence[str] = ()
    controls: Sequence[str] = ()
    foreign: Sequence[str] = ()
    compare: Sequence[Path] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    baselines: Sequence[str] = ()
    baseline_data: str | None = None
    images: Path | None = None


@dataclass
class _Clock:
    """Wall time of each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def evaluate_bundle(
    bundle: Path,
    pool: Path,
    data: str,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    *,
    out: Path,
    extras: Extras = Extras(),
    limit: int | None = None,
    seed: int = 0,
    batch: int = 128,
    memory_budget: str | None = None,
    model: str | None = None,
    force: bool = False,
    attack_on: str = "cpu",
    command: str = "",
    watch: Watch = silent,
) -> Evaluation:
    """Evaluate a calibrated bundle against attacks on its pool's original and write the folder `out`.

    Written: report.html, report.md, report.json, verdicts.jsonl (every frame), votes.npz (what every member said of
    every frame), mixed.npz (clean and attacked images in turn) and attacked/, an .npz an attack. `data` is read in the
    role "test"; `limit` takes that many images of it, evenly. Attacked images are kept from the moment they are made,
    in `extras.images` or beside `out`, so that a run that was stopped goes on where it was. `attack_on` says where
    torch attacks: cpu, cuda or auto. `command` is printed in the reports.

    Raises InputError for a bundle that is not this pool's, for the images the pool was made on, and for data that does
    not fit; UsageError for an unknown attack; MissingError for a package that the report needs, before
    anything is attacked; what opening bundle and pool raises.
    """
    chosen, controls = choose_attacks(attacks, extras.presets), choose_controls(extras.controls)
    limits = attack_limits([f"{name}={count}" for name, count in extras.limits.items()])
    baselines, place = _baselines(extras), pick_device(attack_on)
    _ask_for_packages(chosen.values(), controls.values(), baselines)
    clock = _Clock()
    opened, of = open_bundle(bundle), open_pool(pool, model=model)
    calibration = calibration_of(opened)
    subject = subject_of(opened, of, calibration)
    others = [open_other(folder, opened) for folder in extras.compare]
    Screener.open(bundle, memory_budget=memory_budget).close()  # a budget that is too small is said before the attacks
    specs = (data, *extras.foreign, *([extras.baseline_data] if extras.baseline_data else []))
    inputs = (bundle, pool, *extras.compare, *(Path(spec.partition("#")[0]) for spec in specs))
    kept = kept_folder(out, extras.images)
    if extras.images is not None:
        inputs = (*inputs, kept)
    with new_folder(out, force=force, marker="report.json", own=OWN, inputs=inputs) as folder:
        with clock.step("read the data"):
            size = size_of(opened.bundle.preprocessing)
            clean_data = load_data(data, size, role="test", limit=limit)
            truth = labels_as(clean_data, opened.bundle.classes)
            foreign = [load_data(spec, size, role="test", limit=limit, labelled=False) for spec in extras.foreign]
            fit = _fit_data(extras.baseline_data, clean_data, opened) if baselines else None
        if truth is None:
            raise InputError(f"{data}: has no labels; an attack is judged by them")
        refuse_seen(clean_data, opened.read(opened.bundle.seen), opened.made_on)
        refuse_seen(clean_data, b64decode(calibration.seen), "the bundle was calibrated on")
        job = Job(
            net=of.original().to(place),
            images=clean_data.images,
            labels=truth,
            classes=opened.bundle.classes,
            seed=seed,
            batch=batch,
            model_sha256=of.pool.original.file.sha256,
            data_fingerprint=clean_data.fingerprint,
            about={"model": of.pool.model, "data": data},
        )
        attacked: dict[str, Attacked] = {}
        made: list[Path] = []
        files: dict[str, FileEntry] = {}
        kept.mkdir(parents=True, exist_ok=True)
        for name, attack in chosen.items():
            with clock.step(f"attack with {name}"):
                earlier = None if extras.images else out / "attacked" / f"{name}.npz"
                attacked[name], path = attack_or_reuse(job, name, attack, limits.get(attack.name), kept, earlier, watch)
            made.append(path)
            if extras.images is None:
                path = linked(path, folder / "attacked" / f"{name}.npz")
            files[name] = FileEntry(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
        write_atomic(folder / "mixed.npz", mixed_stream(clean_data, truth, attacked, opened.bundle))
        same_norm = tuple(attacked) if {SAME_NORM, "all"} & set(extras.controls) else ()
        sets = 1 + len(attacked) + len(controls) + len(same_norm) + len(foreign) + len(others)
        with clock.step("screen"), watch("screen", len(opened.models) * sets) as task:
            screen = partial(screen_set, bundle, seed=seed, memory_budget=memory_budget, advance=task.advance)
            clean = screen("clean", clean_data.images, truth, np.arange(len(truth)))
            screened = {name: screen(name, a.images, a.labels, a.source) for name, a in attacked.items()}
            benign = [screen_control(name, c, clean, screen, seed=seed) for name, c in controls.items()]
            for name in same_norm:
                if fooled(screened[name], clean).sum() >= FEW:
                    benign.append(screen_same_norm(chosen[name], screened[name], clean, screen, seed=seed))
                else:
                    task.say(
                        f"same-norm: left out for {chosen[name].spec}, which fooled the original on too few images"
                    )
                    task.advance(len(opened.models))
            benign += [screen_foreign(images, clean, screen) for images in foreign]
            members = [member.id for member in opened.bundle.members]
            compared = [compare(other, calibration, members, clean, task.advance) for other in others]
        rows: tuple[BaselineResult, ...] = ()
        if fit is not None:
            with clock.step("baselines"):
                won = {name: fooled(s, clean) for name, s in screened.items()}
                fooling = {name: (s.images, won[name]) for name, s in screened.items() if won[name].any()}
                rows = run_baselines(
                    baselines, job.net.to("cpu"), fit, clean_data.images, fooling, seed=seed, batch=batch, watch=watch
                )
        results = tuple(
            attack_result(
                name,
                chosen[name],
                files[name],
                len(evenly(len(truth), limits.get(chosen[name].name))),
                found,
                screened[name],
                clean,
            )
            for name, found in attacked.items()
        )
        evaluation = Evaluation(
            pdtool=pdtool.__version__,
            command=command,
            machine=machine_here(calibration.engines),
            subject=subject,
            data=data,
            data_fingerprint=clean_data.fingerprint,
            images="attacked" if extras.images is None else str(extras.images),
            seed=seed,
            order=clean.order,
            overall=overall(results, calibration.evidence),
            worst_case=worst_case(clean, list(screened.values())),
            clean=clean_result(clean),
            wrong=wrong_result(clean),
            attacks=results,
            benign=tuple(benign),
            compared=tuple(compared),
            baselines=rows,
            baseline_data=extras.baseline_data if baselines else None,
            whole_pool_cost=float(clean.costs[-1]),
            seconds=clock.seconds,
        )
        evidence = Evidence(clean, tuple(screened.values()), opened.bundle.classes)
        _write(folder, evaluation, evidence)
    if extras.images is None:
        drop_kept(kept, made)
    return evaluation


def _ask_for_packages(attacks: Iterable[Attack], controls: Iterable[Control], baselines: Iterable[str]) -> None:
    """Raise MissingError for a package that is not installed now, not after hours of attacks."""
    for module in ("jinja2", "matplotlib", "PIL.Image"):
        require(module, "write the report")
    by = {attack.by for attack in attacks}
    if "foolbox" in by:
        library()
    if "adversarial-robustness-toolbox" in by:
        toolbox("art")
    if any(control.name == "blur" for control in controls):
        require("scipy.ndimage", "blur images")
    if "squeezing" in baselines:
        require("scipy.ndimage", "smooth images")
    if "mahalanobis" in baselines:
        require("sklearn.covariance", "fit a detector")


def _baselines(extras: Extras) -> tuple[str, ...]:
    if not extras.baselines:
        return ()
    if extras.baseline_data is None:
        raise UsageError("a baseline is fitted on clean images of its own; add --baseline-data DATA (training images)")
    unknown = [name for name in extras.baselines if name not in (*DETECTORS, "all")]
    if unknown:
        raise UsageError(f"unknown baseline {unknown[0]!r}; expected all or one of {', '.join(DETECTORS)}")
    return tuple(DETECTORS) if "all" in extras.baselines else tuple(dict.fromkeys(extras.baselines))


def _fit_data(spec: str | None, data: Dataset, opened: OpenBundle) -> Dataset:
    """What baselines are fitted on: labelled, by the bundle's classes, and not what they are judged on."""
    assert spec is not None
    fit = load_data(spec, size_of(opened.bundle.preprocessing), role="train")
    refuse_seen(data, pixel_hashes(fit.images), "the baselines would be fitted on")
    return replace(fit, labels=labels_as(fit, opened.bundle.classes), classes=opened.bundle.classes)


def _write(folder: Path, evaluation: Evaluation, evidence: Evidence) -> None:
    sets = (evidence.clean, *evidence.attacked)
    lines = [json.dumps(encode(verdict)) for frames in sets for verdict in frames.verdicts]
    arrays: dict[str, NDArray[Any]] = {"order": np.array(evidence.clean.order)}
    for frames in sets:
        for name in ("truth", "source", "given", "votes", "flagged", "used"):
            arrays[f"{frames.name}/{name}"] = getattr(frames, name)
        arrays[f"{frames.name}/graded"] = frames.graded.astype(np.float32)
    write_atomic(folder / "verdicts.jsonl", ("\n".join(lines) + "\n").encode())
    write_atomic(folder / "votes.npz", npz_bytes(arrays))
    write_atomic(folder / "report.json", pretty(evaluation))
    write_atomic(folder / "report.md", markdown_report(evaluation).encode())
    write_atomic(folder / "report.html", html_report(evaluation, evidence).encode())
