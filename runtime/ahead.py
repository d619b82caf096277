"""Load one engine on a thread of its own while others run."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pdtool.artifacts import BundleModel
from pdtool.runtime.engine import Engine

__all__ = ["Ahead"]

LOG = logging.getLogger(__name__)


class Ahead:
    """At most one load under way. Whoever starts it has reserved its memory before."""

    def __init__(self, load: Callable[[BundleModel], Engine]) -> None:
        self._load = load
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: tuple[BundleModel, Future[Engine]] | None = None

    @property
    def model(self) -> BundleModel | None:
        """What is being loaded, or is loaded and was not taken yet."""
        return self._under_way[0] if self._under_way is not None else None

    def start(self, model: BundleModel) -> None:
        """Begin to load."""
        assert self._under_way is None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="pdtool-load")
        self._under_way = model, self._thread.submit(self._load, model)

    def take(self) -> Engine | None:
        """The engine, waited for; None where loading it failed: whoever needs it loads it again and sees the error."""
        assert self._under_way is not None
        engine: Engine | None = None
        try:
            engine = self._under_way[1].result()
        except Exception:  # also one that is a bug: the next load shows it
            LOG.debug("loading %s ahead failed", self._under_way[0].id, exc_info=True)
        self._under_way = None  # not before: a wait that Ctrl-C ends is gone on with when it is closed
        return engine

    def close(self) -> None:
        """Wait for what is under way, close it and end the thread."""
        if self._under_way is not None and (engine := self.take()) is not None:
            engine.close()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
