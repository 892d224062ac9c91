"""The kinds of table in the paper; the table with number n is ``TABLE`` in the module table<n>."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from linfdist.experiments.base import Experiment, QuotedRow


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows that the paper's text compares: the difference ``after`` minus ``before``.

    ``accuracy`` names the compared column: a key of ``report.ACCURACIES``, or "train".
    """

    title: str
    before: Experiment | QuotedRow
    after: Experiment
    accuracy: str = "certified"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of results.

    Args:
        number: the paper's number of the table.
        title: the heading, which begins with the number.
        rows: the paper's rows that this package runs.
        added: the rows that this package adds to the paper's.
        quoted: the paper's rows that this package does not rerun.
        repeated: the rows of another table that the paper prints again in this one.
        methods: the titles of methods in the paper's order; rows with another title come last.
        comparisons: the pairs of this table's rows whose difference the paper discusses.
    """

    kind: ClassVar[str] = "results"
    number: int
    title: str
    rows: tuple[Experiment, ...]
    added: tuple[Experiment, ...] = ()
    quoted: tuple[QuotedRow, ...] = ()
    repeated: tuple[Experiment, ...] = ()
    methods: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The rows that belong to this table and that this package runs."""
        return (*self.rows, *self.added)


@dataclass(frozen=True, kw_only=True)
class TimedRow:
    """A row of Table 1 whose training is timed.

    ``paper_seconds`` is the paper's time of an epoch, None for our own rows.
    """

    experiment: Experiment
    paper_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TimingTable:
    """A table of training times.

    Args:
        number: the paper's number of the table.
        title: the heading, which begins with the number.
        rows: the timed rows of Table 1, in the paper's order.
        reference: the row that the ratios divide by. The ratios are the claim, because seconds
            depend on the device.
        device: the paper's GPU.
    """

    kind: ClassVar[str] = "times"
    number: int
    title: str
    rows: tuple[TimedRow, ...]
    reference: TimedRow
    device: str

    def paper_ratio(self, row: TimedRow) -> float | None:
        """The paper's time of a row as a multiple of the reference's; None for our own rows."""
        if row.paper_seconds is None or self.reference.paper_seconds is None:
            return None
        return row.paper_seconds / self.reference.paper_seconds


@dataclass(frozen=True, kw_only=True)
class ArchitectureTable:
    """A table of networks.

    Args:
        number: the paper's number of the table.
        title: the heading, which begins with the number.
        layers: the printed layers of each network, keyed by the name of an experiment that has it.
    """

    kind: ClassVar[str] = "networks"
    number: int
    title: str
    layers: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class HyperParameterTable:
    """A table of training settings.

    Args:
        number: the paper's number of the table.
        title: the heading, which begins with the number.
        settings: the printed settings of each row, keyed by the name of the experiment.
    """

    kind: ClassVar[str] = "settings"
    number: int
    title: str
    settings: Mapping[str, Mapping[str, str]]


AnyTable = Table | TimingTable | ArchitectureTable | HyperParameterTable
