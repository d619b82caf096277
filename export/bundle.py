"""A pool to a bundle: export every usable model, check it on real images, measure its memory, list every file."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pdtool
from pdtool.artifacts import Bundle, BundleModel, FileEntry, Kind, Parity, PoolModel, write_entry
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.devices.catalogue import Precision
from pdtool.errors import GateError
from pdtool.export.engines import PlanBuild, export_plans, plan_loader
from pdtool.export.onnx import check_parity, compare, logits_of, to_onnx, to_onnx_fp16
from pdtool.export.pack import Pack, choose, most_measured, pack_files
from pdtool.export.quantise import to_int8
from pdtool.export.real import RealImages, pick_images, seen_with
from pdtool.files import read_checked
from pdtool.images import as_input, size_of
from pdtool.jsonform import encode
from pdtool.outputs import new_folder
from pdtool.runtime.bundle import CALIBRATION, MANIFEST, pretty, write_bundle
from pdtool.runtime.measure import measure_models
from pdtool.runtime.plans import ENGINES
from pdtool.runtime.tensorrt_module import library_of

__all__ = ["MIN_AGREEMENT", "ORIGINAL", "export_pool"]

ORIGINAL = "original"
# Least share of equal labels, unless told otherwise. fp32: any difference is a defect. The others leave room for a few
# images near a border: a pool has up to 64 samples, int8 is judged on half of them, and on traffic signs int8 changes
# 1 % of the labels (benchmarks/precision.md). A net that does not stand a precision falls far below.
MIN_AGREEMENT: dict[Precision, float] = {"fp32": 0.99, "fp16": 0.98, "int8": 0.9}
OWN = ("models", ENGINES, "costs.json", "seen.bin", CALIBRATION, f"{CALIBRATION}.new")  # what lies beside the manifest


def export_pool(
    pool_folder: Path,
    out: Path,
    *,
    precision: Precision = "fp32",
    calibration_data: str | None = None,
    min_agreement: float | None = None,
    batch: int = 32,
    model: str | None = None,
    pack: Pack = 1,
    plans: PlanBuild | None = None,
    force: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> Bundle:
    """Write the bundle folder `out` from a pool; `batch` is the most images at once that its memory is measured for,
    `model` the user's word for a pool of a model of their own (see `open_pool`).

    Every fp32 file is compared with its torch model, and every fp16 or int8 file with that fp32 file, on real images:
    those of the data spec `calibration_data` and the pool's samples (see `pick_images`; int8 takes its ranges from
    others). GateError where the labels of fewer than `min_agreement` of them agree (None: MIN_AGREEMENT). Raises
    InputError and IntegrityError for an unusable pool or data. After any error, nothing is left at `out`; an existing
    `out` needs `force` and must be a bundle. `advance(1)` is called after each model.

    `pack` members go into one file, or as many as pay on this machine (see `choose`); each is checked again in there.

    With `plans`, a TensorRT plan of every file comes into the bundle's cache (see `export_plans`), held to the same
    `min_agreement`. The manifest does not list them: a bundle is whole without any, each has its record beside it.
    """
    pool = open_pool(pool_folder, model=model)
    used = [member for member in pool.pool.members if member.used]
    if not used:
        raise GateError(f"{pool_folder}: no member met its accuracy floor; compress again with a smaller --rate")
    least = MIN_AGREEMENT[precision] if min_agreement is None else min_agreement
    with new_folder(out, force=force, marker=MANIFEST, own=OWN, inputs=(pool_folder,)) as folder:
        images = pick_images(pool, precision, calibration_data)
        (folder / "models").mkdir()
        models = {ORIGINAL: pool.pool.original} | {member.id: member.model for member in used}
        exported = {}
        for name in models:
            exported[name] = _export_model(pool, name, folder, precision, images, least)
            advance(1)
        size = size_of(pool.pool.preprocessing)
        placed, count, ratio = _place(
            folder,
            {name: entry for name, (entry, _) in exported.items()},
            pack,
            images,
            precision,
            min_agreement,
            plans,
        )
        paths = {entry.path: folder / entry.path for entry, _ in placed.values()}
        memory = measure_models(paths, size, batch=batch)

        def bundle_model(name: str, source: PoolModel, kind: Kind | None = None) -> BundleModel:
            entry, part = placed[name]
            return BundleModel(
                id=name,
                file=entry,
                part=part,
                weights_sha256=source.file.sha256,
                macs=source.macs,
                parameters=source.parameters,
                accuracy=source.accuracy,
                resident_bytes=memory[entry.path].resident_bytes,
                load_peak_bytes=memory[entry.path].load_peak_bytes,
                run_bytes=memory[entry.path].run_bytes,
                parity=exported[name][1],
                kind=kind,
            )

        costs = {name: encode(pool.plan(model).costs) for name, model in models.items()}
        bundle = write_bundle(
            folder,
            Bundle(
                pdtool=pdtool.__version__,
                backend="onnxruntime" if plans is None else library_of(plans.trt),
                precision=precision,
                preprocessing=pool.pool.preprocessing,
                classes=pool.pool.classes,
                original=bundle_model(ORIGINAL, pool.pool.original),
                members=tuple(bundle_model(member.id, member.model, member.kind) for member in used),
                pack=count,
                pack_ratio=ratio,
                build=None if plans is None else replace(plans.options, precision=precision),
                costs=write_entry(folder, "costs.json", pretty(costs)),
                calibration=None,
                seen=write_entry(folder, "seen.bin", seen_with(pool.seen(), images.ranges)),
                measured_batch=batch,
                digest="",
            ),
        )
        if plans is not None:
            every = (bundle.original, *bundle.members)
            export_plans(folder, every, precision, plans, images=images.judged, min_agreement=least, advance=advance)
        return bundle


def _export_model(
    pool: PoolFolder, name: str, folder: Path, precision: Precision, images: RealImages, least: float
) -> tuple[FileEntry, Parity]:
    net = pool.original() if name == ORIGINAL else pool.member(name)
    size = size_of(pool.pool.preprocessing)
    model = to_onnx(net, size)
    parity = check_parity(model, net, images.judged, name=name)
    _check_agreement(parity, min(least, MIN_AGREEMENT["fp32"]) if precision != "fp32" else least, name, "torch")
    if precision != "fp32":
        expected = logits_of(model, images.judged, name=name)
        if precision == "fp16":
            model = to_onnx_fp16(net, size, name=name)
        else:
            assert images.ranges is not None
            model = to_int8(model, images.ranges, name=name)
        parity = compare(logits_of(model, images.judged, name=name), expected, name=name)
        _check_agreement(parity, least, name, f"fp32 at {precision}")
    return write_entry(folder, f"models/{name}.onnx", model), parity


def _place(
    folder: Path,
    files: Mapping[str, FileEntry],
    pack: Pack,
    images: RealImages,
    precision: Precision,
    min_agreement: float | None,
    plans: PlanBuild | None,
) -> tuple[dict[str, tuple[FileEntry, int]], int, float | None]:
    """Id -> file and part of it, once the members are packed; how many a pack holds, and what it takes (`choose`)."""
    members = {name: entry for name, entry in files.items() if name != ORIGINAL}
    apart = {name: (entry, 0) for name, entry in files.items()}
    first = list(members.values())[: most_measured(pack)]
    models = [read_checked(folder / entry.path, entry.bytes, entry.sha256) for entry in first]
    load = None if plans is None else plan_loader(plans, precision)
    count, ratio = choose(pack, models, as_input(images.judged[:1]), load)
    if count == 1:
        return apart, count, ratio
    # A file's content is the same in a pack, so any difference is a defect, at every precision.
    least = MIN_AGREEMENT["fp32"] if min_agreement is None else min_agreement
    return apart | pack_files(folder, members, count, images.judged, min_agreement=least), count, ratio


def _check_agreement(parity: Parity, least: float, name: str, reference: str) -> None:
    if parity.label_agreement < least:
        raise GateError(
            f"{name}: the exported file agrees with {reference} on {parity.label_agreement:.1%} of {parity.images} "
            f"images, --min-agreement asks for {least:.1%} (largest difference {parity.max_difference:.3g})"
        )
