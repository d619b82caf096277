"""Bundle and frames to verdicts. Never imports torch."""

from pdtool.artifacts import Verdict
from pdtool.runtime.screener import Screener

__all__ = ["Screener", "Verdict"]
