"""Table 4: the time of a training epoch on CIFAR-10  [Zhang2021, Table 4]."""

from linfdist.experiments import table1
from linfdist.experiments.tables import TimedRow, TimingTable

IMAGES = 50_000  # per epoch


def _row(name: str, seconds: float | None = None) -> TimedRow:
    return TimedRow(experiment=table1.BY_NAME[f"table1/cifar10_{name}"], paper_seconds=seconds)


_IBP = _row("ibp", 17.4)

TABLE = TimingTable(
    number=4,
    title="Table 4. Seconds of a training epoch on CIFAR-10",
    rows=(
        _IBP,
        _row("crown_ibp", 112.4),
        _row("loss_fusion", 43.3),
        _row("net", 19.7),
        _row("net_mlp", 19.7),
        _row("net_lse"),
        _row("net_mlp_lse"),
    ),
    reference=_IBP,
    device="RTX 3090",
)
