"""Where records and work files are stored."""

import os
import tomllib
from pathlib import Path

from linfdist.records.files import RecordError, expanded


def checkout() -> Path | None:
    """The checkout from which this package is imported; None if it is installed as a copy."""
    folder = Path(__file__).resolve().parents[2]
    project = folder / "pyproject.toml"
    if not project.is_file():
        return None
    name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
    return folder if name == "linfdist" else None


def repository() -> Path:
    """The checkout from which this package is imported, else the working directory."""
    return checkout() or Path.cwd()


def runs_dir() -> Path:
    """The folder of the records: ``LINFDIST_RUNS``, else runs/ in the repository."""
    return expanded(os.environ.get("LINFDIST_RUNS") or repository() / "runs")


_OTHER_RUNS = ". LINFDIST_RUNS sets this folder. Nothing was done yet."


_OTHER_WORK = ". LINFDIST_WORK sets this folder. Nothing was done yet."


def run_dir(experiment: str, scale: str, seed: int) -> Path:
    """The folder of one recorded run."""
    return runs_dir() / experiment / scale / f"seed{seed}"


def work_dir(experiment: str, scale: str, seed: int) -> Path:
    """The folder of a run's checkpoint and weights, which are not part of the record."""
    return work_root() / experiment / scale / f"seed{seed}"


def work_root() -> Path:
    """The folder of all unrecorded files: ``LINFDIST_WORK``, else work/ in the repository."""
    root = expanded(os.environ.get("LINFDIST_WORK") or repository() / "work")
    if root.resolve() == runs_dir().resolve():
        raise RecordError(
            f"LINFDIST_WORK and LINFDIST_RUNS must be two folders; both are {root}. Change one."
        )
    return root
