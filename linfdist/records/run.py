"""Read a recorded run. An error names each file that has changed since it was written."""

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from linfdist.records import checks
from linfdist.records.files import CHECKSUMS, SEAL, RecordError, json_text, named

# The SHA-256s of runs whose tables passed their checks. One page reads a run many times, so the
# checks are not repeated.
_CHECKED: set[tuple[str, ...]] = set()
FILES = ("config.json", "metrics.json", "environment.json", "epochs.csv", "certificates.csv")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recorded run.

    Accuracies in ``metrics`` are fractions. ``seconds`` covers training and evaluation.
    ``checksums`` holds the SHA-256 of each file; every read of a file checks it.
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
    checksums: dict[str, str]

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch, as ``training.fit`` returned them."""
        return read_table(self.path / "epochs.csv", self.checksums["epochs.csv"])

    @cached_property
    def certificates(self) -> pd.DataFrame:
        """One row per test image, as ``evaluation.evaluate`` returned them."""
        return read_table(self.path / "certificates.csv", self.checksums["certificates.csv"])

    @property
    def place(self) -> Path:
        """Where the run belongs in runs/: "table1/mnist_net/reduced/seed0"."""
        return Path(self.experiment, self.scale, f"seed{self.seed}")

    def text(self, name: str) -> str:
        """The text of one of ``FILES``; raises RecordError if the file is damaged."""
        return read_text(self.path / name, self.checksums[name])


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


def read_checksums(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each file of a record.

    Raises:
        RecordError: SHA256SUMS is missing or damaged, or lists other files.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise RecordError(
            f"{folder} must have {CHECKSUMS}, a file with the SHA-256 of each file; it has none. "
            "Restore it from version control, or delete the folder and run it again."
        )
    lines = re.findall(r"([0-9a-f]{64})  (\S+)\n|(.+\n?)", read_text(path))
    digests = {name: digest for digest, name, other in lines if not other}
    if sorted(digests) != sorted(names) or len(lines) != len(names):
        raise RecordError(
            f"{path} must have a line for each of {', '.join(names)}; it has {len(lines)} lines. "
            "Restore it from version control."
        )
    return digests


def read_text(path: Path, digest: str | None = None) -> str:
    """The text of a file; raises RecordError if it is not text or its SHA-256 is not ``digest``."""
    with named(path, "be a file that can be read; reading it failed", "."):
        content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if digest not in (None, actual):
        raise RecordError(
            f"{path} must have the recorded SHA-256 {digest}; it has {actual}. The file has "
            "changed since it was written: restore it from version control."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not text: {error}. Restore it.") from error


def read_json(path: Path, digest: str | None = None) -> dict[str, Any]:
    """A JSON object; raises RecordError for anything else.

    NaN, which is not JSON, and numbers that no float holds, such as 1e999, are refused too.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"it has {constant}")

    def finite(text: str) -> float:
        if math.isinf(number := float(text)):
            raise ValueError(f"it has {text}, which no float can hold")
        return number

    text = read_text(path, digest)
    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}. Restore it.") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RecordError(f"{path} must be a JSON object; it is of type {kind}. Restore it.")
    return value


def read_sealed(path: Path) -> dict[str, Any]:
    """The content that ``sealed_text`` wrote; raises RecordError for anything else."""
    content = read_json(path)
    digest = content.pop(SEAL, None)
    try:
        actual = hashlib.sha256(json_text(content).encode()).hexdigest()
    except ValueError as error:  # for example, half a surrogate pair
        raise RecordError(f"{path} is not JSON text: {error}. Restore it.") from error
    if digest != actual:
        raise RecordError(
            f"{path} must have contents with the {SEAL} that it names, {digest}; theirs is "
            f"{actual}. The file has changed since it was written: restore it, or delete it and "
            "make it again."
        )
    return content


def read_table(path: Path, digest: str | None = None) -> pd.DataFrame:
    """A CSV table; raises RecordError for anything else."""
    try:
        return pd.read_csv(io.StringIO(read_text(path, digest)), low_memory=False)
    except ValueError as error:
        raise RecordError(f"{path} is not a CSV table: {error}. Restore it.") from error
