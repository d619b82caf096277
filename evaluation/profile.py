"""What a pool or bundle costs: operations and bytes counted, memory and time measured; a model, a layer, a frame."""

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import ClassVar, Literal

import pdtool
from pdtool.artifacts import BundleModel, LayerCost, ModelCosts
from pdtool.decisions import Calibration
from pdtool.devices.catalogue import DeviceProfile, Precision
from pdtool.devices.probe import probe
from pdtool.devices.roofline import CAVEAT, ITEM_BYTES, Estimate, Fit, estimate, fits
from pdtool.errors import InputError, UsageError
from pdtool.images import size_of
from pdtool.runtime.bundle import OpenBundle, open_bundle
from pdtool.runtime.measure import Measured, measure_models
from pdtool.runtime.need import need

__all__ = ["DeviceReport", "FrameCost", "FrameRow", "ModelProfile", "Profile", "frame_cost", "profile"]


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """One model: counted, measured here and, with a device, estimated there.

    What is measured is its file: where that is a pack, all of its members, each of which says the same.
    """

    id: str
    file: str  # path in the bundle
    accuracy: float  # on the pool's held-out clean images
    macs: int  # of one image
    flops: int  # 2 x MACs
    parameters: int
    file_bytes: int
    load_ms: float
    load_peak_bytes: int
    resident_bytes: int
    latency_ms: tuple[float, ...]  # p50, p90, p99 of one image
    estimate: Estimate | None
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """The cost of one frame when `members` members are asked: the original's run plus that many mean members, or as
    many mean packs as that takes.
    """

    what: str
    members: float
    macs: float
    ms: float  # from the medians measured here
    originals_macs: float  # in runs of the original, by MACs
    originals_ms: float  # by measured time
    estimate_ms: float | None  # on the device


@dataclass(frozen=True, kw_only=True)
class FrameCost:
    """What a frame costs; only a calibrated bundle says how many members a clean frame really asks."""

    calibrated: bool
    rows: tuple[FrameRow, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """How the models would do on a board of the catalogue: its memory, and that its times are estimates."""

    id: str
    name: str
    precision: Precision
    all_loaded: Fit  # every model in memory at once
    least: Fit  # the original and one member: what screening with a memory budget needs
    caveat: str = CAVEAT


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything `pdtool profile` says. Times ms, sizes bytes."""

    FORMAT: ClassVar[str] = "pdtool.profile/1"
    pdtool: str
    name: str  # the folder's name
    kind: Literal["pool", "bundle"]
    counted_by: str  # who counted MACs and parameters
    measured_with: str  # who ran the models, where
    precision: str  # that the models were measured in
    batch: int  # images at once for the memory figures
    runs: int  # single images timed a model
    models: tuple[ModelProfile, ...]  # the original first
    least_bytes: int  # memory that screening needs at least
    all_bytes: int  # memory with every model loaded
    frame: FrameCost
    device: DeviceReport | None
    notes: tuple[str, ...]


def profile(
    folder: Path,
    *,
    device: DeviceProfile | None = None,
    precision: Precision | None = None,
    batch: int = 1,
    runs: int = 50,
    threads: int | None = None,
    model: str | None = None,
) -> Profile:
    """Measure the models of a bundle, or of a pool through a temporary ONNX bundle, on this machine.

    `device` and `precision` (None: the bundle's) are for the estimates alone: measured is what the bundle holds, fp32
    for a pool. Memory is measured with `batch` images at once, latency with `runs` single images, in a fresh process.
    Raises InputError where `folder` is neither pool nor bundle, UsageError for a batch or number of runs below 1 or a
    precision `device` has no peak for.
    """
    if batch < 1 or runs < 1:
        raise UsageError(f"batch and runs should be at least 1, are {batch} and {runs}")
    if (folder / "bundle.json").is_file():
        return _profile(open_bundle(folder), folder, "bundle", device, precision, batch, runs, threads, ())
    if not (folder / "pool.json").is_file():
        raise InputError(
            f"{folder}: neither pool.json nor bundle.json in it; expected a folder of `pdtool compress` or `export`"
        )
    from pdtool.compress.pool import open_pool
    from pdtool.export.bundle import export_pool

    notes = ["measured through a temporary ONNX bundle exported from the pool"]
    unused = [member.id for member in open_pool(folder, model=model).pool.members if not member.used]
    if unused:
        notes.append(f"left out, since under the accuracy floor: {', '.join(unused)}")
    with tempfile.TemporaryDirectory(prefix="pdtool-profile-") as temporary:
        exported = Path(temporary) / "bundle"
        export_pool(folder, exported, min_agreement=0.0, batch=batch, model=model)
        return _profile(open_bundle(exported), folder, "pool", device, precision, batch, runs, threads, tuple(notes))


def frame_cost(models: Sequence[ModelProfile], calibration: Calibration | None = None) -> FrameCost:
    """The cost of one frame: original + n x mean file, a file being a member or a pack of several.

    The calibration says how many members a clean frame asks on average and at most; without one there is no
    expectation, and the rows say what 1, half and all of the members would cost.
    """
    original, members = models[0], models[1:]
    files = {member.file: member.latency_ms[0] for member in members}
    held = max(Counter(member.file for member in members).values())
    macs = sum(member.macs for member in members) / len(files)
    ms = sum(files.values()) / len(files)
    estimates = [model.estimate.ms for model in members if model.estimate is not None]

    def row(what: str, asked: float, run: float | None = None) -> FrameRow:
        run = ceil(asked / held) if run is None else run
        frame_macs, frame_ms = original.macs + run * macs, original.latency_ms[0] + run * ms
        there = original.estimate.ms + run * sum(estimates) / len(files) if original.estimate else None
        return FrameRow(
            what=what,
            members=asked,
            macs=frame_macs,
            ms=frame_ms,
            originals_macs=frame_macs / original.macs,
            originals_ms=frame_ms / original.latency_ms[0],
            estimate_ms=there,
        )

    unscreened = row("original alone", 0)
    if calibration is not None:
        asked_clean = calibration.expected_models_clean
        run = sum(share * ceil(n / held) for n, share in enumerate(calibration.models_clean, start=1))
        rows = [unscreened, row("clean frame, expected", asked_clean, asked_clean if held == 1 else run)]
        rows.append(row("costliest frame", min(calibration.max_models, len(members))))
    else:
        asked = sorted({1, max(1, len(members) // 2), len(members)})
        rows = [unscreened, *(row(f"{n} of {len(members)} members asked", n) for n in asked)]
    return FrameCost(calibrated=calibration is not None, rows=tuple(rows))


def _profile(
    opened: OpenBundle,
    folder: Path,
    kind: Literal["pool", "bundle"],
    device: DeviceProfile | None,
    precision: Precision | None,
    batch: int,
    runs: int,
    threads: int | None,
    notes: tuple[str, ...],
) -> Profile:
    bundle, calibration = opened.bundle, opened.calibration
    precision = precision or bundle.precision
    costs = opened.costs()
    if device is not None:  # an unknown peak is found out before the measuring
        estimate(costs[bundle.original.id], 0, device, precision)
    machine, load = probe(), os.getloadavg()[0]
    if load > machine.cores / 2:
        notes += (f"this machine was busy before (load {load:.1f} on {machine.cores} cores): times may be too high",)
    paths = {model.file.path: opened.folder / model.file.path for model in opened.models}
    measured = measure_models(paths, size_of(bundle.preprocessing), batch=batch, runs=runs, threads=threads or 1)
    models = tuple(
        _model(model, measured[model.file.path], costs[model.id], device, precision) for model in opened.models
    )
    now = [
        dataclasses.replace(
            model,
            resident_bytes=measured[model.file.path].resident_bytes,
            load_peak_bytes=measured[model.file.path].load_peak_bytes,
            run_bytes=measured[model.file.path].run_bytes,
        )
        for model in opened.models
    ]
    needed = need(now[0], tuple(now[1:]))
    if calibration is None:
        notes += ("not calibrated: how many members a clean frame asks is not known (`pdtool calibrate`)",)
    if bundle.pack > 1:
        notes += (f"packs of {bundle.pack} members: a frame that asks one of them runs them all",)
    return Profile(
        pdtool=pdtool.__version__,
        name=folder.resolve().name,
        kind=kind,
        counted_by=", ".join(sorted({cost.counted_by for cost in costs.values()})),
        measured_with=f"onnxruntime {version('onnxruntime')} on {machine.cpu}, threads: {threads or 1}",
        precision=bundle.precision,
        batch=batch,
        runs=runs,
        models=models,
        least_bytes=needed.least,
        all_bytes=needed.everything,
        frame=frame_cost(models, calibration),
        device=None
        if device is None
        else DeviceReport(
            id=device.id,
            name=device.name,
            precision=precision,
            all_loaded=fits(needed.everything, device),
            least=fits(needed.least, device),
        ),
        notes=notes,
    )


def _model(
    model: BundleModel,
    measured: Measured,
    costs: ModelCosts,
    device: DeviceProfile | None,
    precision: Precision,
) -> ModelProfile:
    weights = costs.parameters * ITEM_BYTES[precision]
    return ModelProfile(
        id=model.id,
        file=model.file.path,
        accuracy=model.accuracy,
        macs=costs.macs,
        flops=2 * costs.macs,
        parameters=costs.parameters,
        file_bytes=model.file.bytes,
        load_ms=measured.load_ms,
        load_peak_bytes=measured.load_peak_bytes,
        resident_bytes=measured.resident_bytes,
        latency_ms=measured.latency_ms,
        estimate=None if device is None else estimate(costs, weights, device, precision),
        layers=costs.layers,
    )
