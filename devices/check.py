"""One line of the doctor's report, and what keeps private things out of it."""

import os
import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "State", "redact"]

State = Literal["ok", "missing", "broken", "info"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: what was looked at, what came, and for anything not in order the way to put it right."""

    group: str
    name: str
    state: State
    detail: str
    fix: str | None = None
    base: bool = False  # pdtool does not work without it


def redact(text: str) -> str:
    """`text` without home folders, the user's name and credentials in addresses.

    >>> redact("rtsp://admin:secret@10.0.0.5/stream in /home/alice/pools")
    'rtsp://***@10.0.0.5/stream in ~/pools'
    """
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", text)
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = text.replace(home, "~")
    text = re.sub(r"/(?:home|Users)/[^/\s:'\"]+", "~", text)
    user = os.environ.get("USER", "")
    return re.sub(rf"\b{re.escape(user)}\b", "<user>", text) if len(user) > 1 and user != "root" else text
