"""The pool report: its votes by hand on real digits, its page whole in one file."""

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.prepare import PoolRequest, held_out
from pdtool.compress.split import Labelled, spread
from pdtool.compress.training import predict
from pdtool.devices.catalogue import find
from pdtool.errors import InputError, MissingError, UsageError
from pdtool.evaluation import pool_report as report
from pdtool.evaluation.attacks import run_attack
from pdtool.evaluation.pool_study import ATTACKED, FEW, PoolStudy, Votes, study


@pytest.fixture(scope="module")
def folder(workshop: Path) -> PoolFolder:
    return open_pool(workshop / "pool")


@pytest.fixture(scope="module")
def held(workshop: Path) -> Labelled:
    return held_out(PoolRequest(weights=workshop / "weights.safetensors", data="digits"))


@pytest.fixture(scope="module")
def studied(folder: PoolFolder, held: Labelled) -> PoolStudy:
    return study(folder, held, floor=0.88, board=find("jetson-nano"))


class Page(HTMLParser):
    """What a browser would show, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str | None] = []
        self.text = ""
        self.feed(text)
        self.text = self.text.replace("\u00a0", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_images_are_those_that_the_pool_was_judged_on(folder: PoolFolder, held: Labelled) -> None:
    models = {"original": (folder.original(), folder.pool.original.accuracy)}
    models |= {member.id: (folder.member(member.id), member.model.accuracy) for member in folder.pool.members}
    for net, accuracy in models.values():
        assert np.mean(predict(net, held.images) == held.labels) == pytest.approx(accuracy, abs=1e-6)


def test_votes_are_the_members_against_the_original(folder: PoolFolder, held: Labelled, studied: PoolStudy) -> None:
    clean, fgsm, deepfool = studied.votes
    net = folder.original()
    right = int((predict(net, held.images) == held.labels).sum())
    assert [votes.given for votes in studied.votes] == [None, right, right]
    labels = predict(net, held.images)
    by_hand = np.stack([predict(folder.member(m.id), held.images) != labels for m in folder.pool.members], axis=1)
    np.testing.assert_array_equal(clean.changed, by_hand)
    few = spread(held, ATTACKED)
    found = run_attack(net, few.images, few.labels, "deepfool", seed=folder.pool.seed)
    fooled = found.images[found.success]
    labels = predict(net, fooled)
    by_hand = np.stack([predict(folder.member(m.id), fooled) != labels for m in folder.pool.members], axis=1)
    np.testing.assert_array_equal(deepfool.changed, by_hand)
    above = (deepfool.rates[:, None] > clean.rates) + 0.5 * (deepfool.rates[:, None] == clean.rates)
    assert deepfool.auroc is not None and 0.9 < deepfool.auroc == pytest.approx(above.mean())
    assert 0 < len(fgsm) < right and len(deepfool) > FEW


def test_unused_members_have_no_vote(folder: PoolFolder, held: Labelled, studied: PoolStudy) -> None:
    members = tuple(replace(m, used=i % 2 == 0, reason="too weak <b>") for i, m in enumerate(folder.pool.members))
    half = study(replace(folder, pool=replace(folder.pool, members=members)), held, floor=0.99)
    np.testing.assert_array_equal(half.votes[2].changed, studied.votes[2].changed[:, ::2])
    page = Page(report.html(half))
    assert page.text.count("too weak <b>") == 4 and "b" not in page.tags
    assert "4 of 8 members used" in page.text and "not used" in page.text


def test_the_page_stands_alone_and_is_the_same_again(studied: PoolStudy) -> None:
    text = report.html(studied)
    assert text == report.html(studied)
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags) and not re.search(r"https?:|url\((?!#)", text)
    assert all(reference and reference.startswith("#") for reference in page.references)
    assert page.tags.count("svg") == 3
    for told in (
        "original",
        "m000",
        "m007",
        "mean of 8 used",
        "fgsm:epsilon=0.03",
        "deepfool:steps=50",
        "accuracy floor",
    ):
        assert told in page.text, told
    deepfool = studied.votes[2]
    assert f"{len(deepfool)} of {deepfool.given} attacked" in page.text
    assert f"8 members are worth {deepfool.diversity.effective_votes:.1f} unrelated ones" in page.text
    assert "A pool of 32 copies of one vote is worth one member." in page.text
    assert "Jetson Nano 4GB, 4 GB: the weights of the original and the used members fit at once" in page.text


def test_the_page_of_a_hardened_pool_has_its_parent_and_kinds(studied: PoolStudy) -> None:
    pool = studied.pool
    kinds = [replace(member, kind="robust" if number else "plain") for number, member in enumerate(pool.members)]
    mixed = replace(studied, pool=replace(pool, parent=pool.original, members=tuple(kinds)))
    text = Page(report.html(mixed)).text
    assert "parent" in text and "m000 plain" in text and "m001 robust" in text


def test_few_images_say_nothing_of_how_apart_members_err(studied: PoolStudy) -> None:
    rng = np.random.default_rng(0)
    changed = rng.random((FEW, 8)) < 0.5
    enough, few = Votes("fgsm", "fgsm:epsilon=0.03", 90, changed, 0.9), Votes("fgsm", "s", 90, changed[1:], 0.9)
    assert enough.diversity.effective_votes is not None and len(enough.pairs) == 28
    assert few.diversity.effective_votes is None and few.diversity.correlation is None and len(few.pairs) == 0
    page = Page(report.html(replace(studied, votes=(studied.votes[0], few))))
    assert f"(n = {FEW - 1})" in page.text and "so few images do not say how apart members err" in page.text


def test_an_attack_that_fools_nobody_is_told(studied: PoolStudy) -> None:
    none = Votes("fgsm", "fgsm:epsilon=0.03", 90, np.zeros((0, 8), dtype=bool), None)
    page = Page(report.html(replace(studied, votes=(studied.votes[0], none))))
    assert "none of 90 fooled the original" in page.text and "0 of 90 attacked" in page.text


def test_an_original_that_is_never_right_cannot_be_attacked(folder: PoolFolder, held: Labelled) -> None:
    wrong = Labelled(held.images, (predict(folder.original(), held.images) + 1) % 10)
    done = study(folder, wrong, floor=0.0)
    assert [votes.name for votes in done.votes] == ["clean"]
    assert "there is nothing to attack" in Page(report.html(done)).text


@pytest.mark.parametrize(("made", "used", "why"), [(1, 1, "One model alone"), (8, 1, "Only one member is used")])
def test_one_vote_has_no_diversity(folder: PoolFolder, held: Labelled, made: int, used: int, why: str) -> None:
    members = tuple(replace(m, used=i < used, reason="weak") for i, m in enumerate(folder.pool.members[:made]))
    done = study(replace(folder, pool=replace(folder.pool, members=members)), held, floor=0.9)
    assert done.votes == () and done.left_out is not None and done.left_out.startswith(why)
    page = Page(report.html(done))
    assert done.left_out in page.text and page.tags.count("svg") == 1 and "effective votes" not in page.text


def test_a_report_that_could_not_be_written_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.check_pool_report(tmp_path / "pool.html", tmp_path / "POOL")
    for inside in (tmp_path / "POOL" / "pool.html", tmp_path / "x" / ".." / "POOL" / "members" / "pool.html"):
        with pytest.raises(UsageError, match="lies in the pool's own folder"):
            report.check_pool_report(inside, tmp_path / "POOL")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.html"):
        report.check_pool_report(tmp_path / "pool.pdf", tmp_path / "POOL")
    with pytest.raises(InputError, match="does not exist"):
        report.check_pool_report(tmp_path / "no" / "pool.html", tmp_path / "POOL")
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(MissingError, match=r"pip install 'pdtool\[evaluate\]'"):
        report.check_pool_report(tmp_path / "pool.html", tmp_path / "POOL")
