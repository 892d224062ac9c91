"""The paper's tables by number, with the numbers of this code beside the printed ones."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import experiments
from linfdist.experiments import (
    AnyTable,
    ArchitectureTable,
    HyperParameterTable,
    Table,
    TimingTable,
)
from linfdist.report import architectures, results, timings, training_settings
from linfdist.system.names import unknown


class Renderer(Protocol):
    """What a module of this package offers for one kind of table."""

    def frame(self, table: Any, scale: str) -> pd.DataFrame:
        """The numbers, unformatted."""

    def text(self, table: Any, scale: str) -> str:
        """The table for a terminal."""

    def style(self, table: Any, scale: str) -> Styler:
        """The table for a notebook."""


RENDERERS: Mapping[type[AnyTable], Renderer] = MappingProxyType(
    {
        Table: results,
        TimingTable: timings,
        ArchitectureTable: architectures,
        HyperParameterTable: training_settings,
    }
)


def table(number: int, scale: str = "reduced") -> pd.DataFrame:
    """A table of the paper, with the numbers of this code beside the printed ones.

    The columns depend on the kind of table:

    - results: ``report.results.frame``, with the numbers recorded at ``scale``.
    - times (Table 4): ``report.timings.frame``, with the times recorded at ``scale``.
    - networks (Tables 5 and 8): ``report.architectures.frame``.
    - training settings (Table 6): ``report.training_settings.frame``.

    Raises:
        UnknownName: no such table or scale.
    """
    chosen = _table(number, scale)
    return RENDERERS[type(chosen)].frame(chosen, scale)


def text(number: int, scale: str = "reduced") -> str:
    """The table for a terminal."""
    chosen = _table(number, scale)
    return RENDERERS[type(chosen)].text(chosen, scale)


def show(number: int, scale: str = "reduced") -> Styler:
    """The table for a notebook."""
    chosen = _table(number, scale)
    return RENDERERS[type(chosen)].style(chosen, scale)


def _table(number: int, scale: str) -> AnyTable:
    """The table with this number; UnknownName if there is no such table or scale."""
    if number not in experiments.TABLES:
        raise experiments.UnknownName(unknown("table", str(number), map(str, experiments.TABLES)))
    experiments.check_scale(scale)
    return experiments.TABLES[number]
