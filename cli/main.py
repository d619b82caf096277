"""`pdtool`: registers the commands and turns errors into one line and an exit code."""

import errno
import logging
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

import pdtool
from pdtool.cli import (
    bundle,
    calibrate,
    compress,
    demo,
    devices,
    doctor,
    evaluate,
    export,
    profile,
    screen,
    train,
)
from pdtool.cli.output import note
from pdtool.devices.memory import keep_few_kernels
from pdtool.errors import GateError, InputError, PdtoolError
from pdtool.extras import missing

# Newer typers carry their own click: take the base of usage errors from the class that typer itself hands out.
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

STOPPED = 130  # exit code after Ctrl-C

app = typer.Typer(
    name="pdtool",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Screen a camera's frames for adversarial inputs with a pool of pruned copies of the classifier.",
)


def _version(value: bool) -> None:
    if value:
        print(f"pdtool {pdtool.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


app.command("train")(train.train)
app.command("compress")(compress.compress)
app.command("export")(export.export)
app.command("calibrate")(calibrate.calibrate)
app.command("screen")(screen.screen)
app.command("profile")(profile.profile)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(devices.app, name="devices")
app.add_typer(bundle.app, name="bundle")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


def main() -> NoReturn:
    """Run the command; exit codes are those of `pdtool.errors`, 130 after Ctrl-C, 143 after SIGTERM, 1 for a bug."""
    signal.signal(signal.SIGTERM, _terminate)
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process
    # Threads that wait for each other must not spin: on two cores with one other busy process, training LeNet-5 took
    # 180 s with torch's spinning threads and 14 s with sleeping ones. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_few_kernels()
    logging.getLogger("pdtool").addHandler(_Notes())
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # typer's own answer to Ctrl-C in a command
            raise KeyboardInterrupt
        sys.stdout.flush()
    except _ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("pdtool: stopped", file=sys.stderr)
        code = STOPPED
    except BrokenPipeError:  # the reader of stdout went away: `pdtool screen ... | head`
        _drop_stdout()
        code = 141
    except OSError as error:
        if not _stdout_refuses(error):
            raise
        print(f"pdtool: stdout cannot be written ({error.strerror}); free space or send it elsewhere", file=sys.stderr)
        _drop_stdout()
        code = InputError.exit_code
    except ModuleNotFoundError as error:  # rooms of the workstation side import torch at their top
        print(f"pdtool: {(known := _known(error))}", file=sys.stderr)
        code = known.exit_code
    except PdtoolError as error:
        print(f"pdtool: {error}", file=sys.stderr)
        code = error.exit_code
    except MemoryError as error:  # of the host or a GPU; its words say which, where it has any
        said = " ".join(str(error).split()) or "not enough memory; close other programs or take smaller batches"
        print(f"pdtool: {said}", file=sys.stderr)
        code = GateError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _stdout_refuses(error: OSError) -> bool:
    """Whether an error came from stdout: it fails again. With PYTHONUNBUFFERED nothing waits there, so try a byte."""
    try:
        sys.stdout.flush()
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def _drop_stdout() -> None:
    """Let what is still waiting go nowhere: writing it at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Notes(logging.Handler):
    """What rooms log (skipped pictures, for one) as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def _known(error: ModuleNotFoundError) -> PdtoolError:
    known = missing(error, "do this")
    if isinstance(known, PdtoolError):
        return known
    raise error


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds, so that half-written output is removed


if __name__ == "__main__":
    main()
