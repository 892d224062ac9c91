"""The type of an experiment: the paper's numbers, and one setting for each scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from linfdist import data
from linfdist.baselines import BaselineConfig
from linfdist.nn import NetConfig
from linfdist.robust import HingeLoss
from linfdist.system.serialise import OMITTED_AT_DEFAULT, check_fields, serialised_as
from linfdist.training import AnyTrainConfig, TrainConfig

SCALES: Mapping[str, str] = {
    "smoke": "scikit-learn's digits and a tiny network, to check in seconds that everything runs",
    "reduced": "real data, narrower networks and fewer epochs, minutes to two hours on a CPU",
    "paper": "the paper's own setting, which needs a GPU",
}


@dataclass(frozen=True)
class PaperNumbers:
    """The numbers that the paper prints for one row.

    Accuracies are fractions, None where the paper prints none. ``flops`` is empty in a table
    without FLOPs. ``certified_eps`` is the radius of the certified number, in pixels, if it differs
    from the row's; otherwise None.
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
        """The numbers from a row as printed, in percent; None where it prints none.

        Args:
            flops: the FLOPs as printed, such as "2.67M"; "" in a table without FLOPs.
            test: clean accuracy on the test set.
            robust: accuracy under the paper's attack.
            certified: certified accuracy.
            train: accuracy on the training set.
        """
        return cls(
            flops,
            clean_accuracy=test / 100,
            pgd_accuracy=_fraction(robust),
            certified_accuracy=_fraction(certified),
            train_accuracy=_fraction(train),
        )


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


@serialised_as("Scale")  # its name in the records
@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting that can be run.

    ``eps`` is in pixels. ``test_images`` limits the test to the first images; None tests on all.
    With ``validation`` the network trains on the first set of ``data.split_validation`` and is
    tested on the second; the test set is not used.
    """

    dataset: str
    eps: Fraction
    net: NetConfig | BaselineConfig
    train: AnyTrainConfig
    test_images: int | None = None
    validation: bool = field(default=False, metadata=OMITTED_AT_DEFAULT)

    def __post_init__(self) -> None:
        check_fields(self)

    def dist_net(self) -> tuple[NetConfig, TrainConfig]:
        """The network and the training of an l_inf-dist net; TypeError for a compared method."""
        if not isinstance(self.net, NetConfig) or not isinstance(self.train, TrainConfig):
            raise TypeError(
                "Setting: net and train must be those of an l_inf-dist net, NetConfig and "
                f"TrainConfig; got {type(self.net).__name__} and {type(self.train).__name__}."
            )
        return self.net, self.train

    def hinge(self) -> HingeLoss:
        """The hinge loss of an l_inf-dist Net; TypeError for Net+MLP and for any other loss."""
        net, train = self.dist_net()
        if net.kind != "net" or not isinstance(train.loss, HingeLoss):
            raise TypeError(
                "Setting: net.kind must be 'net' and train.loss a HingeLoss; got "
                f"{net.kind!r} and {type(train.loss).__name__}."
            )
        return train.loss

    def train_set(self) -> data.ImageSet:
        """The images to train on; ``DataError`` if they are missing."""
        train = data.load(self.dataset, "train")
        return data.split_validation(train)[0] if self.validation else train

    def test_set(self) -> data.ImageSet:
        """The images to test on; ``DataError`` if they are missing."""
        if self.validation:
            test = data.split_validation(data.load(self.dataset, "train"))[1]
        else:
            test = data.load(self.dataset, "test")
        return test.take(self.test_images)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A row that this package runs: ``name`` is "<table>/<row>", ``title`` the method's name.

    ``switches`` holds the row's other entries in the paper's table, by column heading.
    """

    name: str
    title: str
    paper: PaperNumbers
    scales: Mapping[str, Setting]
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
        """The command that runs and records the experiment."""
        return f"python -m linfdist run {self.name} --scale {scale} --seed {seed}"


@dataclass(frozen=True, kw_only=True)
class QuotedRow:
    """A row of another method that this package does not rerun: only the paper's numbers.

    ``reason`` says why.
    """

    title: str
    dataset: str
    paper: PaperNumbers
    reason: str = ""

    @property
    def eps(self) -> Fraction:
        return data.DATASETS[self.dataset].eps
