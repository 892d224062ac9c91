"""Workers of pytest-xdist share the cores: one thread each, as the processes that they start."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")
