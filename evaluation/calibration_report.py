"""A calibration as one self-contained HTML page."""

from pathlib import Path

from pdtool.runtime.calibrate import Calibrated

__all__ = ["check_report", "write_report"]


def check_report(out: Path) -> None:
    """Refuse a file that could not be written, before anything is measured."""


def write_report(out: Path, done: Calibrated, *, seed: int, fps: float) -> None:
    """Write the page."""
