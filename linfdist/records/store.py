"""Write, change and find recorded runs; runs/README.md describes the format."""

import contextlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from linfdist.records import checks
from linfdist.records.files import (
    CHECKSUMS,
    RecordError,
    csv_text,
    json_text,
    named,
    read_checksums,
    read_json,
    read_text,
    write_files,
)
from linfdist.records.metrics import accuracies, eps_of, is_sound
from linfdist.records.paths import _OTHER_RUNS, _OTHER_WORK, run_dir, runs_dir
from linfdist.records.run import FILES, Run
from linfdist.system import disk
from linfdist.system.disk import sha256, swap_folders, sync_folder, write_file

VALIDATION = "validation"  # the folder of runs evaluated on validation images
# The SHA-256s of runs whose tables passed their checks. One page reads a run many times, so the
# checks are not repeated.
_CHECKED: set[tuple[str, ...]] = set()


class RunExists(RuntimeError):
    """The run is already recorded; a record is written once."""


class RunInProgress(RecordError):
    """Another process is working on the same run."""


class NotARunWarning(UserWarning):
    """A folder among the records is left out.

    Either its name is not the name of a run, or it holds a copy of a run.
    """


def refuse_recorded(experiment: str, scale: str, seed: int) -> Path:
    """The folder for a run that is not recorded yet; raises RunExists if the run is recorded."""
    path = run_dir(experiment, scale, seed)
    if path.exists():
        raise RunExists(
            f"{path} already exists: a run is recorded only once. Choose another seed, or delete "
            "that folder to run it again."
        )
    return path


def try_recording(path: Path) -> None:
    """Raise RecordError unless a run can be recorded at ``path``. Call this before the work."""
    with named(path, "be a folder that can be created; creating it failed", _OTHER_RUNS):
        disk.try_folder(path)


@contextlib.contextmanager
def lock(work: Path) -> Iterator[None]:
    """Lock a run's work folder against every other process.

    The operating system frees the lock when the process ends, even if it is killed.

    Raises:
        RunInProgress: another process holds the lock.
        RecordError: the folder, or the file ``lock`` in it, cannot be made or locked.
    """
    path = work / "lock"
    held = FileLock(
        path,
        blocking=False,
        fallback_to_soft=False,  # a file that merely exists would outlive a killed process
        on_acquired=lambda descriptor: disk.refuse_second_link(descriptor, path),
    )
    with named(
        work, "be a folder in which a file can be written and locked; this failed", _OTHER_WORK
    ):
        try:
            held.acquire()
        except Timeout as error:
            raise RunInProgress(
                f"{work}: this run is already in progress in another process. Wait for it, or "
                "choose another seed."
            ) from error
    try:
        yield
    finally:
        held.release()


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
    """Record a run. The whole record appears at once under its final name, or not at all.

    Args:
        experiment: the name of the experiment, such as "table1/mnist_net".
        scale: the name of the scale, such as "reduced".
        seed: the seed of the run.
        config: the content of config.json.
        metrics: the accuracies of the run, as fractions.
        environment: the content of environment.json.
        epochs: one row per epoch.
        certificates: one row per test image.
        seconds: the duration of training and evaluation.
        weights: the file of weights. Only its SHA-256 is recorded.

    Raises:
        RunExists: the run is already recorded.
        RecordError: the record cannot be written, or its files contradict one another: the metrics
            do not follow from the certificates, or an image has no row. Nothing is recorded.
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
    again = (
        ". Then repeat the call: it continues, or says that the run is recorded. The checkpoint "
        "and the weights are kept."
    )
    with (
        named(path, "be written completely; writing it failed", again),
        _folder_for(path) as unfinished,
    ):
        write_files(unfinished, texts)
        read_anywhere(unfinished)  # a record that cannot be read is not kept
        refuse_recorded(experiment, scale, seed)
        try:
            unfinished.rename(path)
        except OSError:
            refuse_recorded(experiment, scale, seed)  # another process was first
            raise
        for folder in path.parents[:5]:  # up to the parent of runs/, which may be new
            sync_folder(folder)
    return read_run(path)


def amend_run(run: Run, columns: pd.DataFrame, **noted: Any) -> Run:
    """Add columns to the certificates of a recorded run; the other columns do not change.

    ``certified_accuracy`` is computed again from the new certificates. ``noted`` is added to
    environment.json. The old and the new folder are exchanged atomically: a crash leaves either
    the old or the new record whole, and possibly a hidden folder beside it.

    Raises:
        RecordError: the run already has a column of that name, ``columns`` does not have one value
            per image, a file of the run is damaged, or the folder cannot be exchanged.
    """
    before = _cells(run.text("certificates.csv"))
    taken = [name for name in columns if name in before]
    if taken or len(columns) != len(before):
        raise RecordError(
            f"{run.path}: new columns must have new names and one value for each of the "
            f"{len(before)} images; got {', '.join(taken) or f'{len(columns)} values'}."
        )
    return _amend(run, pd.concat([before, _cells(csv_text(columns))], axis=1), noted)


def low_radii(run: Run) -> pd.Series:
    """For each image, whether its sound radius lies below eps although it is certified at eps.

    The comparison is between decimals, because a radius of eps is stored rounded down.
    """
    table = run.certificates
    if not is_sound(table):
        return pd.Series(False, index=table.index)
    low = (table["sound_radius"] * 1e6).round() < _millionths(eps_of(run))
    return low & (table["certified_sound"] == 1)


def raise_low_radii(run: Run, **noted: Any) -> Run:
    """Write eps as the sound radius of the images of ``low_radii``; no other cell changes.

    The record itself certifies these images at eps, so no weights are needed. ``noted`` is added to
    environment.json. The folders are exchanged as in ``amend_run``.

    Raises:
        RecordError: no radius is low, a file is damaged, or the folder cannot be exchanged.
    """
    low = low_radii(run)
    if not low.any():
        raise RecordError(f"{run.path}: no sound radius lies below eps at a certified image.")
    table = _cells(run.text("certificates.csv"))
    table.loc[low, "sound_radius"] = f"{_millionths(eps_of(run)) / 1e6:.12g}"
    return _amend(run, table, noted)


def _millionths(eps: Fraction) -> int:
    return eps * 10**6 // 1


def _cells(text: str) -> pd.DataFrame:
    """A table with every cell as the text that the file holds."""
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _amend(run: Run, cells: pd.DataFrame, noted: dict[str, Any]) -> Run:
    """Exchange a record for one with the given certificates and the metrics they imply.

    Other files of the folder are copied to the new one.
    """
    texts = {name: run.text(name) for name in FILES}
    table = cells.to_csv(index=False)
    summary = json.loads(texts["metrics.json"])
    recomputed = accuracies(pd.read_csv(io.StringIO(table)))
    summary["metrics"]["certified_accuracy"] = recomputed["certified_accuracy"]
    changed = {
        "metrics.json": json_text(summary),
        "environment.json": json_text(run.environment | noted),
        "certificates.csv": table,
    }
    with _exchanging(run.path), _folder_for(run.path) as unfinished:
        for path in run.path.iterdir():  # including the record of an attack
            if path.name not in (*FILES, CHECKSUMS) and path.is_file():
                write_file(unfinished / path.name, path.read_bytes())
        write_files(unfinished, texts | changed)
        read_anywhere(unfinished)
        swap_folders(unfinished, run.path)
        sync_folder(run.path.parent)  # before the old folder is deleted
    return read_run(run.path)


def try_amending(path: Path) -> None:
    """Raise RecordError unless a record's folder can be exchanged. Call this before the work."""
    with _exchanging(path), contextlib.ExitStack() as until_tried:
        both = []
        for _ in range(2):
            both.append(disk.hidden_folder(path))
            until_tried.callback(both[-1].rmdir)
        swap_folders(*both)


@contextlib.contextmanager
def _exchanging(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{path} cannot be swapped with another folder: {error}. {disk.advice(error)}, or copy "
            "the records to a file system that can swap folders, and set LINFDIST_RUNS. The record "
            "is unchanged."
        ) from error


@contextlib.contextmanager
def _folder_for(path: Path) -> Iterator[Path]:
    """A new hidden folder beside ``path``.

    At the end, the folder that has the hidden name is deleted, if there is one.
    """
    unfinished = disk.hidden_folder(path)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def find_runs(
    experiment: str | None = None, scale: str | None = None, seed: int | None = None
) -> list[Run]:
    """Every recorded run that matches, sorted by experiment, scale and seed.

    Without an experiment, runs on validation images are left out: no table counts them.

    Two kinds of folders are left out with a NotARunWarning:

    - a folder whose name is not seed<k>, such as seed0.bak;
    - a complete run in another place than its metrics.json says, such as a copy.

    Raises:
        RecordError: a run is damaged, or a folder cannot be read.
    """
    tables = [runs_dir()] if experiment is None else [runs_dir() / experiment]
    rows = [row for table in tables for row in _inside(table, 2 if experiment is None else 0)]
    rows = [row for row in rows if experiment is not None or row.parent.name != VALIDATION]
    scales = [folder for row in rows for folder in _inside(row, 1) if scale in (None, folder.name)]
    runs = []
    for path in (path for folder in scales for path in _inside(folder, 1)):
        if not re.fullmatch("seed(0|[1-9][0-9]*)", path.name):
            _leave_out(path, "is not called seed<k>")
        elif seed is None or path.name == f"seed{seed}":
            run = read_anywhere(path)
            if path.relative_to(runs_dir()) == run.place:
                runs.append(run)
            else:
                _leave_out(path, f"says that the run belongs at {run.place}")
    return sorted(runs, key=lambda run: (run.experiment, run.scale, run.seed))


def _inside(folder: Path, levels: int) -> list[Path]:
    """The visible folders ``levels`` levels below ``folder``; none if ``folder`` does not exist."""
    if levels == 0:
        return [folder]
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(
            f"{folder} must be a folder that can be read; reading it failed ({error}). "
            f"{disk.advice(error)}. LINFDIST_RUNS sets this folder."
        ) from error
    return [path for name in sorted(names) for path in _inside(folder / name, levels - 1)]


def _leave_out(path: Path, why: str) -> None:
    warnings.warn(
        f"{path} is left out: it {why}. Move it out of the records, or delete it.",
        NotARunWarning,
        stacklevel=3,
    )


def check_weights(run: Run, path: Path) -> None:
    """Raise RecordError unless ``path`` is the file of weights of the recorded run."""
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


def read_run(path: Path | str) -> Run:
    """Read the record in a folder.

    Raises:
        RecordError: a file is missing, damaged or does not match its checksum; the files contradict
            one another (``records.checks``); or metrics.json belongs to another run.
    """
    path = Path(path)
    run = read_anywhere(path)
    if path.resolve().parts[-len(run.place.parts) :] != run.place.parts:
        raise RecordError(
            f"{path / 'metrics.json'} says that the run belongs at {run.place}. Move it there."
        )
    return run


def read_anywhere(path: Path) -> Run:
    """``read_run`` for a folder that need not be the run's own, such as the folder of a copy."""
    with named(path, "be a folder that can be read; reading it failed", "."):
        lacking = [name for name in FILES if not (path / name).is_file()]
    if lacking:
        raise RecordError(
            f"{path} is not a whole run: it lacks {', '.join(lacking)}. Restore it from version "
            "control, or delete the folder and run it again."
        )
    digests = read_checksums(path, FILES)
    config, summary, environment = (
        read_json(path / name, digests[name]) for name in FILES if name.endswith(".json")
    )
    checks.check_summary(path / "metrics.json", summary)
    checks.check_config(path / "config.json", config)
    checks.check_environment(path / "environment.json", environment)
    run = Run(**summary, path=path, config=config, environment=environment, checksums=digests)
    for name in ("epochs.csv", "certificates.csv"):
        read_text(path / name, digests[name])
    contents = tuple(digests[name] for name in FILES)
    if contents not in _CHECKED:
        checks.check_tables(run)
        _CHECKED.add(contents)
    return run
