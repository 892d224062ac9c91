"""What an experiment is: the paper's numbers, and one setting for each scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from linfdist.baselines import BaselineConfig
from linfdist.data import DATASETS
from linfdist.nn import NetConfig
from linfdist.training import BoundTrainConfig, TrainConfig

ScaleName = Literal["smoke", "reduced", "paper"]
SCALES: Mapping[ScaleName, str] = {
    "smoke": "scikit-learn's digits and a tiny network: seconds, to see that everything runs",
    "reduced": "the real data, a narrower network, fewer epochs: minutes on two CPU cores",
    "paper": "the paper's setting as it stands: needs a GPU",
}


@dataclass(frozen=True)
class PaperNumbers:
    """What the paper prints for one row; accuracies are fractions, None where it prints a dash."""

    flops: str
    clean_accuracy: float
    pgd_accuracy: float | None
    certified_accuracy: float

    @classmethod
    def percent(
        cls, flops: str, test: float, robust: float | None, certified: float
    ) -> "PaperNumbers":
        """The row as it is printed, in percent."""
        return cls(flops, test / 100, None if robust is None else robust / 100, certified / 100)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One setting that can be run. ``eps`` is in pixels; ``test_images=None`` tests on all."""

    dataset: str
    eps: Fraction
    net: NetConfig | BaselineConfig
    train: TrainConfig | BoundTrainConfig
    test_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One of the paper's own rows: ``name`` is "<table>/<row>", ``title`` its method's name."""

    name: str
    title: str
    paper: PaperNumbers
    scales: Mapping[ScaleName, Scale]

    @property
    def dataset(self) -> str:
        """The data set of the paper's row."""
        return self.scales["paper"].dataset

    @property
    def eps(self) -> Fraction:
        """The radius of the paper's row, in pixels."""
        return self.scales["paper"].eps

    def command(self, scale: str, seed: int = 0) -> str:
        """What to type to run and record it."""
        return f"python -m linfdist run {self.name} --scale {scale} --seed {seed}"


@dataclass(frozen=True, kw_only=True)
class QuotedRow:
    """A row of another method: the paper's numbers, which this package does not rerun."""

    title: str
    dataset: str
    paper: PaperNumbers

    @property
    def eps(self) -> Fraction:
        return DATASETS[self.dataset].eps
