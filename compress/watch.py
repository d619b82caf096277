"""How a long task tells whoever started it what it is doing, without knowing about terminals."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Steps", "Watch", "silent"]


class Steps(Protocol):
    """A task under way."""

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as finished."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Watch(Protocol):
    """Opens a task of `total` steps."""

    def __call__(self, label: str, total: int | None) -> AbstractContextManager[Steps]:
        """The task's steps."""


class _Silent:
    def advance(self, steps: int = 1) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


@contextmanager
def silent(label: str, total: int | None) -> Iterator[Steps]:
    """A task that nobody watches."""
    yield _Silent()
