"""Notebooks run cell by cell in a fork, with parameters as papermill sets them."""

from pathlib import Path
from subprocess import CompletedProcess

import matplotlib
import torch
from helpers import forks
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config


def run(path: Path, given: dict[str, object], **environment: str) -> CompletedProcess:
    """A notebook that has ended: with 0, or at the first cell that failed."""
    return forks.call(_run, path, given, environment=environment)


def _run(path: Path, given: dict[str, object]) -> None:
    torch.set_num_threads(1)
    matplotlib.use("agg")
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    for cell in parameterize_notebook(load_notebook_node(str(path)), given).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()
