"""Classifier to pool: many differently pruned, fine-tuned copies and what is needed to rebuild and judge them."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import pdtool
from pdtool.artifacts import Pool, PoolMember, PoolModel, write_entry
from pdtool.compress.contract import Task
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.making import Job, Make, here
from pdtool.compress.member import judge, member_seed, model_files, recipe_key, save
from pdtool.compress.parent import Parent, parent_for, parent_steps, read_parent
from pdtool.compress.prepare import METHODS, PoolRequest, Prepared, encode_settings, prepare
from pdtool.compress.scouting import craft_for, crafting_steps, parent_seed
from pdtool.compress.split import Labelled, spread
from pdtool.compress.watch import Steps, Watch, silent
from pdtool.compress.weights import weights_bytes
from pdtool.compress.workplace import Wanted, Workplace, workplace
from pdtool.errors import GateError
from pdtool.files import npz_bytes, sha256_bytes, write_atomic
from pdtool.jsonform import canonical, encode
from pdtool.wording import size

__all__ = ["METHODS", "PoolFolder", "PoolRequest", "make_pool", "open_pool"]

SAMPLES = 64  # held-out images kept in the pool


def make_pool(
    request: PoolRequest,
    out: Path,
    *,
    resume: bool = True,
    force: bool = False,
    make: Make = here,
    watch: Watch = silent,
) -> Pool:
    """Make a pool in the folder `out` and return its pool.json.

    Members finished by an earlier, stopped run with the same settings are kept (unless `resume` is False); asking for
    more members adds to them. A folder that holds another pool is refused; with `force` it stays as it is until the
    new pool is complete (`pdtool.compress.workplace`). `make` says where members are made; this process alone writes.
    A member whose making ends with an error does not stop the others: the pool is written without it, then the first
    such error is raised.
    Raises GateError where no member reaches the accuracy floor (the folder then is no pool, its members stay for the
    next run), InputError for data or weights that cannot be used and where another process is writing the pool,
    UsageError for settings that make no sense.
    """
    ready = prepare(request)
    task, the = ready.task, ready.task.original
    original_sha256 = sha256_bytes(weights_bytes(the.net, the.metadata()))
    wanted = Wanted(ready.key, request.seed, original_sha256, _parent_key(request, ready))
    with workplace(out, wanted, resume=resume, force=force) as place:
        original, files = model_files("original", the.net, the, [], task.held, {})
        for path, data in files.items():
            write_atomic(place.folder / path, data)
        seen = write_entry(place.folder, "seen.bin", ready.seen)
        samples = write_entry(place.folder, "samples.npz", samples_bytes(task.held))
        floor = request.floor(original.accuracy)
        members, errors, parent = _members(request, ready, place, original, floor, make=make, watch=watch)
        judged = tuple(judge(member, floor) for member in members)
        if not any(member.used for member in judged):
            (place.folder / "pool.json").unlink(missing_ok=True)  # an earlier run's, with a lower floor
            raise next(iter(errors.values()), _none_used(members, floor, original))
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
            parent=parent,
            members=judged,
        )
        write_atomic(place.folder / "pool.json", canonical(encode(pool)))
        if errors:
            raise next(iter(errors.values()))
    return pool


def _members(
    request: PoolRequest,
    ready: Prepared,
    place: Workplace,
    original: PoolModel,
    floor: float,
    *,
    make: Make,
    watch: Watch,
) -> tuple[list[PoolMember], dict[str, Exception], PoolModel | None]:
    """All members, kept and made, in order; the errors of those that could not be made; and their parent."""
    members, errors, jobs = dict[str, PoolMember](), dict[str, Exception](), list[Job]()
    for index in range(request.members):
        seed = member_seed(request.seed, index)
        kind = request.hardening.kind(index) if request.hardening is not None else "plain"
        jobs.append(Job(f"m{index:03d}", seed, recipe_key(ready.key, seed), kind))
    left = [job for job in jobs if job.id not in place.kept]
    method, task = ready.method, ready.task
    key = _parent_key(request, ready)
    kept = None if key is None else read_parent(place.folder, task, key=key)
    lacking = left or (key is not None and kept is None)
    before = crafting_steps(method, task) + parent_steps(method, task) if lacking else 0
    with watch("compress", before + method.steps(task) * len(left)) as watched:
        for note in (*ready.notes, *place.notes):
            watched.say(note)
        watched.say(
            f"original: accuracy {original.accuracy:.4f}, {original.macs / 1e6:.2f} M MACs, {size(original.file.bytes)}"
        )
        for job in jobs:
            if job.id in place.kept:
                members[job.id] = place.kept[job.id]
                watched.say(_line(judge(members[job.id], floor), original, "kept from an earlier run"))
        if before:
            task, kept = _before(request, ready, place, watched)
        for outcome in make(request.method, task, left, watched.advance):
            id, made = outcome.job.id, outcome.made
            if isinstance(made, Exception):
                errors[id] = made
                watched.say(f"{id}: FAILED ({type(made).__name__}: {made}); the same command tries it again")
                continue
            save(place.folder, made)
            members[id] = made.member
            watched.say(_line(judge(made.member, floor), original, f"in {outcome.seconds:.1f} s"))
    parent = None if kept is None else kept.record.model
    return [members[job.id] for job in jobs if job.id in members], errors, parent


def _parent_key(request: PoolRequest, ready: Prepared) -> str | None:
    """The recipe key of the pool's parent; None where it is to have none."""
    wanted = parent_steps(ready.method, ready.task) > 0
    return recipe_key(ready.key, parent_seed(request.seed)) if wanted else None


def _before(request: PoolRequest, ready: Prepared, place: Workplace, watched: Steps) -> tuple[Task, Parent | None]:
    """What members need that is made once for all of them: crafted images, and a parent."""
    method, task, parent = ready.method, ready.task, None
    if crafting_steps(method, task):
        begun = time.perf_counter()
        task = craft_for(method, task, request.seed, tick=watched.advance)
        watched.say(_crafted_line(task, time.perf_counter() - begun))
    key = _parent_key(request, ready)
    if key is not None:
        begun = time.perf_counter()
        own = replace(task, seed=parent_seed(request.seed), kind="robust")  # so far as `robust` asks for it
        parent = parent_for(place.folder, own, key=key, tick=watched.advance)
        task, record = replace(task, parent=parent.net), parent.record
        how = (
            f"kept from an earlier run ({record.made_on})" if parent.kept else f"in {time.perf_counter() - begun:.1f} s"
        )
        watched.say(f"parent: accuracy {record.model.accuracy:.4f}, {how}")
    return task, parent


def _crafted_line(task: Task, seconds: float) -> str:
    assert task.crafted is not None
    attacks, scouts = int(task.crafted.attacked.sum()), task.hardening.scouts if task.hardening else 0
    on = "the original" if not scouts else f"the original and {scouts} scout{'s' if scouts > 1 else ''}"
    return f"crafted {len(task.crafted):,} images, {attacks:,} of them attacks on {on}, in {seconds:.1f} s"


def _none_used(members: Sequence[PoolMember], floor: float, original: PoolModel) -> GateError:
    if not any(member.used for member in members):  # the method gave them all up
        reason = f"; {members[0].id}: {members[0].reason}" if members else ""
        return GateError(f"none of {len(members)} members can be used{reason}")
    best = max(member.model.accuracy for member in members)
    return GateError(
        f"none of {len(members)} members reaches the accuracy floor {floor:.4f} (best {best:.4f}, original "
        f"{original.accuracy:.4f}); lower --rate, raise --epochs or allow more with --max-drop"
    )


def samples_bytes(held: Labelled) -> bytes:
    """A few of the held-out images, as uint8, and their labels as an .npz."""
    few = spread(held, SAMPLES)
    images = few.images if few.images.dtype == np.uint8 else np.round(few.images * 255).astype(np.uint8)
    return npz_bytes({"images": images, "labels": few.labels})


def _line(member: PoolMember, original: PoolModel, how: str) -> str:
    state = "" if member.used else f"; NOT USED: {member.reason}"
    model = member.model
    sparse = f" ({model.nonzero_macs / 1e6:.2f} M without zeros)" if model.nonzero_macs < model.macs else ""
    return (
        f"{member.id}: accuracy {model.accuracy:.4f}, {model.macs / 1e6:.2f} M MACs{sparse}, {size(model.file.bytes)}, "
        f"{_changed(member, original)}, {how}{state}"
    )


def _changed(member: PoolMember, original: PoolModel) -> str:
    if "draws" in member.drawn:
        mutated = ", ".join(f"{count} {of}" for of, count in member.drawn.items() if of != "draws")
        return f"{mutated} mutated, draw {member.drawn['draws']}"
    if member.model.parameters < original.parameters:
        return f"{100 * member.channel_rate:.0f} % of channels removed"
    return f"{100 * member.weight_rate:.0f} % of weights zero"
