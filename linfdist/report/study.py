"""Our own experiments: their recorded results side by side."""

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import records
from linfdist.experiments import Experiment
from linfdist.report.formats import ACCURACIES, with_percents
from linfdist.report.results import results_of

STUDY_COLUMNS = (
    "training",
    "seeds",
    "epochs",
    *ACCURACIES,
    *(f"{name} sd" for name in ACCURACIES),
    "minutes",
    "command",
)


def study(rows: Sequence[Experiment], scale: str = "reduced") -> pd.DataFrame:
    """The recorded results of ``rows`` at ``scale``, one row per experiment.

    - "training": the experiment's title.
    - "seeds": the number of recorded seeds, 0 without a record.
    - "test", "robust", "certified": means over the recorded seeds.
    - "test sd", …: the standard deviations, if there are at least two seeds.
    - "minutes": the time of training alone, for the fastest seed. The fastest is shown because
      other work on the machine can only add to the time.
    - "command": the command that makes a record.
    """
    lines = []
    for row in rows:
        runs = records.find_runs(row.name, scale)
        cells = {"training": row.title, "seeds": len(runs), "command": row.command(scale)}
        if runs:
            seconds = [run.environment["training_seconds"] for run in runs]
            cells |= results_of(runs) | {"minutes": min(seconds) / 60}
        lines.append(cells)
    return pd.DataFrame(lines, columns=list(STUDY_COLUMNS))


def show_study(rows: Sequence[Experiment], scale: str = "reduced") -> Styler:
    """``study`` for a notebook, accuracies in percent; rows without a record are left out."""
    numbers = study(rows, scale)
    shown = with_percents(numbers[numbers["seeds"] > 0].drop(columns="command"))
    return shown.style.hide(axis="index")
