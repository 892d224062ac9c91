"""The record of timed epochs, runs/bench/epochs-<scale>-<device>.json, written after each round."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch

from linfdist import records
from linfdist.bench.epochs import PHASES, STEP_PARTS
from linfdist.bench.file import SAME, file_name, in_form, json_files
from linfdist.bench.timing import Row
from linfdist.experiments import table4
from linfdist.records.files import read_sealed, replace_file, sealed_text
from linfdist.system import devices

PREFIX = "epochs-"
EPOCH_CASE = ("experiment", "phase")


def path_of(scale: str, device: torch.device) -> Path:
    """The path of a device's record; all CPUs share a name, as in "epochs-reduced-cpu.json"."""
    cpu = device.type == "cpu"
    name = "cpu.json" if cpu else file_name(devices.device_name(device))
    return records.runs_dir() / "bench" / f"{PREFIX}{scale}-{name}"


@dataclass(kw_only=True)
class EpochTimes:
    """The times of one scale on one device: rows of ``epochs.measure``, with those of all rounds.

    ``batch`` is the batch size that the command asked for; None means the recipes' own.
    """

    path: Path
    environment: dict[str, Any]
    code_sha256: str
    scale: str
    batch: int | None
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The record in a file; raises RecordError if it has another form."""
        with in_form(path):
            times = cls(path=path, **read_sealed(path))
            rounds = {len(row[name]) for row in times.rows for name in STEP_PARTS}
            if len(rounds) > 1 or not all(
                second >= 0 for row in times.rows for name in STEP_PARTS for second in row[name]
            ):
                raise ValueError("each row must have one time for each round")
            if times.rows:
                times.summary()
            return times

    @property
    def rounds(self) -> int:
        """The number of rounds, each of all methods."""
        return len(self.rows[0][STEP_PARTS[0]]) if self.rows else 0

    @property
    def device(self) -> str:
        """The device's name; for a CPU, also its number of threads."""
        here = self.environment
        return here["device"] + ("" if "cuda" in here["backend"] else f", {here['threads']} thr.")

    def resume(self) -> None:
        """Continue from the file's rounds if its code, device, scale and batch are the same."""
        if not self.path.is_file():
            return
        before = EpochTimes.load(self.path)
        keys = ("code_sha256", "scale", "batch")
        if all(getattr(before, key) == getattr(self, key) for key in keys) and all(
            before.environment[key] == self.environment[key] for key in SAME
        ):
            self.rows = before.rows

    def add_round(self, rows: Sequence[Row]) -> None:
        """Append a round of all methods, and write the file atomically."""
        if not self.rows:
            self.rows = list(rows)
        else:
            for row, new in zip(self.rows, rows, strict=True):
                assert all(row[key] == new[key] for key in EPOCH_CASE)
                for name in STEP_PARTS:
                    row[name] += new[name]
        content = {key: value for key, value in vars(self).items() if key != "path"}
        replace_file(self.path, sealed_text(content))

    def summary(self) -> pd.DataFrame:
        """One row per method, indexed by experiment: seconds of an epoch of 50,000 images.

        - One column for each of ``PHASES``: from the medians over the rounds.
        - "seconds": the mean over the phases, weighted by their epochs at the paper's scale.
        - "ratio": "seconds" over IBP's "seconds".
        - "batch", "recipe_batch", "flops": as in the rows.
        """
        lines: dict[str, dict[str, Any]] = {}
        weights: dict[str, dict[str, int]] = {}
        for row in self.rows:
            name, phase = (row[key] for key in EPOCH_CASE)
            line = lines.setdefault(
                name, {key: row[key] for key in ("batch", "recipe_batch", "flops")}
            )
            line[phase] = epoch_seconds(row)
            weights.setdefault(name, {})[phase] = row["epochs"]
        for name, line in lines.items():
            total = sum(line[phase] * epochs for phase, epochs in weights[name].items())
            line["seconds"] = total / sum(weights[name].values())
        reference = lines[table4.TABLE.reference.experiment.name]["seconds"]
        for line in lines.values():
            line["ratio"] = line["seconds"] / reference
        columns = ["batch", "recipe_batch", "flops", *PHASES, "seconds", "ratio"]
        return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def epoch_seconds(row: Row) -> float:
    """Seconds of an epoch of the recipe's batches: images · passes / batch + steps · update."""
    passes, update = (statistics.median(row[name]) for name in STEP_PARTS)
    steps = math.ceil(table4.IMAGES / row["recipe_batch"])
    return table4.IMAGES * passes / row["batch"] + steps * update


def recorded_times(scale: str, folder: Path | None = None) -> list[EpochTimes]:
    """All records of a scale in runs/bench, or in ``folder``: CPUs, then GPUs, by file name."""
    folder = folder or records.runs_dir() / "bench"
    files = map(EpochTimes.load, json_files(folder, f"{PREFIX}{scale}-"))
    return sorted(files, key=lambda times: "cuda" in times.environment["backend"])
