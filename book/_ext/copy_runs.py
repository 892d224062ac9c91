"""A Sphinx extension: the built book holds the records that its numbers come from, in runs/."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from linfdist import records

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def copy_runs(app: Sphinx, error: Exception | None) -> None:
    """Copy every recorded run, so that the ledger's links lead to it."""
    if error is None and records.runs_dir().is_dir():
        into = app.outdir / "runs"
        shutil.copytree(records.runs_dir(), into, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", copy_runs)
    return {"parallel_read_safe": True}
