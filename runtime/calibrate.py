"""Calibrate a bundle: its own files vote on clean images, the test is fitted and checked, the bundle rewritten."""

import hashlib
import logging
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pdtool.artifacts import Backend
from pdtool.calibration.evidence import Evidence
from pdtool.calibration.fit import CleanFrames, calibrate
from pdtool.calibration.promise import check_promise, split
from pdtool.calibration.rules import Settings
from pdtool.data import Dataset, labels_as, load_data, pixel_hashes, refuse_seen
from pdtool.decisions import Calibration, Grading
from pdtool.errors import InputError, MissingError
from pdtool.images import Size, size_of
from pdtool.runtime.bundle import OpenBundle, models_digest, open_bundle, write_calibration
from pdtool.runtime.providers import Provider, open_provider
from pdtool.runtime.timing import affordable
from pdtool.runtime.votes import collect_votes

__all__ = ["Calibrated", "calibrate_bundle"]

LOG = logging.getLogger(__name__)
FEWEST_ATTACKED = 20  # images that fool the original, in each file


@dataclass(frozen=True)
class Calibrated:
    """A calibration and the frames it came from, so that other rules can be compared on them."""

    calibration: Calibration
    settings: Settings
    frames: CleanFrames
    attacked: Evidence | None


def calibrate_bundle(
    folder: Path,
    load: Callable[[Size], Dataset],
    settings: Settings,
    *,
    target_fpr: float,
    confidence: float,
    seed: int,
    attacked: Sequence[Path] = (),
    latency_ms: float | None = None,
    accept_miss: bool = False,
    backend: Backend | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Calibrated:
    """Calibrate the bundle in `folder` on clean images (`load` gives them in the input's size) and store the result.

    The votes come from the files that will screen. `attacked`: .npz files of attacked images and their true labels, as
    an evaluation writes them; those that fool the original replace the assumption about adversarial frames. Make them
    of images that are not calibrated on, or the test has seen its check frames.
    `backend` is what will screen: the calibration is measured with it and bound to it (None: what the bundle was
    exported for, or ONNX Runtime on the CPU where that is missing here).
    `latency_ms`: most time for a frame that needs every member, measured on this machine; lowers `max_models`.

    Raises InputError where the images are the ones that the pool was trained on (the promise would be false) or too
    few, MissingError where a `backend` asked for is missing, GateError where the false-alarm target cannot be promised
    or a member is too slow; the bundle is then left as it was.
    """
    check_promise(target_fpr, confidence)
    opened = open_bundle(folder)
    data = _distinct(load(size_of(opened.bundle.preprocessing)))
    refuse_seen(data, opened.read(opened.bundle.seen), opened.made_on)
    with _provider(opened, backend) as provider:
        if latency_ms is not None:
            most = affordable(provider, data.images[:1], latency_ms)
            settings = replace(settings, max_models=min(settings.max_models, most))
        kinds = {member.kind for member in opened.bundle.members}
        if settings.max_models < len(kinds):
            LOG.warning(
                "%s: has members of %d kinds, of which %d are asked: who fools those is not seen by the others",
                folder, len(kinds), settings.max_models,
            )  # fmt: skip
        fit, _ = split(data.groups, seed)
        fit_on = fit if len(fit) else np.arange(len(data.images))
        votes = collect_votes(
            opened, data.images, fit_on=fit_on, weigh=settings.margin, provider=provider, advance=advance
        )
        assert votes.grading is not None
        measured = _attacked(opened, attacked, votes.grading, provider) if attacked else None
        engines = provider.engines
    known = set(data.classes) <= set(opened.bundle.classes)  # clean frames may be sorted into folders of any name
    labels = labels_as(data, opened.bundle.classes) if known else None
    if not known:
        LOG.warning("%s: its class folders are not the model's classes; the images are taken as unlabelled", data.spec)
    frames = CleanFrames(
        evidence=votes.evidence,
        groups=data.groups,
        wrong=None if labels is None else votes.original != labels,
        grading=votes.grading,
    )
    calibration = calibrate(
        frames,
        settings,
        target_fpr=target_fpr,
        confidence=confidence,
        seed=seed,
        data=data.spec,
        seen=b64encode(pixel_hashes(data.images)).decode(),
        models_sha256=models_digest(opened.bundle),
        engines=engines,
        attacked=measured,
        accept_miss=accept_miss,
    )
    write_calibration(opened, calibration)
    return Calibrated(calibration, settings, frames, measured)


def _distinct(data: Dataset) -> Dataset:
    """Each picture once: copies would lie on both sides of the split and count as evidence of their own."""
    hashes = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in data.images]
    kept = np.sort(np.unique(hashes, return_index=True)[1]) if hashes else np.arange(0)
    if len(kept) == len(hashes):
        return data
    LOG.warning(
        "%s: %d of %d images are copies of others and are left out", data.spec, len(hashes) - len(kept), len(hashes)
    )
    labels = None if data.labels is None else data.labels[kept]
    return replace(data, images=data.images[kept], labels=labels, groups=data.groups[kept])


def _provider(opened: OpenBundle, backend: Backend | None) -> Provider:
    """What runs the models: `backend`, else what the bundle was exported for, else the CPU."""
    if backend is not None:
        return open_provider(opened, backend, note=LOG.warning)
    try:
        return open_provider(opened, opened.bundle.backend, note=LOG.warning)
    except MissingError as error:
        LOG.warning("%s: calibrating with ONNX Runtime on the CPU, which will screen, too (%s)", opened.folder, error)
        return open_provider(opened, "onnxruntime")


def _attacked(opened: OpenBundle, files: Sequence[Path], grading: Grading, provider: Provider) -> Evidence:
    """What the members say of the attacked images that fool the original."""
    parts = []
    for file in files:
        data = load_data(str(file), size_of(opened.bundle.preprocessing), role="test")
        truth = labels_as(data, opened.bundle.classes)
        if truth is None:
            raise InputError(f"{file}: has no labels; an attack is judged by them")
        votes = collect_votes(opened, data.images, grading=grading, provider=provider)
        fooled = np.flatnonzero(votes.original != truth)
        if len(fooled) < FEWEST_ATTACKED:
            raise InputError(
                f"{file}: {len(fooled)} of its {len(truth)} images fool the original, expected at least "
                f"{FEWEST_ATTACKED} successful attacks to design a test on"
            )
        parts.append(votes.evidence.take(fooled))
    known = [part.graded for part in parts if part.graded is not None]
    shifts = [part.shift for part in parts if part.shift is not None]
    return Evidence(
        np.concatenate([part.changed for part in parts]),
        np.concatenate(known),
        np.concatenate(shifts) if shifts else None,
        parts[0].kinds,
    )
