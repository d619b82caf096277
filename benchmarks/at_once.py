"""Whether members made at once are made sooner: wall time of a small pool, in one process and by workers.

    python benchmarks/at_once.py WEIGHTS TRAIN OUT [--members 4] [--epochs 1] [--train-on cpu] [--workers 1 2 4]

Each row is a command of its own, with torch's own choice of threads in one process and the cores divided among the
workers. On a GPU all workers share it where there is one.
"""

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("train")
    parser.add_argument("out", type=Path)
    parser.add_argument("--members", default="4")
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--train-on", default="cpu")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    command = [
        "pdtool",
        "compress",
        "--weights",
        options.weights,
        "--data",
        options.train,
        "--max-drop",
        "1",
        "--recipe",
        "paper",
    ]
    command += ["--members", options.members, "--epochs", options.epochs, "--train-on", options.train_on]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    print("| made by | seconds | against one process |\n|---|--:|--:|")
    alone = 0.0
    if options.out.exists():
        raise SystemExit(f"{options.out} exists: this makes and deletes pools there, give a new folder")
    for workers in (0, *options.workers):
        shutil.rmtree(options.out, ignore_errors=True)
        cluster = ["--cluster", f"local:{workers}"] if workers else []
        begun = time.perf_counter()
        line = [*command, *cluster, "--quiet", "--json", "--out", str(options.out)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.perf_counter() - begun
        alone = alone or seconds
        name = f"`--cluster local:{workers}`" if workers else "one process"
        print(f"| {name} | {seconds:.1f} | {seconds / alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
