"""The experiments by name: the paper's, one module per table, and our own studies."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType

from linfdist import records
from linfdist.experiments import differences, smoothing_study
from linfdist.experiments.base import SCALES as SCALES
from linfdist.experiments.base import Change as Change
from linfdist.experiments.base import Experiment as Experiment
from linfdist.experiments.base import PaperNumbers as PaperNumbers
from linfdist.experiments.base import QuotedRow as QuotedRow
from linfdist.experiments.base import Setting as Setting
from linfdist.system.names import unknown

VALIDATION_PREFIX = f"{records.VALIDATION}/"  # a prefix of an experiment's name
LIST = "python -m linfdist list"
LISTED = f"`{LIST}`"  # the command that lists all names


class UnknownName(ValueError):
    """No experiment, scale or table has this name."""


# The modules table<n> of this package, by n.
TABLES: Mapping[int, ModuleType] = MappingProxyType(
    {
        int(module.name.removeprefix("table")): import_module(f"{__name__}.{module.name}")
        for module in iter_modules(__path__)
        if module.name.startswith("table")
    }
)
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        experiment.name: experiment
        for module in (*(t for _, t in sorted(TABLES.items())), smoothing_study, differences)
        for experiment in module.EXPERIMENTS
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
