"""One line of the doctor's report, and what keeps private things out of it."""

import os
import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["NAMED", "USER", "Check", "State", "hide", "redact"]

USER = r"(?<=://)[^\s'\"]*(?=@)"  # to the last @: a password may hold any character
NAMED = (
    r"(?i)\b(pass(?:word|wd)?|pwd|user-pw|user-id|token|secret|(?:api|access)?[-_]?key|sig(?:nature)?|auth)"
    r"=([^&\s'\"]+)"
)

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


def hide(text: str) -> str:
    """Without what stands between :// and @, and without the values of what is named like a secret.

    >>> hide("rtsp://admin:sec/ret@10.0.0.5/stream?token=abc")
    'rtsp://***@10.0.0.5/stream?token=***'
    """
    return re.sub(NAMED, r"\1=***", re.sub(USER, "***", text))


def redact(text: str) -> str:
    """`text` without home folders, the user's name and secrets.

    >>> redact("rtsp://admin:secret@10.0.0.5/stream in /home/alice/pools")
    'rtsp://***@10.0.0.5/stream in ~/pools'
    """
    text = hide(text)
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = text.replace(home, "~")
    text = re.sub(r"/(?:home|Users)/[^/\s:'\"]+", "~", text)
    user = os.environ.get("USER", "")
    return re.sub(rf"\b{re.escape(user)}\b", "<user>", text) if len(user) > 1 and user != "root" else text
