"""A finished pool's folder: opened, its files checked before they are parsed."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import Plan, Pool, PoolModel
from pdtool.compress.models import ModelSpec, Normalised, approve, build
from pdtool.compress.prune import replay
from pdtool.compress.weights import fit_state, parse_weights
from pdtool.errors import InputError, UsageError
from pdtool.files import read_checked, read_limited
from pdtool.images import size_of
from pdtool.jsonform import decode, parse

__all__ = ["PoolFolder", "open_pool"]


@dataclass(frozen=True)
class PoolFolder:
    """`pool` is pool.json; models and samples are read when asked for. Models come in evaluation mode, on the CPU."""

    folder: Path
    pool: Pool
    spec: ModelSpec

    def original(self) -> Normalised:
        """The original; takes pixels in [0, 1]. Raises IntegrityError for changed files."""
        return self._model(self.pool.original)

    def member(self, id: str) -> Normalised:
        """A member; takes pixels in [0, 1]. Raises UsageError for an unknown id, IntegrityError for changed files."""
        for member in self.pool.members:
            if member.id == id:
                return self._model(member.model)
        raise UsageError(
            f"{self.folder}: has no member {id!r}; it has {', '.join(m.id for m in self.pool.members[:4])}, ..."
        )

    def plan(self, model: PoolModel) -> Plan:
        """The plan (pruning history and costs) of one of its models."""
        entry = model.plan
        path = self.folder / entry.path
        return decode(Plan, parse(read_checked(path, entry.bytes, entry.sha256), file=str(path)), file=str(path))

    def seen(self) -> bytes:
        """`pdtool.data.pixel_hashes` of the images that the pool was made and judged on."""
        return read_checked(self.folder / self.pool.seen.path, self.pool.seen.bytes, self.pool.seen.sha256)

    def samples(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """A few held-out images (N, H, W, C) uint8 and their labels (N,)."""
        entry = self.pool.samples
        path = self.folder / entry.path
        data = read_checked(path, entry.bytes, entry.sha256)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return arrays["images"], arrays["labels"]
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not the samples of a pool ({error}); make the pool again") from None

    def _model(self, model: PoolModel) -> Normalised:
        path = self.folder / model.file.path
        plan = self.plan(model)
        state, _ = parse_weights(read_checked(path, model.file.bytes, model.file.sha256), file=str(path))
        net = build(self.spec)
        if plan.history:
            replay(net, size_of(self.pool.preprocessing), plan.history, file=str(self.folder / model.plan.path))
        fit_state(net, state, file=str(path), model="its plan")
        return Normalised(net, self.pool.preprocessing).eval()


def open_pool(folder: Path, *, model: str | None = None) -> PoolFolder:
    """A pool's folder. A pool of a model of the user's own (`package.module:factory`) runs that code when it is used
    and opens only where the user names the factory as `model`.

    Raises InputError where the folder is no finished pool or its pool.json is malformed, UsageError for a factory
    that `model` does not name.
    """
    path = folder / "pool.json"
    if not path.is_file():
        begun = (folder / "members").is_dir()
        why = (
            "is not finished; run the same compress again to go on"
            if begun
            else "expected a folder written by compress"
        )
        raise InputError(f"{folder}: has no pool.json, {why}")
    pool = decode(Pool, parse(read_limited(path), file=str(path)), file=str(path))
    return PoolFolder(folder, pool, approve(pool.model, model, file=str(path)))
