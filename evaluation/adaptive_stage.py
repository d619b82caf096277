"""What every adaptive attack plays on: torch nets to attack, the screener that judges, the images."""

from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pdtool.calibration.kinds import Kinds, by_turns, kinds_of
from pdtool.calibration.table import Table, table_of
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.data import Dataset, labels_as, load_data, refuse_seen
from pdtool.decisions import Grading
from pdtool.errors import InputError
from pdtool.evaluation.adaptive_results import Target
from pdtool.evaluation.subject import check_pool
from pdtool.files import sha256_bytes
from pdtool.images import as_input, size_of
from pdtool.jsonform import canonical
from pdtool.runtime.bundle import OpenBundle
from pdtool.runtime.screener import Screener

__all__ = ["Judged", "Stage", "judge", "open_stage"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """`images` (N, C, H, W) are those that the torch original classifies correctly, with `labels` and `source` (N,).

    `aims` (T, N): wrong labels to aim at, the likeliest first, then random ones. `members` in the order in which
    `screener` asks them, `surrogates` the attacker's own; all nets take pixels in [0, 1] and need no gradients of
    their weights.
    """

    target: Target
    of: PoolFolder
    screener: Screener
    table: Table
    grading: Grading | None  # its temperatures in the order of `members`; None: label evidence
    original: nn.Module
    members: tuple[nn.Module, ...]
    kinds: Kinds | None  # of `members`, in a mixed pool
    surrogates: tuple[nn.Module, ...]
    data: Dataset
    images: torch.Tensor
    labels: torch.Tensor
    source: NDArray[np.int64]
    aims: tuple[torch.Tensor, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.screener.opened.bundle.classes


@dataclass(frozen=True)
class Judged:
    """What the screener made of images with known labels; arrays are (N,)."""

    given: NDArray[np.int64]  # the exported original's label, -1 where the frame was not screened
    wrong: NDArray[np.bool_]
    cleared: NDArray[np.bool_]
    flagged: NDArray[np.bool_]
    used: NDArray[np.int64]

    @property
    def evades(self) -> NDArray[np.bool_]:
        """Labelled wrongly, and the verdict is `clean`."""
        both: NDArray[np.bool_] = self.wrong & self.cleared
        return both


@contextmanager
def open_stage(
    bundle: Path,
    pool: Path,
    data: str,
    *,
    surrogates: Path | None,
    targets: int | None,
    limit: int | None,
    seed: int,
    memory_budget: str | None,
    model: str | None,
) -> Iterator[Stage]:
    """Open and check everything; the screener is closed behind.

    Raises InputError for a bundle that is not this pool's, surrogates that are of another original or the pool itself,
    images that were used before and data that does not fit; what opening bundle and pool raises.
    """
    of = open_pool(pool, model=model)
    own = open_pool(surrogates, model=model) if surrogates is not None else None
    with Screener.open(bundle, memory_budget=memory_budget, seed=seed) as screener:
        opened, calibration = screener.opened, screener.calibration
        _check_pools(opened, of, own)
        clean = load_data(data, size_of(opened.bundle.preprocessing), role="test", limit=limit)
        truth = labels_as(clean, opened.bundle.classes)
        if truth is None:
            raise InputError(f"{data}: has no labels; an attack is judged by them")
        refuse_seen(clean, opened.read(opened.bundle.seen), opened.made_on)
        refuse_seen(clean, b64decode(calibration.seen), "the bundle was calibrated on")
        original = of.original().requires_grad_(False)
        logits = _logits(original, as_input(clean.images))
        source = np.flatnonzero(logits.argmax(1).numpy() == truth)
        if len(source) == 0:
            raise InputError(
                f"the original classifies none of the {len(truth)} images correctly, so there is nothing to attack; "
                f"use data of its own classes"
            )
        order = tuple(member.id for member in screener.residency.order)
        given = calibration.grading
        ids = [member.id for member in opened.bundle.members]
        scale_of = {} if given is None else dict(zip(ids, given.temperatures, strict=True))
        yield Stage(
            target=_target(opened, of, own, order, screener),
            of=of,
            screener=screener,
            table=table_of(calibration),
            grading=None if given is None else replace(given, temperatures=tuple(scale_of[id] for id in order)),
            original=original,
            members=tuple(of.member(id).requires_grad_(False) for id in order),
            kinds=kinds_of([member.kind for member in screener.residency.order]),
            surrogates=() if own is None else _surrogates(own),
            data=clean,
            images=torch.from_numpy(as_input(clean.images)[source]),
            labels=torch.from_numpy(truth[source]),
            source=source,
            aims=_aims(logits[torch.from_numpy(source)], torch.from_numpy(truth[source]), targets, seed),
        )


def judge(stage: Stage, images: Pixels, rows: NDArray[np.int64] | None = None) -> Judged:
    """Screen images (n, H, W, C), attacked ones of the stage's images `rows` (None: of all, in their order)."""
    truth = stage.labels.numpy() if rows is None else stage.labels.numpy()[rows]
    verdicts = stage.screener.screen(images, source="adaptive")
    index = {name: i for i, name in enumerate(stage.classes)}
    given = np.array([-1 if v.label is None else index[v.label] for v in verdicts], dtype=np.int64)
    return Judged(
        given=given,
        wrong=(given != truth) & (given >= 0),
        cleared=np.array([v.verdict == "clean" for v in verdicts], dtype=bool),
        flagged=np.array([v.verdict == "adversarial" for v in verdicts], dtype=bool),
        used=np.array([v.models_used for v in verdicts], dtype=np.int64),
    )


def _logits(net: nn.Module, planes: Pixels, batch: int = 128) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([net(torch.from_numpy(planes[i : i + batch])) for i in range(0, len(planes), batch)]).clone()


def _aims(logits: torch.Tensor, labels: torch.Tensor, targets: int | None, seed: int) -> tuple[torch.Tensor, ...]:
    """The likeliest wrong class, then random others without repetition; None: 2, or 3 of more than 10 classes."""
    classes = logits.shape[1]
    targets = (2 if classes <= 10 else 3) if targets is None else targets
    own = labels[:, None]
    likeliest = logits.scatter(1, own, -torch.inf).argmax(1)
    mixed = torch.from_numpy(np.random.default_rng(seed).random(logits.shape))
    mixed = mixed.scatter(1, likeliest[:, None], -1.0).scatter(1, own, 2.0)
    ranked = mixed.argsort(dim=1)
    return tuple(ranked[:, k].contiguous() for k in range(min(targets, classes - 1)))


def _surrogates(own: PoolFolder) -> tuple[nn.Module, ...]:
    """Members of the attacker's own: of a mixed pool kinds by turns, those hardest to fool first, as they are asked;
    who makes but one makes it of that kind."""
    used = [member for member in own.pool.members if member.used]
    chosen = by_turns(tuple(member.kind or "plain" for member in used))
    return tuple(own.member(used[i].id).requires_grad_(False) for i in chosen)


def _check_pools(opened: OpenBundle, of: PoolFolder, own: PoolFolder | None) -> None:
    check_pool(opened, of)
    if own is None:
        return
    pool = of.pool
    if own.pool.original.file.sha256 != pool.original.file.sha256 or own.pool.preprocessing != pool.preprocessing:
        raise InputError(
            f"{own.folder}: its members were not made of the original of {of.folder}; compress the same weights with "
            f"another --seed"
        )
    known = {member.model.file.sha256 for member in pool.members}
    if any(member.model.file.sha256 in known for member in own.pool.members):
        raise InputError(f"{own.folder}: holds members of {of.folder} itself; surrogates are made with another --seed")


def _target(
    opened: OpenBundle, of: PoolFolder, own: PoolFolder | None, order: tuple[str, ...], screener: Screener
) -> Target:
    calibration = screener.calibration
    digest = None
    if own is not None:
        digest = sha256_bytes(canonical([member.model.file.sha256 for member in own.pool.members]))
    return Target(
        model=of.pool.model,
        method=of.pool.method,
        recipe=str(of.pool.recipe.get("name", "")),
        members=len(opened.bundle.members),
        bundle_digest=opened.bundle.digest,
        precision=opened.bundle.precision,
        rule=calibration.rule,
        evidence=calibration.counts,
        target_fpr=calibration.target_fpr,
        max_models=calibration.max_models,
        surrogates=digest,
        order=order,
    )
