"""Classifier to pool: many differently pruned, fine-tuned copies and what is needed to rebuild and judge them."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import pdtool
from pdtool.artifacts import Pool, PoolMember, PoolModel, write_entry
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.member import (
    judge,
    make_member,
    member_seed,
    recipe_key,
    write_model,
)
from pdtool.compress.prepare import METHODS, PoolRequest, encode_settings, prepare
from pdtool.compress.split import Labelled, spread
from pdtool.compress.watch import Watch, silent
from pdtool.compress.weights import weights_bytes
from pdtool.compress.workplace import Wanted, workplace
from pdtool.errors import GateError
from pdtool.files import npz_bytes, sha256_bytes, write_atomic
from pdtool.jsonform import canonical, encode

__all__ = ["METHODS", "PoolFolder", "PoolRequest", "make_pool", "open_pool"]

SAMPLES = 64  # held-out images kept in the pool


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
    task, the = ready.task, ready.task.original
    wanted = Wanted(ready.key, request.seed, sha256_bytes(weights_bytes(the.net, the.metadata())))
    with workplace(out, wanted, resume=resume, force=force) as place:
        out, kept = place.folder, place.kept
        original = write_model(out, "original", the.net, the, [], task.held, {})
        seen = write_entry(out, "seen.bin", ready.seen)
        samples = write_entry(out, "samples.npz", samples_bytes(task.held))
        floor = request.min_accuracy if request.min_accuracy is not None else original.accuracy - request.max_drop
        made, given_up = list[PoolMember](), 0
        steps = ready.method.steps(task)
        ids = [_id(index) for index in range(request.members)]
        with watch("compress", steps * sum(id not in kept for id in ids)) as watched:
            for note in (*ready.notes, *place.notes):
                watched.say(note)
            watched.say(
                f"original: accuracy {original.accuracy:.4f}, {original.macs / 1e6:.2f} M MACs, "
                f"{original.file.bytes} bytes"
            )
            for index, id in enumerate(ids):
                seed, begun = member_seed(request.seed, index), time.perf_counter()
                member = kept.get(id) or make_member(
                    out,
                    id,
                    ready.method,
                    replace(task, seed=seed, tick=watched.advance),
                    key=recipe_key(ready.key, seed),
                )
                given_up += not member.used
                member = judge(member, floor)
                made.append(member)
                watched.say(_line(member, original, time.perf_counter() - begun, resumed=id in kept))
        used = sum(member.used for member in made)
        if used == 0:
            (out / "pool.json").unlink(missing_ok=True)  # an earlier run's, with a lower floor
            if given_up == len(made):
                raise GateError(f"none of {len(made)} members can be used; {made[0].id}: {made[0].reason}")
            best = max(member.model.accuracy for member in made)
            raise GateError(
                f"none of {len(made)} members reaches the accuracy floor {floor:.4f} (best {best:.4f}, original "
                f"{original.accuracy:.4f}); lower --rate, raise --epochs or allow more with --max-drop"
            )
        options = encode_settings(task.settings)
        pool = Pool(
            pdtool=pdtool.__version__,
            model=str(the.spec),
            classes=the.classes,
            preprocessing=the.preprocessing,
            method=request.method,
            rate=options.pop("rate"),
            group_rates=options.pop("group_rates", {}),
            options=options,
            recipe={**ready.recipe, "ignore": list(request.ignore)},
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


def samples_bytes(held: Labelled) -> bytes:
    """A few of the held-out images, as uint8, and their labels as an .npz."""
    few = spread(held, SAMPLES)
    images = few.images if few.images.dtype == np.uint8 else np.round(few.images * 255).astype(np.uint8)
    return npz_bytes({"images": images, "labels": few.labels})


def _id(index: int) -> str:
    return f"m{index:03d}"


def _line(member: PoolMember, original: PoolModel, seconds: float, *, resumed: bool) -> str:
    state = "" if member.used else f"; NOT USED: {member.reason}"
    kept = " (kept from an earlier run)" if resumed else f" in {seconds:.1f} s"
    model = member.model
    sparse = f" ({model.nonzero_macs / 1e6:.2f} M without zeros)" if model.nonzero_macs < model.macs else ""
    return (
        f"{member.id}: accuracy {model.accuracy:.4f}, {model.macs / 1e6:.2f} M MACs{sparse}, {model.file.bytes} bytes, "
        f"{_changed(member, original)}{kept}{state}"
    )


def _changed(member: PoolMember, original: PoolModel) -> str:
    if "draws" in member.drawn:
        mutated = ", ".join(f"{count} {of}" for of, count in member.drawn.items() if of != "draws")
        return f"{mutated} mutated, draw {member.drawn['draws']}"
    if member.model.parameters < original.parameters:
        return f"{100 * member.channel_rate:.0f} % of channels removed"
    return f"{100 * member.weight_rate:.0f} % of weights zero"
