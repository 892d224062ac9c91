"""Table 4: the time of a training epoch on CIFAR-10  [Zhang2021, Table 4]."""

from dataclasses import dataclass

from linfdist.experiments import table1
from linfdist.experiments.base import Experiment

TITLE = "Table 4. Seconds of a training epoch on CIFAR-10"
IMAGES = 50_000  # per epoch
DEVICE = "RTX 3090"  # the paper's GPU


@dataclass(frozen=True, kw_only=True)
class TimedRow:
    """A row of Table 1 whose training is timed.

    ``paper_seconds`` is the paper's time of an epoch, None for our own rows.
    """

    experiment: Experiment
    paper_seconds: float | None = None


def _row(name: str, seconds: float | None = None) -> TimedRow:
    return TimedRow(experiment=table1.BY_NAME[f"table1/cifar10_{name}"], paper_seconds=seconds)


ROWS = (
    _row("ibp", 17.4),
    _row("crown_ibp", 112.4),
    _row("loss_fusion", 43.3),
    _row("net", 19.7),
    _row("net_mlp", 19.7),
    _row("net_lse"),
    _row("net_mlp_lse"),
)
REFERENCE = ROWS[0]  # of the ratios, which are the claim: seconds depend on the device
EXPERIMENTS = ()  # this table's rows are Table 1's
