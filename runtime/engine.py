"""What a loaded model must be able to do, whatever runs it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine"]


class Engine(Protocol):
    """One loaded model. `close` gives its memory back; a closed engine cannot run again."""

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, classes) of a batch (N, C, H, W) of pixels in [0, 1]."""
        ...

    def close(self) -> None:
        """Give everything back; closing twice does nothing."""
        ...
