"""What a board could do at best, and whether a bundle fits its memory. Estimates, and labelled so.

Roofline (Williams, Waterman, Patterson 2009): a model needs at least the time its arithmetic takes at the board's peak
and at least the time its bytes take over the memory bus, t >= max(FLOPs / peak, bytes / bandwidth).
"""

from dataclasses import dataclass

from pdtool.artifacts import ModelCosts
from pdtool.devices.catalogue import DeviceProfile, Precision
from pdtool.errors import UsageError

__all__ = ["CAVEAT", "ITEM_BYTES", "Estimate", "Fit", "estimate", "fits"]

CAVEAT = (
    "estimate from peak figures, not measured: a small pruned CNN at batch 1 is bound by kernel launches, "
    "expect ten times this or more"
)
MEASURED = "memory was measured with ONNX Runtime on this machine"
ITEM_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A lower bound on the time of one batch, in ms."""

    ms: float
    compute_ms: float  # FLOPs / peak
    memory_ms: float  # bytes / bandwidth
    bound: str  # "compute" or "bandwidth": which of the two is larger
    precision: Precision
    batch: int
    label: str = "estimate"
    caveat: str = CAVEAT


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether `need_bytes` fit a board of `memory_bytes`, and what else lives there."""

    fits: bool
    need_bytes: int
    memory_bytes: int
    share: float  # need / memory
    note: str


def estimate(
    costs: ModelCosts, weight_bytes: int, device: DeviceProfile, precision: Precision = "fp32", batch: int = 1
) -> Estimate:
    """The least time of one batch on `device`.

    FLOPs are 2 x MACs x batch. Bytes are the weights once (`weight_bytes`, at `precision`) and, for every layer that
    multiplies, its output written and read once; the other layers (activation, normalisation) are fused into them.
    Raises UsageError where the board has no peak for `precision`, ValueError for a batch below 1.
    """
    if batch < 1:
        raise ValueError(f"batch should be at least 1, is {batch}")
    peak = device.peak(precision)
    if peak is None:
        known = ", ".join(p for p in ITEM_BYTES if device.peak(p) is not None)
        raise UsageError(f"{device.id} has no known {precision} peak; choose --precision {known}")
    outputs = sum(layer.output_bytes for layer in costs.layers if layer.macs) * ITEM_BYTES[precision] / 4
    compute_ms = 1e3 * 2 * costs.macs * batch / peak
    memory_ms = 1e3 * (weight_bytes + 2 * outputs * batch) / device.bandwidth
    return Estimate(
        ms=max(compute_ms, memory_ms),
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        bound="compute" if compute_ms >= memory_ms else "bandwidth",
        precision=precision,
        batch=batch,
    )


def fits(need_bytes: int, device: DeviceProfile, *, basis: str = MEASURED) -> Fit:
    """Compare what models hold in memory, known by `basis`, with all the memory the board has."""
    others = "the system, the camera and your application share it" if device.memory_shared else "the driver takes some"
    notes = [f"{others}; {basis}"]
    if device.memory_note:
        notes.append(device.memory_note)
    return Fit(
        fits=need_bytes <= device.memory_bytes,
        need_bytes=need_bytes,
        memory_bytes=device.memory_bytes,
        share=need_bytes / device.memory_bytes,
        note="; ".join(notes),
    )
