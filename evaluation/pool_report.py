"""A pool as one self-contained HTML page: what it costs, how well its members do, and how apart they err."""

from pathlib import Path

import numpy as np

import pdtool
from pdtool.artifacts import PoolMember, PoolModel
from pdtool.compress.plan import BoardFit
from pdtool.compress.summary import summary as tabulate
from pdtool.errors import UsageError
from pdtool.evaluation.attacks import library
from pdtool.evaluation.page import check_report, render
from pdtool.evaluation.pictures import histogram, scatter
from pdtool.evaluation.pool_study import FEW, PoolStudy, Votes
from pdtool.files import write_atomic
from pdtool.wording import number, percent, size

__all__ = ["check_pool_report", "html", "summary", "write_pool_report"]

NARROW = 20  # bins of a histogram
FAR = 0.2  # below all members, a floor would flatten the picture
PAIRS = 10  # of members: fewer make no histogram


def check_pool_report(out: Path, pool: Path) -> None:
    """Refuse a file that could not be written, or that has no place in the folder `pool`, before anything is made.

    Raises as `check_report`, and MissingError where Foolbox is not installed.
    """
    if pool.resolve() in out.resolve().parents:
        raise UsageError(f"--report {out}: lies in the pool's own folder, which holds nothing else; give it beside")
    check_report(out)
    library()


def write_pool_report(out: Path, s: PoolStudy) -> None:
    """Write the page. Raises as `check_report`, and InputError where the disk refuses."""
    check_report(out)
    write_atomic(out, html(s).encode())


def html(s: PoolStudy) -> str:
    """The page: no script, nothing fetched, light or dark as the reader's system is; the same input, the same bytes."""
    table = tabulate(s.pool)
    reasons = ["used" if member.used else member.reason or "not used" for member in s.pool.members]
    reasons = [""] * (len(table.rows) - len(reasons)) + reasons  # the original and a parent come first
    return render(
        "pool_page.html",
        s=s,
        pool=s.pool,
        pdtool=pdtool.__version__,
        tiles=_tiles(s),
        summary=summary(s),
        headers=table.headers,
        rows=list(zip(table.rows, reasons, strict=True)),
        used=table.used,
        costs=_scatter(s),
        plots=_plots(s),
        votes=s.votes,
        members=len(_used(s)),
        limits=limits(s),
    )


def summary(s: PoolStudy) -> tuple[str, ...]:
    """What a reader should take along, a sentence a line."""
    pool, used = s.pool, _used(s)
    rates = [member.model.accuracy for member in used]
    lines = [
        f"{len(used)} of {len(pool.members)} members used, with an accuracy of {_range(rates)}; the original "
        f"has {percent(pool.original.accuracy)}. The accuracy floor is {percent(s.floor)}."
    ]
    dense = float(np.mean([member.model.macs for member in used])) / pool.original.macs
    sparse = float(np.mean([member.model.nonzero_macs for member in used])) / pool.original.macs
    cost = f"A used member multiplies {percent(dense)} of what the original does, on average"
    if sparse < dense:
        cost += f" ({percent(sparse)} where zeros cost nothing, which is so in few engines)"
    lines.append(f"{cost}; all weights take {size(_bytes(s))} on disk.")
    if s.board is not None:
        lines.append(_fits(s.board))
    for votes in s.votes:
        lines.append(_said(votes, len(used)))
    if s.votes and len(s.votes) == 1:
        lines.append("The original labels none of the held-out images rightly: there is nothing to attack.")
    if s.left_out is not None:
        lines.append(s.left_out)
    return tuple(lines)


def limits(s: PoolStudy) -> tuple[str, ...]:
    """What the figures do not say."""
    lines = [
        "The held-out images also decided which members are used, so that accuracies here flatter a little. pdtool "
        "evaluate measures the exported bundle on other images.",
    ]
    if s.votes:
        lines.append(
            "Attacks are made on the original alone, from held-out images that it labels rightly; only those that fool "
            "it are counted. An attacker who knows the members does better."
        )
        lines.append(
            "Models ran in torch at fp32. Few images make rough figures: n stands beside each, and of fewer than "
            f"{FEW} images nothing is said of how apart members err."
        )
    return tuple(lines)


def _said(votes: Votes, members: int) -> str:
    """One set of images in a sentence."""
    d = votes.diversity
    if len(votes) == 0:
        return f"{_title(votes)}: none of {votes.given} fooled the original, so that there is nothing to say of them."
    told = f"{_title(votes)} (n = {len(votes)}): members change {percent(float(votes.rates.mean()))} of the labels"
    if votes.auroc is not None:
        told += f", which tells them from clean images with an AUROC of {number(votes.auroc, 3)}"
    if len(votes) < FEW:
        return f"{told}; so few images do not say how apart members err."
    if d.effective_votes is None:
        return f"{told}; on every image as many do, so that nothing can be said of how apart they err."
    return f"{told}; {members} members are worth {number(d.effective_votes)} unrelated ones."


def _title(votes: Votes) -> str:
    return "Clean images" if votes.given is None else f"Images that {votes.name} made, and that fool the original"


def _tiles(s: PoolStudy) -> list[tuple[str, str]]:
    """The figures of the page's head: (value, what it is)."""
    used, original = _used(s), s.pool.original
    accuracy = float(np.mean([member.model.accuracy for member in used]))
    macs = float(np.mean([member.model.macs for member in used]))
    tiles = [
        (f"{len(used)} of {len(s.pool.members)}", "members used"),
        (percent(accuracy), f"accuracy of a used member, mean; the original: {percent(original.accuracy)}"),
        (percent(macs / original.macs), "of the original's MACs: the mean used member"),
        (size(_bytes(s)), "on disk, original and members"),
    ]
    for votes in s.votes[1:]:
        worth, n = votes.diversity.effective_votes, f"n\u00a0=\u00a0{len(votes)}"
        tiles.append((number(votes.auroc, 3), f"AUROC of the label change rate, {votes.name} ({n}) against clean"))
        if worth is not None:
            tiles.append((f"{number(worth)} of {len(used)}", f"effective votes on images of {votes.name} ({n})"))
    return tiles


def _scatter(s: PoolStudy) -> str:
    original, members = s.pool.original, s.pool.members
    series = {
        "members": [_point(member.model) for member in members if member.used],
        "not used": [_point(member.model) for member in members if not member.used],
        "original": [_point(original)],  # on top: members that zeros made cost the same
    }
    lowest = min(member.model.accuracy for member in members)
    sparse = [member.model for member in members if member.used and member.model.nonzero_macs < member.model.macs]
    if sparse:
        series["zeros not counted"] = [(model.nonzero_macs / 1e6, model.accuracy) for model in sparse]
    return scatter(
        "Accuracy against cost",
        series,
        xlabel="million MACs for one image",
        ylabel="accuracy",
        from_zero=True,
        line=("accuracy floor", s.floor) if lowest - s.floor < FAR else None,
    )


def _plots(s: PoolStudy) -> list[tuple[str, str]]:
    """Pictures of the votes with the sentence that belongs to each; a set of images has one colour in all of them."""
    if not s.votes:
        return []
    members = len(_used(s))
    bins = NARROW if members > 2 * NARROW else list((np.arange(members + 2) - 0.5) / members)
    rates = histogram(
        f"Label change rate over the {members} used members",
        {votes.name: votes.rates for votes in s.votes},
        xlabel="share of the members that change the label",
        bins=bins,
        span=(0.0, 1.0),
    )
    plots = [
        (rates, "The less clean and attacked images overlap, the fewer members the sequential test has to ask."),
    ]
    pairs = {votes.name: votes.pairs for votes in s.votes}
    if max(map(len, pairs.values())) >= PAIRS:
        correlations = histogram(
            "Correlation of two members' label changes",
            pairs,
            xlabel="correlation (1: copies, 0: unrelated)",
            bins=NARROW,
            span=(min(0.0, *(float(of.min(initial=0.0)) for of in pairs.values())), 1.0),
        )
        plots.append((correlations, "Pairs of used members that both change some labels, on each set of images apart."))
    return plots


def _used(s: PoolStudy) -> list[PoolMember]:
    return [member for member in s.pool.members if member.used]


def _bytes(s: PoolStudy) -> int:
    return s.pool.original.file.bytes + sum(member.model.file.bytes for member in s.pool.members)


def _point(model: PoolModel) -> tuple[float, float]:
    return model.macs / 1e6, model.accuracy


def _range(values: list[float]) -> str:
    if min(values) == max(values):
        return percent(values[0])
    return f"{percent(min(values))} to {percent(max(values))} (mean {percent(float(np.mean(values)))})"


def _fits(board: BoardFit) -> str:
    fit = "fit" if board.fp32.fits else "do NOT fit"
    return (
        f"{board.name}, {board.fp32.memory_bytes / 1e9:g} GB: the weights of the original and the used members {fit} "
        f"at once, {size(board.fp32.need_bytes)} at fp32, {size(board.fp16.need_bytes)} at fp16; {board.fp32.note}."
    )
