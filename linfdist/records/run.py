"""One recorded run: what its files say."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from linfdist.records.files import read_table, read_text

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
