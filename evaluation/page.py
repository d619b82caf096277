"""What reports that are one HTML page share: the check before anything is measured, the template and its filters."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from pdtool.errors import InputError, UsageError
from pdtool.extras import require
from pdtool.wording import number, percent

__all__ = ["check_report", "render", "whole"]


def check_report(out: Path) -> None:
    """Refuse a file that could not be written, before anything is measured.

    Raises UsageError (the name), InputError (the place), MissingError (jinja2 or matplotlib is not installed).
    """
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"--report {out}: expected a name that ends in .html")
    if not out.parent.is_dir():
        raise InputError(f"--report {out}: the folder {out.parent} does not exist; make it or choose another")
    if out.is_dir():
        raise InputError(f"--report {out}: is a folder; give a file in it")
    require("jinja2", "write an HTML report")
    require("matplotlib", "draw the plots of a report")


def render(template: str, **values: object) -> str:
    """The page of a template beside this file: no script, nothing fetched, the same values, the same bytes.

    Values are escaped unless the template says `| safe`. Raises MissingError.
    """
    jinja2 = require("jinja2", "write an HTML report")
    environment: Any = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files("pdtool.evaluation") / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, whole=whole)
    page: str = environment.get_template(template).render(**values)
    return page


def whole(text: str) -> str:
    """No line ends before a percent sign."""
    return text.replace(" %", "\u00a0%")
