"""Calibrate a bundle: its own files vote on clean images, the test is fitted and checked, the bundle rewritten."""

import logging
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from pdtool.artifacts import Calibration
from pdtool.calibration.fit import WaldSettings, calibrate_wald
from pdtool.data import Dataset, labels_as, pixel_hashes, refuse_seen
from pdtool.images import Size, size_of
from pdtool.runtime.bundle import models_digest, open_bundle, write_calibration
from pdtool.runtime.votes import collect_votes

__all__ = ["calibrate_bundle"]

LOG = logging.getLogger(__name__)


def calibrate_bundle(
    folder: Path,
    load: Callable[[Size], Dataset],
    settings: WaldSettings,
    *,
    target_fpr: float,
    confidence: float,
    seed: int,
    accept_miss: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> Calibration:
    """Calibrate the bundle in `folder` on clean images (`load` gives them in the input's size) and store the result.

    The votes come from the files that will screen. Raises InputError where the images are the ones that the pool was
    trained on (the promise would be false) or too few, GateError where the false-alarm target cannot be promised; the
    bundle is then left as it was.
    """
    opened = open_bundle(folder)
    data = load(size_of(opened.bundle.preprocessing))
    refuse_seen(data, opened.read(opened.bundle.seen), "the pool was made on")
    votes = collect_votes(opened, data.images, advance=advance)
    known = set(data.classes) <= set(opened.bundle.classes)  # clean frames may be sorted into folders of any name
    labels = labels_as(data, opened.bundle.classes) if known else None
    if not known:
        LOG.warning("%s: its class folders are not the model's classes; the images are taken as unlabelled", data.spec)
    calibration = calibrate_wald(
        votes.changed,
        wrong=None if labels is None else votes.original != labels,
        groups=data.groups,
        settings=settings,
        target_fpr=target_fpr,
        confidence=confidence,
        seed=seed,
        data=data.spec,
        seen=b64encode(pixel_hashes(data.images)).decode(),
        models_sha256=models_digest(opened.bundle),
        accept_miss=accept_miss,
    )
    write_calibration(opened, calibration)
    return calibration
