"""Cells of the adaptive study: each attacker at each epsilon, kept as soon as it is finished.

A cell is two files in the folder: `NAME-KEY.npz` with the attacked images and `NAME-KEY.json` with what was counted.
The key is of everything that the cell depends on, so that a run that was stopped goes on, and a run with more epsilons
or more attackers makes only what is new.
"""

import importlib.metadata
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import pdtool
from pdtool.artifacts import FileEntry
from pdtool.compress.watch import Watch
from pdtool.errors import InputError, IntegrityError
from pdtool.evaluation.adaptive_results import Cell, Disturbance
from pdtool.evaluation.adaptive_stage import Judged, Stage, judge
from pdtool.evaluation.attacked import Attacked, write_attacked
from pdtool.files import read_checked, read_limited, sha256_bytes, sha256_file, write_atomic, write_error
from pdtool.jsonform import JsonValue, canonical, decode, parse
from pdtool.runtime.bundle import pretty

__all__ = ["Attempt", "Kept", "Work", "attack_all", "code_files", "drop_unused", "keep", "pictures", "store", "unit"]

LOG = logging.getLogger(__name__)
ROOM = Path(__file__).parent
# The code that makes and counts cells, beside every adaptive_*.py but those that only tell of them
OTHER_CODE = ("attacked.py", "attack_features.py", "metrics.py", "../calibration/table.py", "../runtime/screener.py")
TELLING = ("adaptive_checks.py", "adaptive_report.py")
OWN_NAME = re.compile(r"[a-z0-9.+-]+-[0-9a-f]{12}\.(npz|json)")
# Attacks the stage's images of these rows: their attacked images (n, C, H, W), from a generator of the attempt's own
Attempt = Callable[[NDArray[np.int64], torch.Generator], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The JSON file of finished cells."""

    FORMAT: ClassVar[str] = "pdtool.adaptive-cells/1"
    key: str
    cells: tuple[Cell, ...]
    disturbances: tuple[Disturbance, ...]


@dataclass(frozen=True)
class Work:
    """Where cells are made: the stage, the folder that keeps them, and what all of them depend on."""

    stage: Stage
    folder: Path
    seed: int
    batch: int
    watch: Watch
    used: list[Path] = field(default_factory=list)  # files of this run

    def key(self, settings: dict[str, JsonValue]) -> str:
        """SHA-256 of what a cell with these settings depends on."""
        stage = self.stage
        everything = {
            "settings": settings,
            "bundle": stage.target.bundle_digest,
            "data": stage.data.fingerprint,
            "seed": self.seed,
            "batch": self.batch,
            "code": _code(),
            "pdtool": pdtool.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "onnxruntime": _onnxruntime(),
        }
        return sha256_bytes(canonical(everything))


@cache
def _onnxruntime() -> str | None:
    """Its version, by whichever name it is installed; looked up, so that it need not be loaded."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@cache
def _code() -> str:
    """SHA-256 over the source that cells depend on: between two versions the attacks may change, too."""
    return sha256_bytes(canonical({path.name: sha256_file(path) for path in code_files()}))


def code_files() -> tuple[Path, ...]:
    """The files with the code that cells depend on."""
    own = [path for path in sorted(ROOM.glob("adaptive_*.py")) if path.name not in TELLING]
    return (*own, *(ROOM.resolve() / name for name in OTHER_CODE))


def drop_unused(work: Work) -> None:
    """Delete the cells that this run did not use; nothing else is touched. Raises InputError where it cannot."""
    wanted = {path.name for path in work.used}
    for path in sorted(work.folder.iterdir()):
        if OWN_NAME.fullmatch(path.name) and path.name not in wanted and path.is_file() and not path.is_symlink():
            try:
                path.unlink()
            except OSError as error:
                raise write_error(path, error) from error


def keep(work: Work, name: str, settings: dict[str, JsonValue], make: Callable[[Path, str], Kept]) -> Kept:
    """What `make` counts and stores, or what an earlier run did with the same settings.

    `make(path, key)` writes the attacked images to `path`. Files that are damaged are made again.
    """
    key = work.key(settings)
    images, counted = (work.folder / f"{name}-{key[:12]}{suffix}" for suffix in (".npz", ".json"))
    work.used.extend((images, counted))
    known = _known(counted, images, key)
    if known is not None:
        return known
    made = make(images, key)
    write_atomic(counted, pretty(made))
    return made


def _known(counted: Path, images: Path, key: str) -> Kept | None:
    if not counted.is_file():
        return None
    try:
        kept = decode(Kept, parse(read_limited(counted), file=str(counted)), file=str(counted))
        if kept.key != key:
            return None
        entries = [*(cell.file for cell in kept.cells), *(each.file for each in kept.disturbances)]
        for file in {entry for entry in entries if entry is not None}:
            read_checked(images, file.bytes, file.sha256)
    except (InputError, IntegrityError) as error:
        LOG.warning("%s; it is made again", str(error).partition(";")[0])
        return None
    return kept


def attack_all(
    work: Work, label: str, attempts: Sequence[Attempt], settings: dict[str, JsonValue]
) -> tuple[torch.Tensor, Judged]:
    """Every image with every attempt in turn until one evades; for each image the attempt that counts, and its verdict.

    That is the one that evades, else one that fools the exported original, else the first. Attempts after one that
    evades would change no count, so they are left out.
    """
    stage = work.stage
    chosen = stage.images.clone()
    left = np.arange(len(chosen))
    wrong = np.zeros(len(chosen), dtype=bool)
    with work.watch(label, len(attempts) * len(chosen)) as task:
        for number, attempt in enumerate(attempts):
            generator = torch.Generator().manual_seed(_seed(work, settings, number))
            pieces = [chosen[:0]]
            for start in range(0, len(left), work.batch):
                pieces.append(attempt(left[start : start + work.batch], generator).detach())
                task.advance(len(pieces[-1]))
            made = torch.cat(pieces)
            said = judge(stage, pictures(made), left)
            better = said.evades | (said.wrong & ~wrong[left]) if number else np.ones(len(left), dtype=bool)
            chosen[left[better]] = made[better]
            wrong[left] |= said.wrong
            task.advance(len(chosen) - len(left))
            left = left[~said.evades]
        final = judge(stage, pictures(chosen))
        evaded = int(final.evades.sum())
        task.say(f"{label}: {evaded} of {len(chosen)} evade, {int(final.wrong.sum())} fool the original")
    return chosen, final


def store(
    work: Work, path: Path, name: str, settings: dict[str, JsonValue], images: torch.Tensor
) -> tuple[Attacked, FileEntry]:
    """Write the attacked images (N, C, H, W) with their provenance."""
    stage = work.stage
    change = (images - stage.images).flatten(1).double().numpy()
    with torch.no_grad():
        said = [stage.original(images[i : i + work.batch]).argmax(1) for i in range(0, len(images), work.batch)]
    given, labels = torch.cat(said).numpy(), stage.labels.numpy()
    attacked = Attacked(
        images=pictures(images),
        labels=labels,
        given=given,
        success=given != labels,
        source=stage.source,
        linf=np.abs(change).max(axis=1),
        l2=np.sqrt((change**2).sum(axis=1)),
        provenance={
            "attack": f"adaptive {name}",
            "settings": settings,
            "library": f"torch {torch.__version__}",
            "seed": work.seed,
            "batch": work.batch,
            "images_given": len(stage.data.images),
            "model": stage.target.model,
            "model_sha256": stage.of.pool.original.file.sha256,
            "bundle": stage.target.bundle_digest,
            "data": stage.data.spec,
            "data_fingerprint": stage.data.fingerprint,
            "pdtool": pdtool.__version__,
        },
    )
    write_attacked(path, attacked, stage.classes)
    return attacked, FileEntry(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def pictures(images: torch.Tensor) -> NDArray[np.float32]:
    """Planes (N, C, H, W) as pictures (N, H, W, C)."""
    turned: NDArray[Any] = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    return turned.astype(np.float32, copy=False)


def unit(epsilon: float) -> str:
    """An epsilon in grey levels, as it is written.

    >>> unit(8 / 255), unit(0.5 / 255)
    ('8/255', '0.5/255')
    """
    return f"{255 * epsilon:.4g}/255"


def _seed(work: Work, settings: dict[str, JsonValue], number: int) -> int:
    """The same for every epsilon and number of steps or starts: what differs between cells is then not chance."""
    fixed = {name: value for name, value in settings.items() if name not in ("epsilon", "steps", "starts")}
    starts = settings.get("starts")
    first = starts[0] if isinstance(starts, list) and starts else 0
    return int(sha256_bytes(canonical([work.seed, first, number, fixed]))[:12], 16)
