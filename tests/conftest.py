"""Workers of pytest-xdist share the cores: one thread each, as the processes that they start.

``pytest -m quick`` reads only files with that mark: importing the others takes longer than it.
"""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.markexpr != "quick" or not collection_path.name.startswith("test_"):
        return None
    return "pytest.mark.quick" not in collection_path.read_text() or None
