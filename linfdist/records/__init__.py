"""Recorded runs: where they are stored, and how they are written, read and changed.

runs/README.md describes the format.
"""

from linfdist.records.files import CHECKSUMS, RecordError
from linfdist.records.metrics import accuracies, certified, certified_radii, eps_of
from linfdist.records.paths import checkout, repository, run_dir, runs_dir, work_dir, work_root
from linfdist.records.run import FILES, Run
from linfdist.records.store import (
    VALIDATION,
    NotARunWarning,
    RunExists,
    RunInProgress,
    amend_run,
    check_weights,
    find_runs,
    lock,
    low_radii,
    raise_low_radii,
    read_run,
    refuse_recorded,
    try_amending,
    try_recording,
    write_run,
)

__all__ = [
    "CHECKSUMS",
    "FILES",
    "VALIDATION",
    "NotARunWarning",
    "RecordError",
    "Run",
    "RunExists",
    "RunInProgress",
    "accuracies",
    "amend_run",
    "certified",
    "certified_radii",
    "check_weights",
    "checkout",
    "eps_of",
    "find_runs",
    "lock",
    "low_radii",
    "raise_low_radii",
    "read_run",
    "refuse_recorded",
    "repository",
    "run_dir",
    "runs_dir",
    "try_amending",
    "try_recording",
    "work_dir",
    "work_root",
    "write_run",
]
