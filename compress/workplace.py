"""Where a pool is made: in its folder, or beside an older pool that `--force` replaces once the new one is complete."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pdtool.artifacts import PoolMember
from pdtool.compress.member import member_seed, read_record, recipe_key
from pdtool.compress.parent import FILES as PARENT
from pdtool.compress.parent import parent_key
from pdtool.errors import InputError
from pdtool.files import sha256_file, write_error
from pdtool.jsonform import JsonValue
from pdtool.outputs import replace_folder, restore_folder

__all__ = ["Wanted", "Workplace", "workplace"]

_OWN = re.compile(
    r"pool\.json|original\.safetensors|original\.json|samples\.npz|seen\.bin|members|"
    + "|".join(map(re.escape, PARENT))
)
_OWN_MEMBER = re.compile(r"m\d+\.(safetensors|json|record\.json)")
_LEFT = re.compile(r"\..+\.\d+\.tmp")  # by `write_atomic`, where its process was killed


@dataclass(frozen=True)
class Wanted:
    """Which pool is to be made: what its members' recipe keys are taken of, SHA-256 of the original's weights, and its
    parent's recipe key, where it has one.
    """

    settings: dict[str, JsonValue]
    seed: int
    original: str
    parent: str | None = None


@dataclass(frozen=True)
class Workplace:
    """`folder` is where to write, its `members/` there; `kept` are the members in it that need not be made again."""

    folder: Path
    kept: dict[str, PoolMember]
    notes: tuple[str, ...] = ()


@contextmanager
def workplace(out: Path, wanted: Wanted, *, resume: bool, force: bool) -> Iterator[Workplace]:
    """Lock the pool folder `out` and give a place to make the pool in.

    That is `out` itself where it is empty or holds members of the same pool. Another pool is refused; with `force`
    the place is the hidden folder `.<out>.new` beside it, which takes `out`'s name when the block ends well, and in
    which the next run with `force` goes on when it does not. Raises InputError for another pool without `force`, for
    a folder with foreign files and where another process is writing the pool.
    """
    out = Path(os.path.realpath(out))
    if not out.name:
        raise InputError(f"{out}: is the root of the file system; choose another --out")
    fresh = out.with_name(f".{out.name}.new")
    restore_folder(out)
    with _locked(out):
        _refuse_foreign(out)
        kept, others = _members(out, wanted)
        path = out / "original.safetensors"
        another = others or (path.exists() and sha256_file(path) != wanted.original)
        another = another or parent_key(out) not in (None, wanted.parent)
        if another and not force:
            raise InputError(
                f"{out}: holds another pool (other weights, data, method, rates, recipe or seed, or damaged members); "
                f"choose another --out or add --force to replace it"
            )
        if not resume and kept and not force:
            raise InputError(f"{out}: holds members already; --no-resume needs --force to replace them")
        if not another and (resume or not kept):
            with _writing(out):
                (out / "members").mkdir(exist_ok=True)
                for name in () if resume else reversed(PARENT):  # the record first: it says "finished"
                    (out / name).unlink(missing_ok=True)
                _sweep(out)
            left = f"{fresh}: left by a stopped run with --force; delete it where that run is not to go on"
            yield Workplace(out, kept, (left,) if fresh.exists() else ())
            return
        _refuse_foreign(out, strict=True)
        with _writing(fresh):
            kept = _begin(out, fresh, wanted, kept if resume else {}, resume=resume)
        yield Workplace(fresh, kept)
        try:
            replace_folder(fresh, out)
        except OSError as error:
            raise InputError(
                f"{out}: cannot be replaced ({error.strerror}); the finished pool is {fresh}, move it yourself"
            ) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error


def _sweep(out: Path) -> None:
    """Delete what a killed process had half written."""
    for folder in (out, out / "members"):
        for path in folder.iterdir():
            if _LEFT.fullmatch(path.name):
                path.unlink()


def _begin(
    out: Path, fresh: Path, wanted: Wanted, kept: dict[str, PoolMember], *, resume: bool
) -> dict[str, PoolMember]:
    """Make the folder beside the old pool ready: its own finished members and those of the old pool, nothing else."""
    if fresh.exists() and not resume:
        shutil.rmtree(fresh)
    (fresh / "members").mkdir(parents=True, exist_ok=True)
    there, _ = _members(fresh, wanted)
    for path in (fresh / "members").iterdir():
        if path.name.split(".")[0] not in there:
            path.unlink()
    for id in kept.keys() - there.keys():
        for name in (f"{id}.safetensors", f"{id}.json", f"{id}.record.json"):  # the record last: it says "finished"
            shutil.copyfile(out / "members" / name, fresh / "members" / name)
    if kept and parent_key(out) is not None and parent_key(fresh) is None:
        for name in PARENT:  # the record last, as above
            shutil.copyfile(out / name, fresh / name)
    return kept | there


def _members(folder: Path, wanted: Wanted) -> tuple[dict[str, PoolMember], bool]:
    """The finished members of the wanted pool in `folder`, and whether there are others (or damaged ones)."""
    ids = sorted(path.name.removesuffix(".record.json") for path in (folder / "members").glob("*.record.json"))
    kept = {}
    for id in ids:
        member = read_record(folder, id)
        if member is None or not id[1:].isdecimal() or member.seed != member_seed(wanted.seed, int(id[1:])):
            continue
        if member.recipe_key == recipe_key(wanted.settings, member.seed):
            kept[id] = member
    return kept, len(kept) < len(ids)


def _refuse_foreign(out: Path, *, strict: bool = False) -> None:
    """Raise InputError for what is no part of a pool; `strict`, before it would be deleted: hidden files, too."""
    members = out / "members"
    for folder, own in ((out, _OWN), (members, _OWN_MEMBER)) if strict else ((out, _OWN),):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            hidden = path.name.startswith(".") if not strict else _LEFT.fullmatch(path.name)
            if not hidden and (not own.fullmatch(path.name) or path.is_dir() != (path == members)):
                raise InputError(f"{folder}: holds {path.name!r}, which is no part of a pool; choose another --out")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Create the folder and hold its lock: two processes never write one pool."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{out}: another pdtool is writing this pool; wait for it or choose another --out"
            ) from None
        if not out.exists() or not os.path.samestat(os.fstat(descriptor), out.stat()):
            raise InputError(f"{out}: another pdtool has just replaced this pool; look at it, then run this again")
        yield
    finally:
        os.close(descriptor)
