"""The bench's output: one JSON file per device, in the format that runs/README.md describes."""

import contextlib
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from linfdist.bench.roofline import Hardware
from linfdist.bench.timing import Row
from linfdist.records import RecordError, RunExists
from linfdist.records.environment import code_sha256
from linfdist.records.files import named, read_sealed, replace_file, sealed_text, try_file

OF_CONTENT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
SAME = ("device", "threads", "backend")  # with the same code, a call may continue a bench


@contextlib.contextmanager
def in_form(path: Path) -> Iterator[None]:
    """Turn an error caused by a file's contents into a RecordError that names the file."""
    try:
        yield
    except OF_CONTENT as error:
        raise RecordError(
            f"{path} must have the format of a bench, which runs/README.md describes; it does not "
            f"({type(error).__name__}: {error}). Restore it, or delete it and measure again."
        ) from error


class Results:
    """The rows of one bench, written atomically to ``path`` after each case."""

    def __init__(
        self, path: Path | None, environment: dict[str, Any], hardware: Hardware | None
    ) -> None:
        self.path = path
        self.environment = environment
        self.code = code_sha256("linfdist")
        self.hardware = hardware
        self.rows: list[Row] = []
        self.iterations: list[Row] = []

    def resume(self) -> None:
        """Continue from the file's rows if code and device are the same; else start empty."""
        if self.path is None or not self.path.is_file():
            return
        with in_form(self.path):
            before = read_sealed(self.path)
            same = all(before["environment"][key] == self.environment[key] for key in SAME)
            if same and before.get("code_sha256") == self.code:
                self.rows, self.iterations = before["rows"], before.get("iterations", [])

    def has(self, case: Row, candidates: Collection[str]) -> bool:
        """Whether the bench already has the case, with all these candidates."""
        rows = (row for row in (*self.rows, *self.iterations) if case.items() <= row.items())
        return {*candidates} <= {row["candidate"] for row in rows}

    def add(self, case: Row, *, rows: Sequence[Row] = (), iterations: Sequence[Row] = ()) -> None:
        """Replace the rows of a case by the new ones, and write the file."""
        kept = [row for row in self.rows if not case.items() <= row.items()]
        self.rows = sorted([*kept, *rows], key=_place)
        kept = [row for row in self.iterations if not case.items() <= row.items()]
        self.iterations = [*kept, *iterations]
        self._write()

    def speeds(self, p: float | str, passes: str) -> dict[str, float]:
        """Each candidate's last 10^9 pairs per second at this p and pass, at any shape."""
        return {
            row["candidate"]: row["giga_pairs_per_second"]
            for row in self.rows
            if (row["p"], row["pass"]) == (p, passes) and "seconds" in row
        }

    def _write(self) -> None:
        if self.path is None:
            return
        content: dict[str, Any] = {"environment": self.environment, "code_sha256": self.code}
        if self.hardware is not None:
            content["hardware"] = asdict(self.hardware)
        content |= {"rows": self.rows, "iterations": self.iterations}
        replace_file(self.path, sealed_text(content))


def refuse_existing(path: Path | None) -> None:
    """Raise RunExists if the file already exists."""
    if path is not None and path.exists():
        raise RunExists(
            f"{path} already exists and is not overwritten. Pass --resume to continue it, choose "
            "another file with --json, or delete it."
        )


def json_files(folder: Path, prefix: str = "") -> list[Path]:
    """The JSON files of a folder, by name; hidden files (an editor's) are left out."""
    with named(
        folder,
        "be a folder that can be read; reading it failed",
        ". LINFDIST_RUNS sets this folder.",
    ):
        names = os.listdir(folder) if folder.exists() else []
    matching = [name for name in names if name.endswith(".json") and name.startswith(prefix)]
    return [folder / name for name in sorted(matching) if not name.startswith(".")]


def try_writing(path: Path | None) -> None:
    """Raise RecordError if the bench cannot be written; called before anything is measured."""
    if path is not None:
        try_file(path)


def _place(row: Row) -> tuple[int, float, str]:
    """The sort key of a row: shapes from small to large, then p with ∞ first, then the pass."""
    sizes = (int(size) for size in re.findall(r"\d+", row["shape"]))
    return math.prod(sizes), 0.0 if row["p"] == "inf" else row["p"], row["pass"]


def file_name(device: str) -> str:
    """The name of a device's file: "NVIDIA H100 PCIe" -> "nvidia-h100-pcie.json"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"
