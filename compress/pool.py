"""Classifier to pool: many differently pruned, fine-tuned copies and what is needed to rebuild and judge them."""

import copy
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pdtool
from pdtool.artifacts import Pool, PoolMember, write_entry
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.member import (
    judge,
    make_member,
    member_seed,
    recipe_key,
    write_model,
)
from pdtool.compress.prepare import METHODS, PoolRequest, prepare
from pdtool.compress.prune import prune
from pdtool.compress.split import Labelled, spread
from pdtool.compress.training import fit
from pdtool.compress.watch import Watch, silent
from pdtool.compress.weights import weights_bytes
from pdtool.compress.workplace import Wanted, workplace
from pdtool.errors import GateError
from pdtool.files import npz_bytes, sha256_bytes, write_atomic
from pdtool.jsonform import canonical, encode

__all__ = ["METHODS", "PoolFolder", "PoolPlan", "PoolRequest", "make_pool", "open_pool", "plan_pool"]

SAMPLES = 64  # held-out images kept in the pool


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """What making a pool would take: `seconds` from a few measured training steps of one pruned member."""

    model: str
    classes: int
    members: int
    units: int
    left_whole: dict[str, str]
    train_images: int
    held_images: int
    steps: int  # a member
    original_bytes: int
    member_bytes: int
    seconds: float
    notes: tuple[str, ...]


def make_pool(
    request: PoolRequest, out: Path, *, resume: bool = True, force: bool = False, watch: Watch = silent
) -> Pool:
    """Make a pool in the folder `out` and return its pool.json.

    Members finished by an earlier, stopped run with the same settings are kept (unless `resume` is False); asking for
    more members adds to them. A folder that holds another pool is refused; with `force` it stays as it is until the
    new pool is complete (`pdtool.compress.workplace`).
    Raises GateError where no member reaches the accuracy floor (the folder then is no pool, its members stay for the
    next run), InputError for data or weights that cannot be used and where another process is writing the pool,
    UsageError for settings that make no sense.
    """
    ready = prepare(request)
    original_bytes = weights_bytes(ready.original.net, ready.original.metadata())
    wanted = Wanted(ready.settings, request.seed, sha256_bytes(original_bytes))
    with workplace(out, wanted, resume=resume, force=force) as place:
        out, kept = place.folder, place.kept
        original = write_model(out, "original", ready.original.net, ready.original, [], ready.held, {})
        seen = write_entry(out, "seen.bin", ready.seen)
        samples = write_entry(out, "samples.npz", samples_bytes(ready.held))
        floor = request.min_accuracy if request.min_accuracy is not None else original.accuracy - request.max_drop
        made: list[PoolMember] = []
        steps = ready.recipe.steps(len(ready.training))
        ids = [_id(index) for index in range(request.members)]
        with watch("compress", steps * sum(id not in kept for id in ids)) as task:
            for note in (*ready.notes, *place.notes):
                task.say(note)
            task.say(
                f"original: accuracy {original.accuracy:.4f}, {original.macs / 1e6:.2f} M MACs, "
                f"{original.file.bytes} bytes"
            )
            for index, id in enumerate(ids):
                seed, begun = member_seed(request.seed, index), time.perf_counter()
                member = kept.get(id) or make_member(
                    out,
                    id,
                    ready.original,
                    ready.units,
                    METHODS[request.method],
                    request.rate,
                    request.group_rates,
                    ready.recipe,
                    ready.training,
                    ready.held,
                    seed=seed,
                    key=recipe_key(ready.settings, seed),
                    tick=task.advance,
                )
                member = judge(member, floor)
                made.append(member)
                task.say(_line(member, time.perf_counter() - begun, resumed=id in kept))
        used = sum(member.used for member in made)
        if used == 0:
            (out / "pool.json").unlink(missing_ok=True)  # an earlier run's, with a lower floor
            best = max(member.model.accuracy for member in made)
            raise GateError(
                f"none of {len(made)} members reaches the accuracy floor {floor:.4f} (best {best:.4f}, original "
                f"{original.accuracy:.4f}); lower --rate, raise --epochs or allow more with --max-drop"
            )
        pool = Pool(
            pdtool=pdtool.__version__,
            model=str(ready.original.spec),
            classes=ready.original.classes,
            preprocessing=ready.original.preprocessing,
            method=request.method,
            rate=request.rate,
            group_rates={str(channels): rate for channels, rate in sorted(request.group_rates.items())},
            recipe={**encode(ready.recipe), "ignore": list(request.ignore)},
            seed=request.seed,
            data=request.data,
            data_fingerprint=ready.fingerprint,
            seen=seen,
            samples=samples,
            original=original,
            members=tuple(made),
        )
        write_atomic(out / "pool.json", canonical(encode(pool)))
    return pool


def plan_pool(request: PoolRequest) -> PoolPlan:
    """What `make_pool` would do, without writing anything: one member is pruned and trained for a few steps."""
    ready = prepare(request)
    net = copy.deepcopy(ready.original.net)
    rng = np.random.default_rng(member_seed(request.seed, 0))
    chosen = METHODS[request.method](ready.units, net, request.rate, request.group_rates, rng)
    prune(net, ready.original.spec.input, chosen)
    steps = ready.recipe.steps(len(ready.training))
    times = [time.perf_counter()]

    def tick(count: int) -> None:
        times.append(time.perf_counter())
        if len(times) > 20 or times[-1] - times[0] > 5.0:
            raise _Enough

    with suppress(_Enough):
        fit(net, ready.training, ready.recipe, seed=0, teacher=ready.original.net, tick=tick)
    a_step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0  # the first step takes far longer
    return PoolPlan(
        model=str(ready.original.spec),
        classes=len(ready.original.classes),
        members=request.members,
        units=len(ready.units),
        left_whole=ready.whole,
        train_images=len(ready.training),
        held_images=len(ready.held),
        steps=steps,
        original_bytes=len(weights_bytes(ready.original.net, {})),
        member_bytes=len(weights_bytes(net, {})),
        seconds=round(a_step * steps * request.members, 1),
        notes=ready.notes,
    )


def samples_bytes(held: Labelled) -> bytes:
    """A few of the held-out images, as uint8, and their labels as an .npz."""
    few = spread(held, SAMPLES)
    images = few.images if few.images.dtype == np.uint8 else np.round(few.images * 255).astype(np.uint8)
    return npz_bytes({"images": images, "labels": few.labels})


class _Enough(Exception):
    """Enough steps were timed."""


def _id(index: int) -> str:
    return f"m{index:03d}"


def _line(member: PoolMember, seconds: float, *, resumed: bool) -> str:
    state = "" if member.used else f"; NOT USED: {member.reason}"
    kept = " (kept from an earlier run)" if resumed else f" in {seconds:.1f} s"
    model = member.model
    return (
        f"{member.id}: accuracy {model.accuracy:.4f}, {model.macs / 1e6:.2f} M MACs, {model.file.bytes} bytes, "
        f"{100 * member.channel_rate:.0f} % of channels removed{kept}{state}"
    )
