"""The adaptive study on a real bundle: counts are those of the verdicts, knowledge helps, a stopped run goes on."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pdtool.calibration.rules import Settings
from pdtool.cli.main import app
from pdtool.compress.folder import open_pool
from pdtool.data import load_data
from pdtool.errors import InputError, UsageError
from pdtool.evaluation import adaptive_cells
from pdtool.evaluation.adaptive import adaptive_study
from pdtool.evaluation.adaptive_features import FEATURES
from pdtool.evaluation.adaptive_plan import Plan
from pdtool.evaluation.adaptive_report import markdown_page, summary
from pdtool.evaluation.adaptive_results import AdaptiveResult, Cell
from pdtool.evaluation.attacked import read_attacked
from pdtool.images import Images, as_input
from pdtool.jsonform import decode, parse
from pdtool.runtime.calibrate import calibrate_bundle
from pdtool.runtime.screener import Screener

LIMIT, SEED = 24, 3
PLAN = Plan(epsilons=(32 / 255, 1.0), steps=10, queries=25)
SMALL = Plan(threats=("oblivious", "full"), epsilons=(0.2,), steps=3, targets=1)


@pytest.fixture(scope="module")
def surrogates(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of the attacker's own, of the same weights."""
    folder = tmp_path_factory.mktemp("surrogates") / "pool"
    weights = str(workshop / "weights.safetensors")
    made = ["--data", "digits", "--members", "2", "--seed", "7", "--out", str(folder), "--quiet"]
    app(["compress", "--recipe", "paper", "--weights", weights, *made], standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def studied(workshop: Path, surrogates: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdaptiveResult]:
    out = tmp_path_factory.mktemp("adaptive") / "out"
    bundle, pool = workshop / "bundle", workshop / "pool"
    result = adaptive_study(bundle, pool, "digits", PLAN, out=out, surrogates=surrogates, limit=LIMIT, seed=SEED)
    return out, result


def _cell(result: AdaptiveResult, threat: str, epsilon: float, surrogates: int | None = None) -> Cell:
    wanted = (threat, surrogates, epsilon)
    return next(cell for cell in result.cells if (cell.threat, cell.surrogates, cell.epsilon) == wanted)


def test_the_folder_holds_the_result_and_every_cells_images(studied: tuple[Path, AdaptiveResult]) -> None:
    out, result = studied
    assert decode(AdaptiveResult, parse((out / "adaptive.json").read_bytes(), file="a"), file="a") == result
    files = {cell.file.path for cell in result.cells}
    files |= {d.file.path for d in (*result.disturbances, *result.fewer) if d.file}
    assert files == {path.name for path in (out / "cells").iterdir() if path.suffix == ".npz"}
    threats = {(curve.threat, curve.surrogates) for curve in result.curves}
    assert threats == {
        ("oblivious", None), ("surrogates", 1), ("surrogates", 2), ("stolen", None), ("full", None), ("decision", None),
    }  # fmt: skip


def test_what_counts_is_what_the_screener_says_of_the_stored_images(
    studied: tuple[Path, AdaptiveResult], workshop: Path
) -> None:
    out, result = studied
    own = [cell for cell in result.cells if cell.threat == "surrogates"]
    assert own and all(cell.attempts == result.targets + len(FEATURES) for cell in own)  # classes, and middle layers
    clean = as_input(load_data("digits", (1, 32, 32), role="test", limit=LIMIT).images)
    some = 0
    with Screener.open(workshop / "bundle", seed=SEED) as screener:
        classes = screener.opened.bundle.classes
        for cell in result.cells:
            stored = read_attacked(out / "cells" / cell.file.path)
            change = np.abs(np.moveaxis(stored.images, 3, 1) - clean[stored.source]).max(axis=(1, 2, 3))
            verdicts = screener.screen(stored.images)
            wrong = np.array([classes.index(v.label or "") for v in verdicts]) != stored.labels
            evades = wrong & np.array([v.verdict == "clean" for v in verdicts])
            if cell.threat == "decision":  # one file for all epsilons
                evades, wrong = evades & (change <= cell.epsilon), wrong & (change <= cell.epsilon)
            else:
                assert change.max() <= cell.epsilon + 1e-6
            assert stored.images.min() >= 0 and stored.images.max() <= 1
            assert cell.attacked == len(stored) == result.attacked
            assert (cell.evasion.events, cell.evasion.count) == (evades.sum(), len(stored))
            assert cell.fooled.events == wrong.sum()
            assert list(cell.evaded) == stored.source[evades].tolist()
            some += int(evades.sum())
    assert some > 50


def test_who_knows_more_evades_more_and_the_attacks_work(studied: tuple[Path, AdaptiveResult]) -> None:
    _, result = studied
    oblivious, stolen, full = (_cell(result, name, 32 / 255) for name in ("oblivious", "stolen", "full"))
    assert full.evasion.events > oblivious.evasion.events
    assert stolen.evasion.events > oblivious.evasion.events
    assert _cell(result, "stolen", 1.0).evasion.share == _cell(result, "full", 1.0).evasion.share == 1.0
    assert all(check.holds for check in result.checks), [check for check in result.checks if not check.holds]
    names = {check.name for check in result.checks}
    assert {"full: more steps are not weaker", "random noise fails", "full: unbounded reaches 95 %"} <= names
    assert {f"{threat}: one more restart adds at most 5 %" for threat in ("stolen", "full")} <= names
    assert {f"{goal}: more than of clean frames" for goal in ("alarm", "delay")} <= names
    assert {f"{goal}: more steps are not weaker" for goal in ("alarm", "delay")} <= names
    again = [cell for cell in result.cells if cell.again]
    assert {(cell.threat, cell.steps) for cell in again} == {("stolen", PLAN.steps), ("full", PLAN.steps)}
    assert result.targets == 2 and result.at_once == min(8, result.target.members)
    for curve in result.curves:
        events = [each.events for each in curve.within]
        assert events == sorted(events)
        assert all(w.events >= e.events for w, e in zip(curve.within, curve.evasion, strict=True))


def test_disturbed_frames_keep_their_label(studied: tuple[Path, AdaptiveResult], workshop: Path) -> None:
    out, result = studied
    clean = result.disturbances[0]
    assert clean.goal is None and clean.kept.share == 1.0
    assert {d.goal for d in result.disturbances[1:]} == {"alarm", "delay"}
    original = open_pool(workshop / "pool").original()
    for disturbed in result.disturbances[1:]:
        assert disturbed.file is not None
        stored = read_attacked(out / "cells" / disturbed.file.path)
        with torch.no_grad():
            said = original(torch.from_numpy(as_input(stored.images))).argmax(1).numpy()
        assert (said == stored.labels).all() and disturbed.kept.share == 1.0
        assert stored.linf.max() <= disturbed.epsilon + 1e-6
        with Screener.open(workshop / "bundle", seed=SEED) as screener:
            verdicts = screener.screen(stored.images)
            names = screener.opened.bundle.classes
        kept = np.array([names.index(v.label or "") for v in verdicts]) == stored.labels
        flagged = np.array([v.verdict == "adversarial" for v in verdicts])
        assert (disturbed.kept.events, disturbed.kept.count) == (kept.sum(), result.attacked)
        assert (disturbed.flagged.events, disturbed.flagged.count) == ((kept & flagged).sum(), result.attacked)
        assert disturbed.models_used.count == kept.sum()
    alarm, delay = (next(d for d in result.disturbances if d.goal == goal) for goal in ("alarm", "delay"))
    assert alarm.flagged.events > clean.flagged.events + 5
    more, usual = delay.models_used.value, clean.models_used.value
    assert more is not None and usual is not None
    assert more > usual or (delay.share == 0 and more == usual)  # the table asks most of frames on which all agree


def test_the_reports_say_what_was_measured(studied: tuple[Path, AdaptiveResult]) -> None:
    out, result = studied
    full = next(curve for curve in result.curves if curve.threat == "full")
    markdown, page = ((out / name).read_text() for name in ("adaptive.md", "adaptive.html"))
    share = f"{100 * (full.within[0].share or 0):.1f} %"
    assert f"| T3 full | {share} | 100.0 % |" in markdown
    assert page.count("<svg") >= 3 and "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    for text in (markdown, page):
        assert "T1 surrogates, K = 2" in text and "knows members, order and decision table" in text
        assert "keeps the label and wants false alarms, or delay" in text


def test_a_check_that_fails_is_said_first(studied: tuple[Path, AdaptiveResult]) -> None:
    result = studied[1]
    plain = tuple(dataclasses.replace(check, empty=None) for check in result.checks)
    held = dataclasses.replace(result, checks=plain)
    assert summary(held)[-1] == f"All {len(plain)} checks of the attacks hold."
    nothing = dataclasses.replace(plain[0], empty="no success")
    held = dataclasses.replace(result, checks=(nothing, *plain[1:]))
    assert summary(held)[-1].endswith("checks of the attacks hold, 1 of them without telling anything.")
    assert f"| {plain[0].name} | no success |" in markdown_page(held)
    checks = (dataclasses.replace(plain[0], holds=False), *plain[1:])
    failing = dataclasses.replace(result, checks=checks)
    assert summary(failing)[0] == f"Checks of the attacks that FAIL: {checks[0].name}."
    assert f"| {checks[0].name} | NO |" in markdown_page(failing)


class _Task:
    def __init__(self, said: list[str], stop: int | None) -> None:
        self.said, self.stop = said, stop

    def advance(self, steps: int = 1) -> None:
        if self.stop is not None and len(self.said) == self.stop:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.said.append(text)


def _study(
    workshop: Path,
    out: Path,
    *,
    stop: int | None = None,
    seed: int = SEED,
    force: bool = False,
    drop: bool = False,
    plan: Plan = SMALL,
    own: Path | None = None,
) -> list[str]:
    """The small plan's study; what it said. `stop`: Ctrl-C within the cell after so many finished ones."""
    said: list[str] = []

    @contextmanager
    def watch(label: str, total: int | None) -> Iterator[_Task]:
        yield _Task(said, stop)

    bundle, pool = workshop / "bundle", workshop / "pool"
    adaptive_study(
        bundle, pool, "digits", plan,
        out=out, surrogates=own, limit=12, seed=seed, force=force, drop=drop, watch=watch,
    )  # fmt: skip
    return said


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(workshop: Path, tmp_path: Path) -> None:
    whole = _study(workshop, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _study(workshop, tmp_path / "stopped", stop=2)
    left = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert left == {"cells"} and len(list((tmp_path / "stopped" / "cells").glob("*.json"))) == 2
    rest = _study(workshop, tmp_path / "stopped")
    assert rest == whole[2:] and len(rest) == len(whole) - 2
    assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "whole")
    damaged = next((tmp_path / "stopped" / "cells").glob("full-*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert len(_study(workshop, tmp_path / "stopped", force=True)) == 1  # that cell alone is made again
    assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "whole")


def test_cells_are_deleted_on_demand_alone_and_nothing_else_is(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = _study(workshop, out)
    before = _bytes(out / "cells")
    mine = {"notes.txt": b"a", "full-3-3-0123456789ab.txt": b"b", "below/full-3-3-0123456789ab.npz": b"c"}
    (out / "cells" / "below").mkdir()
    (out / "cells" / "full-3-0123456789ab.npz").mkdir()
    for name, content in mine.items():
        (out / "cells" / name).write_bytes(content)
    _study(workshop, out, seed=SEED + 1, force=True)
    assert (before | mine).items() <= _bytes(out / "cells").items()
    assert _study(workshop, out, force=True) == []  # those of the first seed are still there
    _study(workshop, out, force=True, drop=True)
    assert _bytes(out / "cells") == before | mine and len(before) == 2 * len(first)


def test_cells_are_made_again_where_what_they_depend_on_changes_and_only_then(
    workshop: Path, surrogates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plan = Plan(threats=("oblivious", "surrogates"), epsilons=(0.2,), steps=2, targets=1)
    assert _study(workshop, out, plan=dataclasses.replace(plan, threats=("oblivious",)))
    added = _study(workshop, out, force=True, plan=plan, own=surrogates)
    assert added and all(line.startswith("surrogates") for line in added)
    names = {path.name for path in adaptive_cells.code_files()}
    assert {"adaptive_full.py", "adaptive_descent.py", "adaptive_stage.py", "table.py", "screener.py"} <= names
    assert "adaptive_report.py" not in names and all(path.is_file() for path in adaptive_cells.code_files())
    changed = tmp_path / "changed.py"
    changed.write_text("other code")
    monkeypatch.setattr(adaptive_cells, "code_files", lambda: (changed,))
    adaptive_cells._code.cache_clear()
    try:
        again = _study(workshop, out, force=True, plan=plan, own=surrogates)
    finally:
        adaptive_cells._code.cache_clear()
    assert len(again) == 6  # noise, oblivious twice; one and two surrogates, and with fewer steps


def test_decision_only_needs_no_gradients(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    screen = Screener.screen

    def counted(self: Screener, images: Images, *, source: str = "memory") -> object:
        asked.append(len(images))
        return screen(self, images, source=source)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a gradient was asked for")

    monkeypatch.setattr(Screener, "screen", counted)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    plan = Plan(threats=("decision",), epsilons=(0.5, 1.0), queries=20)
    result = adaptive_study(
        workshop / "bundle", workshop / "pool", "digits", plan, out=tmp_path / "out", limit=10, seed=SEED
    )
    (near, far) = (cell for cell in result.cells if cell.threat == "decision")
    assert near.spent.value is not None
    assert sum(asked) == round(near.spent.value * result.attacked) + result.attacked  # and verdicts on what was found
    assert {check.name for check in result.checks} == set()
    assert summary(result)[-1] == "No check of the attacks was made."
    assert "Do the attacks work?" not in markdown_page(result)
    assert sum(asked[: plan.queries]) >= round(near.spent.value * result.attacked)
    assert 0 < far.evasion.events <= result.attacked and near.evasion.events <= far.evasion.events
    assert far.queries.value is not None and 1 <= far.queries.value <= plan.queries


def test_graded_evidence_is_evaded_too(workshop: Path, bundle: Path, tmp_path: Path) -> None:
    calibrate_bundle(
        bundle,
        lambda size: load_data("digits", size, role="calibrate"),
        Settings(evidence="graded"),
        target_fpr=0.15,
        confidence=0.95,
        seed=0,
    )
    plan = Plan(threats=("full",), epsilons=(64 / 255,), steps=20, targets=1)
    result = adaptive_study(bundle, workshop / "pool", "digits", plan, out=tmp_path / "out", limit=12, seed=SEED)
    assert result.target.evidence == "graded" and result.targets == 1
    assert (_cell(result, "full", 64 / 255).evasion.share or 0) > 0.8


def test_what_cannot_be_studied_is_refused(
    studied: tuple[Path, AdaptiveResult], workshop: Path, surrogates: Path, tmp_path: Path
) -> None:
    def study(plan: Plan = SMALL, *, out: Path = tmp_path / "out", own: Path | None = None) -> None:
        adaptive_study(workshop / "bundle", workshop / "pool", "digits", plan, out=out, surrogates=own, limit=12)

    with pytest.raises(UsageError, match="needs a pool of their own; add --surrogates POOL"):
        study(Plan(threats=("surrogates",)))
    with pytest.raises(UsageError, match="the threats leave out surrogates"):
        study(own=surrogates)
    with pytest.raises(InputError, match="exists already; choose another --out or add --force"):
        study(out=studied[0])
    with pytest.raises(InputError, match="holds members of .* itself; surrogates are made with another --seed"):
        study(Plan(threats=("surrogates",)), own=workshop / "pool")
    other = Path(shutil.copytree(surrogates, tmp_path / "other"))
    document = json.loads((other / "pool.json").read_text())
    document["original"]["file"]["sha256"] = "0" * 64
    (other / "pool.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="were not made of the original of"):
        study(Plan(threats=("surrogates",)), own=other)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("keep")
    with pytest.raises(InputError, match="holds 'letter.txt', which this command did not write"):
        study(out=mine)
    assert {path.name for path in mine.iterdir()} == {"letter.txt"} and not (tmp_path / "out").exists()
