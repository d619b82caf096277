"""A frame, and where it came from without the secrets."""

import os
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from time import time
from typing import NamedTuple
from urllib.parse import unquote

from pdtool.devices.check import NAMED, USER, hide
from pdtool.errors import InputError
from pdtool.images import Images

__all__ = ["Address", "Frame", "Shot", "numbered"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of a source; `image` is None when there is no picture to trust, and `reason` says why."""

    index: int  # number within the source, those dropped or skipped included
    source: str  # redacted; a picture's path
    time: float  # Unix seconds at which it was read
    image: Images | None  # uint8 (H, W) or (H, W, C), or float32 (H, W, C) in [0, 1]
    reason: str | None
    live: bool  # should be screened at once: more may be long in coming
    dropped: int  # frames of a live source dropped since the one before


class Shot(NamedTuple):
    """What a reader gives for one frame, in the source's order."""

    source: str
    image: Images | None
    reason: str | None = None


def numbered(shots: Iterable[Shot], *, stride: int, live: bool) -> Generator[Frame, None, None]:
    """Every `stride`-th shot as a Frame; none is dropped."""
    for index, shot in enumerate(shots):
        if index % stride == 0:
            yield Frame(
                index=index,
                source=shot.source,
                time=time(),
                image=shot.image,
                reason=shot.reason,
                live=live,
                dropped=0,
            )


class Address:
    """A source as it is opened (`secret`) and as it may be shown (`str()`); `redact` is for texts of libraries.

    `${NAME}` is filled from the environment. Raises InputError for a variable that is not set.
    """

    def __init__(self, source: str) -> None:
        self._values: set[str] = set()
        self.secret = re.sub(r"\$\{(\w+)\}", self._fill, source)
        for inside in (*re.findall(r"^[\w+.-]+://(.*)@", self.secret), *re.findall(USER, self.secret)):
            user, _, password = inside.partition(":")  # greedy: a password may hold any character
            self._values |= {inside, user, password, unquote(password)}
        self._values |= {value for _, value in re.findall(NAMED, self.secret)}
        self._shown = hide(re.sub(r"^([\w+.-]+://).*@", r"\1***@", source))

    def _fill(self, match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise InputError(f"the source names ${{{match[1]}}}, which is not set in the environment; export it first")
        self._values.add(value)
        return value

    def __str__(self) -> str:
        return self._shown

    def redact(self, text: object) -> str:
        """The text on one line, without user names, passwords, tokens and filled-in values."""
        clean = str(text).replace(self.secret, self._shown)
        for value in sorted(self._values, key=len, reverse=True):
            clean = clean.replace(value, "***") if len(value) > 2 else clean
        return " ".join(hide(clean).split())
