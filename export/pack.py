"""Several members in one ONNX file: one engine and one launch where there would be several, if that pays.

A GPU needs some time for each run and some memory for each engine, however small the model is. On a CPU little of that
is saved, and members in a pack are run for frames that would have needed the first of them alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import FileEntry, write_entry
from pdtool.errors import GateError, InputError
from pdtool.export.onnx import compare, logits_of
from pdtool.extras import require
from pdtool.files import read_checked
from pdtool.images import Images
from pdtool.runtime.engine import Engine
from pdtool.runtime.engine_onnx import OnnxEngine

__all__ = ["PAYS", "Pack", "choose", "most_measured", "pack", "pack_files", "pack_names", "ratio_of"]

Pack = int | Literal["auto"]

PAYS = 0.9  # of the time that the members take apart: what a pack may take at most
CANDIDATES = (2, 4, 8)
SAME = 0.01  # of the largest logit: what may differ in a pack; 0 was seen at every precision
LARGEST = 2**31  # bytes: protobuf's bound on one message
LEAST_RUNS, RUNS, SECONDS = 5, 400, 2.0  # of a comparison: at least so many, at most so many or so long


def pack(models: Sequence[bytes]) -> bytes:
    """Files of alike members as one: input "input" for all, their logits (N, classes) side by side in "logits".

    What is inside each stays as it is, at every precision; its names get its place before them. Same files: same bytes.
    A single file is returned as it is. Raises InputError where they do not go together, MissingError without onnx.
    """
    if len(models) == 1:
        return models[0]
    onnx = require("onnx", "pack members")
    compose = require("onnx.compose", "pack members")
    if sum(map(len, models)) >= LARGEST:
        raise InputError(f"{len(models)} members in one file are more than an ONNX file's 2 GiB; use a smaller --pack")
    loaded = [onnx.load_from_string(model) for model in models]
    first, forms = loaded[0], {_form(model) for model in loaded}
    if len(forms) > 1:
        raise InputError("members with other inputs, outputs or operators' versions do not go together; use --pack 1")
    given, answer = first.graph.input[0], first.graph.output[0]
    parts = [
        compose.add_prefix(model, f"part{k}/", rename_inputs=False, inplace=True) for k, model in enumerate(loaded)
    ]
    helper = onnx.helper
    answers = [part.graph.output[0].name for part in parts]
    batch, *classes = answer.type.tensor_type.shape.dim
    width = len(parts) * classes[0].dim_value or None  # None: the file does not say
    together = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch.dim_param or None, width])
    # Shapes between nodes (value_info) stay behind: a name for an unknown length means one length in the whole graph.
    graph = helper.make_graph(
        [
            *(node for part in parts for node in part.graph.node),
            helper.make_node("Concat", answers, ["logits"], axis=1),
        ],
        "pack",
        [given],
        [together],
        [array for part in parts for array in part.graph.initializer],
        sparse_initializer=[array for part in parts for array in part.graph.sparse_initializer],
    )
    functions = [function for part in parts for function in part.functions]
    packed = helper.make_model(
        graph, opset_imports=list(first.opset_import), ir_version=first.ir_version, functions=functions
    )
    onnx.checker.check_model(packed)
    data: bytes = packed.SerializeToString(deterministic=True)
    return data


def choose(
    wanted: Pack,
    members: Sequence[bytes],
    image: NDArray[np.float32],
    load: Callable[[bytes], Engine] | None = None,
) -> tuple[int, float | None]:
    """How many members a file shall hold, and the time of one image (1, C, H, W) through a pack over that through its
    members apart, measured here on the first `members`, which need not be more than `most_measured(wanted)`.

    A number is kept, bounded by how many members there are. `auto` tries 2, 4 and 8: a larger pack is taken only where
    it is again at least 10 % faster than the smaller one, since all its members run even where the first would have
    decided; where none pays, it is 1 with the least ratio found. None: there is one member alone, or 1 is wanted.
    `load` loads a file as the device will (None: ONNX Runtime).
    """
    if wanted == 1 or len(members) == 1:
        return 1, None
    if wanted != "auto":
        held = members[:wanted]
        return len(held), ratio_of(held, image, load)
    best, bound, ratios = 1, PAYS, {}
    for count in CANDIDATES:
        if count > len(members):
            break
        ratios[count] = ratio_of(members[:count], image, load)
        if ratios[count] <= bound:
            best, bound = count, PAYS * ratios[count]
    return best, ratios[best] if best > 1 else min(ratios.values())


def most_measured(wanted: Pack) -> int:
    """How many members `choose` looks at."""
    return CANDIDATES[-1] if wanted == "auto" else wanted


def ratio_of(
    members: Sequence[bytes], image: NDArray[np.float32], load: Callable[[bytes], Engine] | None = None
) -> float:
    """Time of one image (1, C, H, W) through a pack of these members over that through them apart, on this machine.

    The median of runs in turn, so that whatever else the machine does falls on both. See `choose` for `load`.
    """
    load = load or (lambda model: OnnxEngine(model, name="a member"))
    with ExitStack() as engines:
        apart = [engines.enter_context(closing(load(model))) for model in members]
        together = [engines.enter_context(closing(load(pack(members))))]
        _seconds(apart, image), _seconds(together, image)  # the first run of an engine takes longer
        started, ratios = time.perf_counter(), list[float]()
        while len(ratios) < LEAST_RUNS or (len(ratios) < RUNS and time.perf_counter() - started < SECONDS):
            ratios.append(_seconds(together, image) / _seconds(apart, image))
    return float(np.median(ratios))


def pack_names(members: int, count: int) -> list[str]:
    """What the files of so many members are called where `count` share one.

    >>> pack_names(8, 3)
    ['pack-000', 'pack-001', 'pack-002']
    """
    return [f"pack-{number:03d}" for number in range(-(-members // count))]


def pack_files(
    folder: Path, members: Mapping[str, FileEntry], count: int, images: Images, *, min_agreement: float
) -> dict[str, tuple[FileEntry, int]]:
    """Replace the members' files (id -> entry) in a bundle's folder by files that hold `count` of them each, the last
    one perhaps fewer; returns id -> the pack's entry and the member's part of it.

    Each part of each pack answers images (N, H, W, C) and is compared with the member's own file. Raises GateError
    where fewer than `min_agreement` of its labels agree, or a logit differs by more than `SAME` of the largest one.
    """
    placed: dict[str, tuple[FileEntry, int]] = {}
    rest = iter(members)
    for pack_name in pack_names(len(members), count):
        group = list(islice(rest, count))
        files = [members[name] for name in group]
        models = [read_checked(folder / file.path, file.bytes, file.sha256) for file in files]
        packed = pack(models)
        entry = write_entry(folder, f"models/{pack_name}.onnx", packed)
        columns = np.split(logits_of(packed, images, name=entry.path), len(group), axis=1)
        for part, (name, model) in enumerate(zip(group, models, strict=True)):
            own = logits_of(model, images, name=name)
            parity = compare(columns[part], own, name=name)
            if parity.label_agreement < min_agreement or parity.max_difference > SAME * np.abs(own).max():
                raise GateError(
                    f"{name}: in {entry.path} it agrees with its own file on {parity.label_agreement:.1%} of "
                    f"{parity.images} images, --min-agreement asks for {min_agreement:.1%} (largest difference "
                    f"{parity.max_difference:.3g}); use --pack 1"
                )
            placed[name] = entry, part
        for file in files:
            (folder / file.path).unlink()
    return placed


def _form(model: Any) -> tuple[object, ...]:
    """What members of one pack must have in common: version, operators, one input and one output of the same kind."""
    given, answers = list(model.graph.input), list(model.graph.output)
    versions = tuple(sorted((opset.domain, opset.version) for opset in model.opset_import))
    kinds = tuple(tensor.type.SerializeToString(deterministic=True) for tensor in (*given, *answers))
    return model.ir_version, versions, tuple(tensor.name for tensor in given), len(answers), kinds


def _seconds(engines: Sequence[Engine], image: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    for engine in engines:
        engine.run(image)
    return time.perf_counter() - started
