"""Shared by all tests: one thread a process (pytest runs one process a core), and where the real data is."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
