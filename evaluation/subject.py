"""What is evaluated: a bundle and the pool that it came from, refused where they do not belong together."""

import numpy as np

from pdtool.compress.folder import PoolFolder
from pdtool.decisions import Calibration
from pdtool.devices.probe import probe
from pdtool.errors import InputError
from pdtool.evaluation.results import Machine, Subject
from pdtool.runtime.bundle import OpenBundle

__all__ = ["check_pool", "machine_here", "subject_of"]


def subject_of(opened: OpenBundle, of: PoolFolder, calibration: Calibration) -> Subject:
    """Raises InputError where the bundle was not exported from that pool."""
    check_pool(opened, of)
    bundle, pool = opened.bundle, of.pool
    return Subject(
        model=pool.model,
        method=pool.method,
        rate=pool.rate,
        members=len(bundle.members),
        original_accuracy=pool.original.accuracy,
        original_macs=bundle.original.macs,
        member_macs=float(np.mean([member.macs for member in bundle.members])),
        bundle_digest=bundle.digest,
        precision=bundle.precision,
        rule=calibration.rule,
        evidence=calibration.counts,
        temperatures="1" if calibration.temperatures is None else "calibrated",
        target_fpr=calibration.target_fpr,
        confidence=calibration.confidence,
        fpr_upper=calibration.fpr_upper,
        p0=calibration.p0,
        p1=calibration.p1,
        max_models=calibration.max_models,
        calibration_data=calibration.data,
        calibration_images=calibration.fit_images + calibration.check_images,
    )


def check_pool(opened: OpenBundle, of: PoolFolder) -> None:
    """Raises InputError where the bundle was not exported from that pool."""
    bundle, pool = opened.bundle, of.pool
    weights = {member.id: member.model.file.sha256 for member in pool.members}
    weights[bundle.original.id] = pool.original.file.sha256
    same = pool.classes == bundle.classes and pool.preprocessing == bundle.preprocessing
    if not same or any(weights.get(model.id) != model.weights_sha256 for model in opened.models):
        raise InputError(
            f"{opened.folder}: was not exported from the pool {of.folder}; give the pool that it came from"
        )


def machine_here(engines: str) -> Machine:
    """This machine; `engines` ran the bundle's models."""
    machine = probe()
    return Machine(cpu=machine.cpu, cores=machine.cores, gpus=tuple(gpu.name for gpu in machine.gpus), engines=engines)
