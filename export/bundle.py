"""A pool to a bundle: export every usable model, check it against torch, measure its memory, list every file."""

from collections.abc import Callable
from pathlib import Path

import pdtool
from pdtool.artifacts import Bundle, BundleModel, FileEntry, Parity, PoolModel, write_entry
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.errors import GateError
from pdtool.export.onnx import check_parity, to_onnx
from pdtool.images import size_of
from pdtool.jsonform import encode
from pdtool.outputs import new_folder
from pdtool.runtime.bundle import CALIBRATION, MANIFEST, pretty, write_bundle
from pdtool.runtime.measure import measure_models

__all__ = ["ORIGINAL", "export_pool"]

ORIGINAL = "original"
OWN = ("models", "costs.json", "seen.bin", CALIBRATION, f"{CALIBRATION}.new")  # a bundle's entries beside its manifest


def export_pool(
    pool_folder: Path,
    out: Path,
    *,
    min_agreement: float = 0.99,
    batch: int = 32,
    model: str | None = None,
    force: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> Bundle:
    """Write the bundle folder `out` from a pool; `batch` is the most images at once that its memory is measured for,
    `model` the user's word for a pool of a model of their own (see `open_pool`).

    Every file is compared with its torch model on the pool's sample images; GateError where the labels of fewer than
    `min_agreement` of them agree. Raises InputError and IntegrityError for an unusable pool. After any error, nothing
    is left at `out`; an existing `out` needs `force` and must be a bundle. `advance(1)` is called after each model.
    """
    pool = open_pool(pool_folder, model=model)
    used = [member for member in pool.pool.members if member.used]
    if not used:
        raise GateError(f"{pool_folder}: no member met its accuracy floor; compress again with a smaller --rate")
    with new_folder(out, force=force, marker=MANIFEST, own=OWN, inputs=(pool_folder,)) as folder:
        (folder / "models").mkdir()
        models = {ORIGINAL: pool.pool.original} | {member.id: member.model for member in used}
        exported = {}
        for name in models:
            exported[name] = _export_model(pool, name, folder, min_agreement)
            advance(1)
        size = size_of(pool.pool.preprocessing)
        paths = {name: folder / entry.path for name, (entry, _) in exported.items()}
        memory = measure_models(paths, size, batch=batch)

        def bundle_model(name: str, source: PoolModel) -> BundleModel:
            entry, parity = exported[name]
            return BundleModel(
                id=name,
                file=entry,
                weights_sha256=source.file.sha256,
                macs=source.macs,
                parameters=source.parameters,
                accuracy=source.accuracy,
                resident_bytes=memory[name].resident_bytes,
                load_peak_bytes=memory[name].load_peak_bytes,
                parity=parity,
            )

        costs = {name: encode(pool.plan(model).costs) for name, model in models.items()}
        return write_bundle(
            folder,
            Bundle(
                pdtool=pdtool.__version__,
                backend="onnxruntime",
                precision="fp32",
                preprocessing=pool.pool.preprocessing,
                classes=pool.pool.classes,
                original=bundle_model(ORIGINAL, pool.pool.original),
                members=tuple(bundle_model(member.id, member.model) for member in used),
                costs=write_entry(folder, "costs.json", pretty(costs)),
                calibration=None,
                seen=write_entry(folder, "seen.bin", pool.seen()),
                measured_batch=batch,
                digest="",
            ),
        )


def _export_model(pool: PoolFolder, name: str, folder: Path, min_agreement: float) -> tuple[FileEntry, Parity]:
    net = pool.original() if name == ORIGINAL else pool.member(name)
    model = to_onnx(net, size_of(pool.pool.preprocessing))
    images, _ = pool.samples()
    parity = check_parity(model, net, images, name=name)
    if parity.label_agreement < min_agreement:
        raise GateError(
            f"{name}: the exported file agrees with torch on {parity.label_agreement:.1%} of {parity.images} images, "
            f"--min-agreement asks for {min_agreement:.1%} (largest difference {parity.max_difference:.3g})"
        )
    return write_entry(folder, f"models/{name}.onnx", model), parity
