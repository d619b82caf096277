"""Where a bundle's plans are looked for and put: the bundle, and a temporary folder where that cannot be written."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pdtool.errors import InputError
from pdtool.files import write_atomic, write_error
from pdtool.runtime.bundle import pretty
from pdtool.runtime.plans import EngineKey, PlanRecord, find_plan

__all__ = ["PlanCache", "store_plan"]


class PlanCache:
    """The plans of the bundle in `folder`; `note` is told of those that the disk refuses.

    They lie in a temporary folder until `close`, so that a bundle on a read-only disk is built once a process.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = lambda text: None) -> None:
        self._folder, self._note = folder, note
        self._spare: tempfile.TemporaryDirectory[str] | None = None

    def find(self, model: str, key: EngineKey) -> tuple[PlanRecord, bytes] | None:
        """As `find_plan`: in the bundle, then in the temporary folder."""
        found = find_plan(self._folder, model, key)
        if found is None and self._spare is not None:
            found = find_plan(Path(self._spare.name), model, key)
        return found

    def store(self, record: PlanRecord, plan: bytes) -> None:
        """Put a plan and its record there. Raises InputError where no disk takes it."""
        try:
            store_plan(self._folder, record, plan)
        except InputError as error:
            self._note(f"the plan of {record.model} is kept for this run alone: {error}")
            try:
                self._spare = self._spare or tempfile.TemporaryDirectory(prefix="pdtool-plans-")
            except OSError as refused:
                raise write_error(Path("the folder of temporary files"), refused) from refused
            store_plan(Path(self._spare.name), record, plan)

    def renew(self, record: PlanRecord) -> None:
        """Replace the record of a plan in the bundle; a disk that refuses leaves the old one, which is no harm."""
        with suppress(InputError):
            write_atomic((self._folder / record.plan.path).with_suffix(".json"), pretty(record))

    def close(self) -> None:
        """Remove the temporary folder."""
        if self._spare is not None:
            self._spare.cleanup()
            self._spare = None

    def __enter__(self) -> "PlanCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def store_plan(folder: Path, record: PlanRecord, plan: bytes) -> None:
    """Put a plan into a bundle's folder: the plan, then its record. Raises InputError where the disk refuses."""
    path = folder / record.plan.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
    write_atomic(path, plan)
    write_atomic(path.with_suffix(".json"), pretty(record))
