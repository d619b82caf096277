"""The demo's parts: its command lines are real ones, its counts are those of the verdict lines."""

import errno
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pdtool.errors import GateError, InputError, PdtoolError, UsageError
from pdtool.evaluation import demo
from pdtool.evaluation.evaluate import evaluate_bundle
from pdtool.files import npz_bytes
from pdtool.runtime.screener import Screener


def test_every_command_knows_its_options(tmp_path: Path) -> None:
    """Each line gets as far as its missing input: no unknown option, no bad value (exit code 2)."""
    for line in demo.commands(tmp_path / "d", members=8, seed=1, force=True)[1:]:
        with pytest.raises(InputError, match="ended with exit code 3"):
            demo._run(line, "pdtool", subprocess.DEVNULL, quiet=True)


def test_a_failing_command_stops_the_demo_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ended with exit code 2"):
        demo._run(["train", "--nonsense"], "pdtool train", subprocess.DEVNULL, quiet=False)
    kinds = {kind.exit_code for kind in PdtoolError.__subclasses__()}
    assert {2, 3, 4, 5, 6, 7} <= kinds and GateError.exit_code == 5


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is not empty; choose another --out or add --force"):
        demo.run_demo(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        demo.run_demo(tmp_path / "mine.txt", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="d: cannot be written"):
        demo.run_demo(tmp_path / "file" / "d")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(InputError, match=r"d: cannot be written \(Read-only file system\)"):
        demo.run_demo(tmp_path / "d")


def test_stream_counts(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    evaluate_bundle(
        workshop / "bundle", workshop / "pool", "digits", ("fgsm:epsilon=0.1", "deepfool"), out=out, limit=60, seed=5
    )
    with np.load(out / "mixed.npz", allow_pickle=False) as stream:
        images, attack, labels = stream["images"], stream["attack"], stream["labels"]
    with Screener.open(workshop / "bundle", seed=5) as screener:
        verdicts = screener.screen(images)
        order = [member.macs for member in screener.residency.order]
        original, classes = screener.opened.bundle.original.macs, screener.opened.bundle.classes
    parts = {p.name: p for p in demo.count_stream(out / "mixed.npz", verdicts, workshop / "bundle", seed=5)}
    assert list(parts)[0] == "clean" and set(parts) == {"clean", "fgsm", "deepfool"}
    for name, part in parts.items():
        own = [i for i in range(len(attack)) if attack[i] == ("" if name == "clean" else name)]
        flagged = [i for i in own if verdicts[i].verdict == "adversarial"]
        right = [i for i in flagged if verdicts[i].corrected_label == classes[labels[i]]]
        assert part.frames == len(own) > 0
        assert (part.flagged.events, part.cleared.events) == (len(flagged), len(own) - len(flagged))
        assert (part.corrected.events, part.corrected.count) == (
            (0, 0) if name == "clean" else (len(right), len(flagged))
        )
        assert part.models_used == pytest.approx(np.mean([verdicts[i].models_used for i in own]))
        cost = [1 + sum(order[: verdicts[i].models_used]) / original for i in own]
        assert part.cost == pytest.approx(np.mean(cost))


def test_missing_verdicts_are_noticed(workshop: Path, tmp_path: Path) -> None:
    arrays = {"attack": np.array(["", "fgsm"]), "labels": np.array([0, 1]), "classes": np.array(["0", "1"])}
    (tmp_path / "mixed.npz").write_bytes(npz_bytes(arrays))
    with pytest.raises(InputError, match="has 2 frames but 0 verdicts"):
        demo.count_stream(tmp_path / "mixed.npz", [], workshop / "bundle", seed=0)
