"""What a loaded model must be able to do, whatever runs it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine"]


class Engine(Protocol):
    """One loaded model. `close` gives its memory back; a closed engine cannot run again.

    What loading it is said to take stands in its `BundleModel` (`resident_bytes`, `load_peak_bytes`, `run_bytes`).
    """

    @property
    def measured_bytes(self) -> int | None:
        """What loading it took, where the engine itself can say; None: measure the process."""
        ...

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, classes) of a batch (N, C, H, W) of pixels in [0, 1]; of a pack, those of its members side by
        side. Raises InputError for a batch of another shape or type, MemoryError where there is not enough memory."""
        ...

    def close(self) -> None:
        """Give everything back; closing twice does nothing."""
        ...
