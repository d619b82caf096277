"""Attacked images kept between runs: what is there and was made in the very same way is not made again."""

import importlib.metadata
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pdtool
from pdtool.compress.training import device_of
from pdtool.compress.watch import Watch
from pdtool.errors import InputError, UsageError
from pdtool.evaluation import attacks
from pdtool.evaluation.attacked import Attacked, read_attacked, write_attacked
from pdtool.evaluation.attacks import Attack, run_attack
from pdtool.evaluation.chosen import evenly
from pdtool.files import sha256_bytes, sha256_file
from pdtool.images import Images
from pdtool.jsonform import canonical

__all__ = ["Job", "attack_or_reuse", "drop_kept", "kept_folder", "linked"]

LOG = logging.getLogger(__name__)
LIBRARIES = ("torch", "numpy", "scipy", "foolbox", "adversarial-robustness-toolbox")


@dataclass(frozen=True)
class Job:
    """What is attacked and how: everything that the attacked images depend on beside attack and its settings."""

    net: torch.nn.Module
    images: Images  # (N, H, W, C)
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    seed: int
    batch: int
    model_sha256: str  # the net's weights
    data_fingerprint: str
    about: Mapping[str, Any]  # for the provenance alone: names of model and data

    def key(self, attack: Attack, limit: int | None) -> dict[str, Any]:
        """What the provenance of stored images must say for them to be used again."""
        return {
            "model_sha256": self.model_sha256,
            "data_fingerprint": self.data_fingerprint,
            "attack": attack.name,
            "settings": dict(attack.settings),
            "seed": self.seed,
            "batch": self.batch,
            "images_given": len(evenly(len(self.labels), limit)),
            "images_of": len(self.labels),
            "pdtool": pdtool.__version__,
            "versions": {name: _version(name) for name in LIBRARIES},
            "code": _code(),
            "device": device_of(self.net).type,
        }


def attack_or_reuse(
    job: Job, name: str, attack: Attack, limit: int | None, folder: Path, earlier: Path | None, watch: Watch
) -> tuple[Attacked, Path]:
    """The attack's images and the file that holds them, `folder`/NAME-KEY.npz: made now where they are not there yet.

    At most `limit` images, evenly over the data, are given to the attack; `source` counts in the whole data. The key
    in the file's name is of all that the images depend on, so that runs with other settings can share the folder.
    A file `earlier` is looked at too (of a report that is replaced). A file that cannot be read, or whose arrays are
    not of this job, is made again.
    """
    key, chosen = job.key(attack, limit), evenly(len(job.labels), limit)
    path = folder / f"{attack.name}-{sha256_bytes(canonical(key))[:12]}.npz"
    with watch(f"attack with {name}", key["images_given"]) as task:
        for known in (path, earlier):
            found = _stored(known, key, job, chosen) if known is not None else None
            if found is not None and known is not None:
                task.advance(key["images_given"])
                task.say(f"{attack.spec}: {len(found)} attacked images are in {known.parent} already")
                return found, known
        made = run_attack(
            job.net, job.images[chosen], job.labels[chosen], attack,
            seed=job.seed, batch=job.batch, provenance={**job.about, **key}, advance=task.advance,
        )  # fmt: skip
        made = replace(made, source=chosen[made.source])
        write_attacked(path, made, job.classes)
        task.say(f"{attack.spec}: fooled the original on {int(made.success.sum())} of {len(made)} images")
    return read_attacked(path), path  # the images leave memory


def kept_folder(out: Path, images: Path | None) -> Path:
    """Where attacked images are kept while they are made: beside `out`, which appears only at the end.

    Raises UsageError for a folder `images` in `out`.
    """
    if images is None:
        return out.with_name(f"{out.name}.attacked")
    if out.resolve() in (images.resolve(), *images.resolve().parents):
        raise UsageError(f"--images {images}: lies in --out {out}, which is replaced as a whole; give a folder beside")
    return images


def linked(path: Path, to: Path) -> Path:
    """The file under a second name, without a copy where the file system can do that."""
    to.parent.mkdir(exist_ok=True)
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)
    return to


def drop_kept(kept: Path, made: Sequence[Path]) -> None:
    """Remove what was kept for a run that might have been stopped, and the folder where nothing else is in it."""
    with suppress(OSError):
        for path in made:
            if path.parent == kept:
                path.unlink(missing_ok=True)
        kept.rmdir()


def _stored(path: Path, key: Mapping[str, Any], job: Job, chosen: NDArray[np.int64]) -> Attacked | None:
    """What the file holds where it was made as `key` says, of the `chosen` images and with their labels."""
    if not path.is_file():
        return None
    try:
        stored = read_attacked(path)
    except InputError as error:
        LOG.warning("%s; it is made again", str(error).partition(";")[0])
        return None
    if any(stored.provenance.get(name) != value for name, value in key.items()):
        return None
    fits = stored.images.shape[1:] == job.images.shape[1:] and bool(np.isin(stored.source, chosen).all())
    if not (fits and np.array_equal(stored.labels, job.labels[stored.source])):
        LOG.warning("%s: its images are not those of this data; it is made again", path)
        return None
    return stored


@cache
def _code() -> str:
    """SHA-256 over the source of all attacks and what they share: between two versions their code may change too."""
    folder = Path(attacks.__file__).parent
    files = [folder / "attacks.py", *sorted(folder.glob("attack_*.py"))]
    return sha256_bytes(canonical({file.name: sha256_file(file) for file in files}))


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
