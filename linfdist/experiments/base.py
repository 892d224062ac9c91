"""What an experiment is: the paper's numbers, and one setting for each scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from linfdist import data
from linfdist.baselines import BaselineConfig
from linfdist.nn import NetConfig
from linfdist.system.serialise import OMITTED_AT_DEFAULT
from linfdist.training import AnyTrainConfig

ScaleName = Literal["smoke", "reduced", "paper"]
SCALES: Mapping[ScaleName, str] = {
    "smoke": "scikit-learn's digits and a tiny network: seconds, to see that everything runs",
    "reduced": "the real data, a narrower network, fewer epochs: minutes to two hours on a CPU",
    "paper": "the paper's setting as it stands: needs a GPU",
}


@dataclass(frozen=True)
class PaperNumbers:
    """What the paper prints for one row; accuracies are fractions, None where it prints none.

    ``flops`` is empty in a table that does not print them. ``certified_eps``: the radius of the
    certified number, in pixels, where it is not the row's.
    """

    flops: str
    clean_accuracy: float
    pgd_accuracy: float | None = None
    certified_accuracy: float | None = None
    train_accuracy: float | None = None
    certified_eps: Fraction | None = None

    @classmethod
    def percent(
        cls,
        flops: str,
        test: float,
        robust: float | None = None,
        certified: float | None = None,
        train: float | None = None,
    ) -> "PaperNumbers":
        """The row as it is printed, in percent."""
        printed = (test, robust, certified, train)
        return cls(flops, *(None if number is None else number / 100 for number in printed))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One setting that can be run. ``eps`` is in pixels; ``test_images=None`` tests on all.

    ``validation``: trained on the first and tested on the second set of ``data.split_validation``,
    without the test set.
    """

    dataset: str
    eps: Fraction
    net: NetConfig | BaselineConfig
    train: AnyTrainConfig
    test_images: int | None = None
    validation: bool = field(default=False, metadata=OMITTED_AT_DEFAULT)

    def train_set(self) -> data.ImageSet:
        """The images to train on; ``DataError`` where they are missing."""
        train = data.load(self.dataset, "train")
        return data.split_validation(train)[0] if self.validation else train

    def test_set(self) -> data.ImageSet:
        """The images to test on; ``DataError`` where they are missing."""
        if self.validation:
            test = data.split_validation(data.load(self.dataset, "train"))[1]
        else:
            test = data.load(self.dataset, "test")
        return test.take(self.test_images)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One of the paper's own rows: ``name`` is "<table>/<row>", ``title`` its method's name.

    ``switches``: what else the paper's table says of the row, by the heading of the column.
    """

    name: str
    title: str
    paper: PaperNumbers
    scales: Mapping[ScaleName, Scale]
    switches: Mapping[str, str] = field(default_factory=dict)

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
    """A row of another method: the paper's numbers, which this package does not rerun.

    ``reason``: why not.
    """

    title: str
    dataset: str
    paper: PaperNumbers
    reason: str = ""

    @property
    def eps(self) -> Fraction:
        return data.DATASETS[self.dataset].eps


@dataclass(frozen=True, kw_only=True)
class Change:
    """Two of the paper's rows that the text compares: ``after`` less ``before``.

    ``accuracy`` names the column that it compares: a key of ``report.ACCURACIES``, or "train".
    """

    title: str
    before: Experiment | QuotedRow
    after: Experiment
    accuracy: str = "certified"
