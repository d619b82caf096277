"""`pdtool doctor`: what is here, what is missing, and what to do about it."""

import typer

from pdtool.cli import options
from pdtool.cli.output import emit
from pdtool.errors import MissingError


def doctor(json: options.Json = False) -> None:
    """Check system, packages, GPU and cameras, and say how to fix what is not in order. Paste-safe."""
    from pdtool.devices.checkup import check_up

    checkup = check_up()
    if json:
        emit(checkup)
    else:
        group = ""
        for check in checkup.checks:
            if check.group != group:
                group = check.group
                typer.echo(group)
            state = "" if check.state == "info" else check.state
            fix = f"; fix: {check.fix}" if check.fix else ""
            typer.echo(f"  {state:<8} {check.name}: {check.detail}{fix}")
    if checkup.failed:
        first = checkup.failed[0]
        raise MissingError(f"{first.name} does not work here ({first.detail}); {first.fix}")
