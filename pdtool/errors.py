"""Every error that pdtool raises on purpose.

    PdtoolError            something the user can put right; the command line prints it as one line
    ├── UsageError         2  the call itself makes no sense (a bad option value)
    ├── InputError         3  data, weights, configuration, pool or bundle cannot be used
    ├── MissingError       4  an optional package or a piece of hardware is not here
    ├── GateError          5  a promise cannot be kept (accuracy floor, false alarms, memory budget)
    ├── SourceLostError    6  a live source of frames went away
    └── IntegrityError     7  a file is not the one that was written (size, hash, digest)

A message says what was expected, what came and what to do. Want of memory is Python's own MemoryError, and the
command line ends with one line and 5. Anything else that escapes is a bug and keeps its traceback (exit code 1).
"""

__all__ = [
    "GateError",
    "InputError",
    "IntegrityError",
    "MissingError",
    "PdtoolError",
    "SourceLostError",
    "UsageError",
]


class PdtoolError(Exception):
    """Base of the tree; `exit_code` is the process's exit code when the error reaches the command line."""

    exit_code = 1


class UsageError(PdtoolError):
    """The call itself makes no sense: an unknown name, a value out of range."""

    exit_code = 2


class InputError(PdtoolError):
    """Data, weights, configuration, pool or bundle cannot be read or do not fit together."""

    exit_code = 3


class MissingError(PdtoolError):
    """An optional package or a piece of hardware is missing; the message names the command that installs it."""

    exit_code = 4


class GateError(PdtoolError):
    """A promise cannot be kept: accuracy floor, false-alarm target, memory budget."""

    exit_code = 5


class SourceLostError(PdtoolError):
    """A live source stopped delivering frames."""

    exit_code = 6


class IntegrityError(PdtoolError):
    """A file's size, hash or digest is not the recorded one."""

    exit_code = 7
