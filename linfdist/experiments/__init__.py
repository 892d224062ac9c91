"""The experiments by name: the paper's, one module per table, and our own studies."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from linfdist import records
from linfdist.experiments import (
    differences,
    smoothing_study,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
)
from linfdist.experiments.base import SCALES as SCALES
from linfdist.experiments.base import Experiment as Experiment
from linfdist.experiments.base import PaperNumbers as PaperNumbers
from linfdist.experiments.base import QuotedRow as QuotedRow
from linfdist.experiments.base import Setting as Setting
from linfdist.experiments.tables import AnyTable as AnyTable
from linfdist.experiments.tables import ArchitectureTable as ArchitectureTable
from linfdist.experiments.tables import Comparison as Comparison
from linfdist.experiments.tables import HyperParameterTable as HyperParameterTable
from linfdist.experiments.tables import Table as Table
from linfdist.experiments.tables import TimingTable as TimingTable
from linfdist.system.names import unknown

_Kind = TypeVar("_Kind", bound=AnyTable)

VALIDATION_PREFIX = f"{records.VALIDATION}/"  # a prefix of an experiment's name
LIST = "python -m linfdist list"
LISTED = f"`{LIST}`"  # the command that lists all names


class UnknownName(ValueError):
    """No experiment, scale or table has this name."""


# The paper's tables by number.
TABLES: Mapping[int, AnyTable] = MappingProxyType(
    {
        table.number: table
        for table in (
            table1.TABLE,
            table2.TABLE,
            table3.TABLE,
            table4.TABLE,
            table5.TABLE,
            table6.TABLE,
            table7.TABLE,
            table8.TABLE,
            table9.TABLE,
        )
    }
)


def tables_of(kind: type[_Kind]) -> list[_Kind]:
    """The tables of one kind, such as ``Table`` for the tables of results."""
    return [table for table in TABLES.values() if isinstance(table, kind)]


EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        experiment.name: experiment
        for rows in (
            *(table.experiments for table in tables_of(Table)),
            smoothing_study.EXPERIMENTS,
            differences.EXPERIMENTS,
        )
        for experiment in rows
    }
)


def get(name: str) -> Experiment:
    """The experiment called ``name``; UnknownName with suggestions if there is none.

    "validation/<name>" is the experiment without the test set: each scale has ``validation=True``.
    """
    row = name.removeprefix(VALIDATION_PREFIX)
    if row not in EXPERIMENTS:
        raise UnknownName(unknown("experiment", row, EXPERIMENTS, LISTED))
    experiment = EXPERIMENTS[row]
    if row == name:
        return experiment
    scales = {scale: replace(one, validation=True) for scale, one in experiment.scales.items()}
    return replace(experiment, name=name, scales=scales)


def get_setting(name: str, scale: str) -> Setting:
    """The setting of an experiment at a scale."""
    experiment = get(name)
    check_scale(scale)
    return experiment.scales[scale]


def check_scale(scale: str) -> None:
    """UnknownName with suggestions unless ``scale`` is one of ``SCALES``."""
    if scale not in SCALES:
        raise UnknownName(unknown("scale", scale, SCALES))


def parse_rows(rows: str | Iterable[str], table: int = 1) -> list[str]:
    """Full names of a table's rows: "mnist_net,mnist_net_mlp" -> ["table1/mnist_net", ...].

    "all" and the empty string stand for every row of the table.
    """
    known = {
        name.partition("/")[2]: name for name in EXPERIMENTS if name.startswith(f"table{table}/")
    }
    if isinstance(rows, str):
        rows = [] if rows.strip() == "all" else rows.split(",")
    wanted = [row.strip().removeprefix(f"table{table}/") for row in rows if row.strip()]
    for row in wanted:
        if row not in known:
            listed = f"`{LIST} table{table}`"
            raise UnknownName(unknown(f"row of Table {table}", row, known, listed))
    return [known[row] for row in wanted or known]
