"""How a recorded run is read: every file is what it was when it was written, or is named."""

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from linfdist.record_files import CHECKSUMS, SEAL, RecordError, json_text

FILES = ("config.json", "metrics.json", "environment.json", "epochs.csv", "certificates.csv")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recorded run; accuracies are fractions, ``seconds`` covers training and evaluation.

    ``checksums``, the SHA-256 of each file, is None for a run of before there were any; what they
    are of is checked whenever a file is read.
    """

    path: Path
    experiment: str
    scale: str
    seed: int
    seconds: float
    weights_sha256: str
    metrics: dict[str, float]
    config: dict[str, Any]
    environment: dict[str, Any]
    checksums: dict[str, str] | None

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch, as ``training.fit`` returned them."""
        return read_table(self.path / "epochs.csv", self._digest("epochs.csv"))

    @cached_property
    def certificates(self) -> pd.DataFrame:
        """One row a test image, as ``evaluation.evaluate`` returned them."""
        return read_table(self.path / "certificates.csv", self._digest("certificates.csv"))

    def text(self, name: str) -> str:
        """What is in one of ``FILES``; RecordError if it is damaged."""
        return read_text(self.path / name, self._digest(name))

    def _digest(self, name: str) -> str | None:
        return None if self.checksums is None else self.checksums[name]


def read_run(path: Path | str) -> Run:
    """Read the record in a folder.

    Raises:
        RecordError: a file is missing, damaged or not as its checksum says, or metrics.json is of
            another run.
    """
    path = Path(path)
    lacking = [name for name in FILES if not (path / name).is_file()]
    if lacking:
        raise RecordError(
            f"{path} is not a whole run: it lacks {', '.join(lacking)}. Restore it from version "
            "control, or delete the folder and run it again."
        )
    checksums = read_checksums(path, FILES)
    digests = checksums or dict.fromkeys(FILES)
    config, summary, environment = (
        read_json(path / name, digests[name]) for name in FILES if name.endswith(".json")
    )
    for name in ("epochs.csv", "certificates.csv"):
        read_text(path / name, digests[name])
    known = {"path": path, "config": config, "environment": environment, "checksums": checksums}
    run = Run(**_checked(path / "metrics.json", summary), **known)
    said = Path(run.experiment, run.scale, f"seed{run.seed}")
    if path.resolve().parts[-len(said.parts) :] != said.parts:
        raise RecordError(f"{path / 'metrics.json'} says that it is {said}. Move it there.")
    return run


def _checked(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The content of metrics.json, once every key of a run is there with a value of its type."""
    number = (int, float)
    types = {"experiment": str, "scale": str, "seed": int, "seconds": number}
    types |= {"weights_sha256": str, "metrics": dict}
    if summary.keys() != types.keys():
        raise RecordError(f"{path} has other keys than a run's: {', '.join(summary)}. Restore it.")
    wrong = [name for name, kind in types.items() if not isinstance(summary[name], kind)]
    metrics = {} if wrong else summary["metrics"]
    wrong += [name for name, value in metrics.items() if not isinstance(value, number)]
    if wrong:
        raise RecordError(f"{path} has a value of another type in {', '.join(wrong)}. Restore it.")
    return summary


def read_checksums(folder: Path, names: Sequence[str]) -> dict[str, str] | None:
    """The SHA-256 of each file of a record; None for a record of before there were any.

    Raises:
        RecordError: SHA256SUMS is damaged, or not of these files.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return None
    lines = re.findall(r"([0-9a-f]{64})  (\S+)\n|(.+\n?)", read_text(path))
    found = {name: digest for digest, name, other in lines if not other}
    if sorted(found) != sorted(names) or len(lines) != len(names):
        raise RecordError(
            f"{path} must have a line for each of {', '.join(names)}; it has {len(lines)} lines. "
            "Restore it from version control."
        )
    return found


def read_text(path: Path, digest: str | None = None) -> str:
    """A file's text; RecordError if it is no text, or has another SHA-256 than ``digest``."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if digest not in (None, found):
        raise RecordError(
            f"{path} must have the recorded SHA-256 {digest}; it has {found}. The file has "
            "changed since it was written: restore it from version control."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not text: {error}. Restore it.") from error


def read_json(path: Path, digest: str | None = None) -> dict[str, Any]:
    """A JSON object; RecordError for anything else, as for NaN, which JSON has not."""

    def refuse(constant: str) -> None:
        raise ValueError(f"it has {constant}")

    try:
        value = json.loads(read_text(path, digest), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}. Restore it.") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RecordError(f"{path} must be a JSON object; it is of type {kind}. Restore it.")
    return value


def read_sealed(path: Path) -> dict[str, Any]:
    """What ``sealed_text`` wrote; RecordError for anything else."""
    content = read_json(path)
    digest = content.pop(SEAL, None)
    try:
        found = hashlib.sha256(json_text(content).encode()).hexdigest()
    except ValueError as error:  # as for half a surrogate pair
        raise RecordError(f"{path} is not JSON text: {error}. Restore it.") from error
    if digest != found:
        raise RecordError(
            f"{path} must have the contents of its {SEAL}, {digest}; theirs is {found}. The file "
            "has changed since it was written: restore it, or delete it and make it again."
        )
    return content


def read_table(path: Path, digest: str | None = None) -> pd.DataFrame:
    """A CSV table; RecordError for anything else."""
    try:
        return pd.read_csv(io.StringIO(read_text(path, digest)), low_memory=False)
    except ValueError as error:
        raise RecordError(f"{path} is not a CSV table: {error}. Restore it.") from error
