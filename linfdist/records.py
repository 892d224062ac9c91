"""Where runs live on disk, and how one is written and read; the format is in runs/README.md."""

import contextlib
import fcntl
import io
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from linfdist.record_files import CHECKSUMS as CHECKSUMS
from linfdist.record_files import RecordError as RecordError
from linfdist.record_files import csv_text, exchange, json_text, sha256, sync_folder, write_files
from linfdist.recorded_run import FILES as FILES
from linfdist.recorded_run import Run, read_run


class RunExists(RuntimeError):
    """A run is recorded already; records are written once."""


class RunInProgress(RecordError):
    """Another process is at the same run."""


def checkout() -> Path | None:
    """The checkout this package is imported from; None where it is installed as a copy."""
    folder = Path(__file__).resolve().parents[1]
    project = folder / "pyproject.toml"
    if not project.is_file():
        return None
    name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
    return folder if name == "linfdist" else None


def repository() -> Path:
    """The checkout this package is imported from, else the working directory."""
    return checkout() or Path.cwd()


def runs_dir() -> Path:
    """Where records are kept: ``LINFDIST_RUNS``, else runs/ in the repository."""
    return Path(os.environ.get("LINFDIST_RUNS") or repository() / "runs")


def run_dir(experiment: str, scale: str, seed: int) -> Path:
    """The folder of one recorded run."""
    return runs_dir() / experiment / scale / f"seed{seed}"


def work_dir(experiment: str, scale: str, seed: int) -> Path:
    """The folder of a run's checkpoint and weights, which are not part of the record."""
    return work_root() / experiment / scale / f"seed{seed}"


def work_root() -> Path:
    """Where what is not recorded is kept: ``LINFDIST_WORK``, else work/ in the repository."""
    root = Path(os.environ.get("LINFDIST_WORK") or repository() / "work")
    if root.resolve() == runs_dir().resolve():
        raise RecordError(
            f"LINFDIST_WORK and LINFDIST_RUNS must be two folders; both are {root}. Change one."
        )
    return root


def refuse_recorded(experiment: str, scale: str, seed: int) -> Path:
    """The folder of a run that is not recorded yet; RunExists if it is."""
    path = run_dir(experiment, scale, seed)
    if path.exists():
        raise RunExists(
            f"{path} exists: a run is recorded once. Choose another seed, or delete that folder "
            "to run it again."
        )
    return path


@contextlib.contextmanager
def lock(work: Path) -> Iterator[None]:
    """Keep every other process out of a run's work folder; RunInProgress if one is there.

    The system frees the lock when its process ends, however it ends.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunInProgress(
                f"{work}: this run is already in progress in another process. Wait for it, or "
                "choose another seed."
            ) from error
        yield


def write_run(
    experiment: str,
    scale: str,
    seed: int,
    *,
    config: dict[str, Any],
    metrics: dict[str, float],
    environment: dict[str, Any],
    epochs: list[dict[str, Any]],
    certificates: pd.DataFrame,
    seconds: float,
    weights: Path,
) -> Run:
    """Record a run: all of it appears at once, under its final name, or nothing does.

    Of the weights only the SHA-256 of the file is kept.

    Raises:
        RunExists: the run is recorded already.
        RecordError: the disk is full; nothing is recorded.
    """
    path = refuse_recorded(experiment, scale, seed)
    summary = {
        "experiment": experiment,
        "scale": scale,
        "seed": seed,
        "seconds": round(seconds, 1),
        "weights_sha256": sha256(weights),
        "metrics": metrics,
    }
    texts = {
        "config.json": json_text(config),
        "metrics.json": json_text(summary),
        "environment.json": json_text(environment),
        "epochs.csv": csv_text(pd.DataFrame(epochs)),
        "certificates.csv": csv_text(certificates),
    }
    try:
        with _folder_for(path) as unfinished:
            write_files(unfinished, texts)
            refuse_recorded(experiment, scale, seed)
            try:
                unfinished.rename(path)
            except OSError:
                refuse_recorded(experiment, scale, seed)  # another process was first
                raise
            for folder in path.parents[:5]:  # up to what runs/ lies in, which may be new
                sync_folder(folder)
    except OSError as error:
        raise RecordError(
            f"{path} must be written whole; the disk failed ({error}). Free some space: the same "
            "call goes on, or says that the run is recorded."
        ) from error
    return read_run(path)


def amend_run(run: Run, columns: pd.DataFrame, **noted: Any) -> Run:
    """Add columns to the certificates of a recorded run; nothing else of them is changed.

    ``certified_accuracy`` follows from them, and ``noted`` goes into environment.json. The folder
    is exchanged for the new one at once: a crash leaves the old record or the new one, whole, and
    maybe a hidden folder beside it.

    Raises:
        RecordError: the run has a column of that name, a file of it is damaged, or the folder
            cannot be exchanged.
    """
    as_text = {"dtype": str, "keep_default_na": False}
    texts = {name: run.text(name) for name in FILES}
    before = pd.read_csv(io.StringIO(texts["certificates.csv"]), **as_text)
    taken = [name for name in columns if name in before]
    if taken or len(columns) != len(before):
        raise RecordError(
            f"{run.path}: new columns must have new names and one value for each of the "
            f"{len(before)} images; got {', '.join(taken) or f'{len(columns)} values'}."
        )
    added = pd.read_csv(io.StringIO(csv_text(columns)), **as_text)
    table = pd.concat([before, added], axis=1).to_csv(index=False)
    summary = json.loads(texts["metrics.json"])
    certified = accuracies(pd.read_csv(io.StringIO(table)))["certified_accuracy"]
    summary["metrics"]["certified_accuracy"] = certified
    changed = {
        "metrics.json": json_text(summary),
        "environment.json": json_text(run.environment | noted),
        "certificates.csv": table,
    }
    return _rewrite(run, texts | changed)


def add_checksums(run: Run) -> Run:
    """Give a run of before there were any the checksums of its files as they are."""
    if run.checksums is not None:
        return run
    return _rewrite(run, {name: run.text(name) for name in FILES})


def _rewrite(run: Run, texts: dict[str, str]) -> Run:
    """Exchange a record's folder for one with these texts."""
    try:
        with _folder_for(run.path) as unfinished:
            write_files(unfinished, texts)
            exchange(unfinished, run.path)
            sync_folder(run.path.parent)  # before the old folder goes
    except OSError as error:
        raise RecordError(
            f"{run.path} cannot be exchanged for another folder: {error}. Free some space, or copy "
            "the records to a file system that can exchange folders, and set LINFDIST_RUNS."
        ) from error
    return read_run(run.path)


@contextlib.contextmanager
def _folder_for(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path``; what it is called in the end is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        unfinished.chmod(0o755)
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def find_runs(
    experiment: str | None = None, scale: str | None = None, seed: int | None = None
) -> list[Run]:
    """Every recorded run that matches, sorted by experiment, scale and seed."""
    pattern = f"{experiment or '*/*'}/{scale or '*'}/seed{'[0-9]*' if seed is None else seed}"
    runs = [read_run(path) for path in runs_dir().glob(pattern)]
    return sorted(runs, key=lambda run: (run.experiment, run.scale, run.seed))


def accuracies(certificates: pd.DataFrame) -> dict[str, float]:
    """The metrics of a run, means over its table of test images; none of an empty column.

    Certified are the images of ``certified_sound``; of ``certified_interval`` where a run has no
    sound certificates.
    """
    sound = certificates.get("certified_sound")
    counts = sound is not None and sound.notna().all()
    columns = {
        "clean_accuracy": certificates["predicted"] == certificates["label"],
        "pgd_accuracy": certificates["survived_pgd"],
        "certified_accuracy": sound if counts else certificates["certified_interval"],
        "certified_accuracy_margin": certificates["certified_margin"],
    }
    return {name: float(flags.mean()) for name, flags in columns.items() if flags.notna().all()}


def check_weights(run: Run, path: Path) -> None:
    """RecordError unless ``path`` is the file of weights that the run was recorded with."""
    name = f"{run.experiment} at scale {run.scale}, seed {run.seed}"
    if not path.is_file():
        raise RecordError(
            f"{path} must hold the weights of {name}, which are not kept with the records. Copy "
            f"them there, or train them again, which leaves them in the work folder: LINFDIST_RUNS="
            f"<an empty folder> python -m linfdist run {run.experiment} --scale {run.scale} "
            f"--seed {run.seed}"
        )
    if sha256(path) != run.weights_sha256:
        raise RecordError(
            f"{path} must have the recorded SHA-256 {run.weights_sha256}; it has {sha256(path)}: "
            f"these are not the weights of {name}."
        )
