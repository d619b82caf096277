"""Screen every picture of a folder with a calibrated bundle, on a machine without torch.

python examples/screen_images.py BUNDLE FOLDER
"""

import sys
from collections import Counter

from pdtool.runtime import Screener
from pdtool.runtime.sources import open_frames


def main() -> None:
    """Print one line a picture and a count of the verdicts."""
    bundle, folder = sys.argv[1:]
    counts: Counter[str] = Counter()
    with Screener.open(bundle, memory_budget="64MiB") as screener, open_frames(folder) as frames:
        for verdict in screener.screen_frames(frames):
            counts[verdict.verdict] += 1
            print(verdict.verdict, verdict.label, verdict.source, verdict.reason or "")
    print(dict(counts))


if __name__ == "__main__":
    main()
