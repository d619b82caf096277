"""Bundle and frames to verdicts. Never imports torch."""

from pdtool.decisions import Verdict
from pdtool.runtime.screener import Screener

__all__ = ["Screener", "Verdict"]
