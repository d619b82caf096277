"""The frames behind an evaluation's figures, as pictures: attacked ones with the change that fooled the original."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtool.evaluation.chosen import evenly
from pdtool.evaluation.pictures import png_data_uri
from pdtool.evaluation.screening import Screened, fooled
from pdtool.images import Images, as_input

__all__ = ["Evidence", "Gallery", "galleries"]

SHOWN = 4  # attacked frames a gallery
SHOWN_CLEAN = 5


@dataclass(frozen=True)
class Evidence:
    """The frames behind the numbers: the clean set and one set an attack, and the class names."""

    clean: Screened
    attacked: tuple[Screened, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Card:
    """One frame as it is drawn; `clean` and `change` are absent for a clean frame."""

    picture: str
    clean: str | None
    change: str | None
    enlarged: float | None
    index: int
    truth: str
    label: str
    verdict: str
    error: str  # "missed" or "false alarm", "" where the verdict is right
    corrected: str | None
    right: bool
    changes: int
    used: int


@dataclass(frozen=True)
class Gallery:
    """A few frames of one kind."""

    title: str
    note: str
    cards: tuple[_Card, ...]


def galleries(evidence: Evidence, called: Mapping[str, str]) -> Iterator[Gallery]:
    """A few frames of each kind, evenly over the data, attack by attack, each by what it is `called`.

    Kinds without frames have none.
    """
    clean, classes = evidence.clean, evidence.classes
    clean_at = {int(source): i for i, source in enumerate(clean.source)}
    for a in evidence.attacked:
        won = fooled(a, clean)
        for title, chosen in (
            (f"{called[a.name]}: flagged", won & a.flagged),
            (f"{called[a.name]}: missed", won & ~a.flagged),
        ):
            cards = [_card(a, i, classes, clean.images[clean_at[int(a.source[i])]]) for i in _some(chosen, SHOWN)]
            note = f"{int(chosen.sum())} of the {int(won.sum())} attacked frames that fool the original"
            yield Gallery(title, note, tuple(cards))
    right, wrong = ~clean.wrong, clean.wrong
    for title, chosen, among, what in (
        ("Clean: cleared", right & ~clean.flagged, right, "clean frames that the original classifies correctly"),
        ("Clean: false alarms", right & clean.flagged, right, "clean frames that the original classifies correctly"),
        (
            "Clean, but misclassified: flagged",
            wrong & clean.flagged,
            wrong,
            "clean frames that the original gets wrong",
        ),
    ):
        cards = [_card(clean, i, classes, None) for i in _some(chosen, SHOWN_CLEAN)]
        yield Gallery(title, f"{int(chosen.sum())} of the {int(among.sum())} {what}", tuple(cards))


def _some(chosen: NDArray[np.bool_], most: int) -> list[int]:
    places = np.flatnonzero(chosen)
    return [int(i) for i in places[evenly(len(places), most)]]


def _card(frames: Screened, i: int, classes: tuple[str, ...], clean: Images | None) -> _Card:
    verdict = frames.verdicts[i]
    cleared, flagged = verdict.verdict == "clean", verdict.verdict == "adversarial"
    image = _unit(frames.images[i])
    before = change = None
    enlarged = None
    if clean is not None:
        difference = image - _unit(clean)
        enlarged = 0.5 / max(float(np.abs(difference).max()), 1e-9)
        before, change = _picture(_unit(clean)), _picture(0.5 + enlarged * difference)
    return _Card(
        picture=_picture(image),
        clean=before,
        change=change,
        enlarged=enlarged,
        index=int(frames.source[i]),
        truth=classes[int(frames.truth[i])],
        label=verdict.label or "-",
        verdict=verdict.verdict,
        error="missed" if frames.wrong[i] and cleared else "false alarm" if not frames.wrong[i] and flagged else "",
        corrected=verdict.corrected_label,
        right=verdict.corrected_label == classes[int(frames.truth[i])],
        changes=verdict.changes,
        used=verdict.models_used,
    )


def _unit(image: Images) -> NDArray[np.float32]:
    """A picture (H, W, C) as float32 in [0, 1], as the models see it."""
    return np.moveaxis(as_input(image[None])[0], 0, 2)


def _picture(image: NDArray[np.float32]) -> str:
    return png_data_uri(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
