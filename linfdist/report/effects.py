"""What a change is worth: the difference of two rows, the paper's beside the recorded one."""

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import records
from linfdist.experiments import Change
from linfdist.report.formats import PRINTED
from linfdist.report.results import results_of

COLUMNS = ("change", "method", "accuracy", "paper", "here", "sd", "seeds", "as in the paper")


def effects(changes: Sequence[Change], scale: str = "reduced") -> pd.DataFrame:
    """A row for each change: by how much it raises an accuracy, as a fraction of the images.

    "paper" is the difference of the printed numbers, "here" that of the means over the seeds
    recorded at ``scale``, with its standard deviation from two seeds of each on; "seeds" are those
    of the row that has fewer. "as in the paper" is "yes" where both differences have one sign, "no"
    where they have not, and "not yet run" where a row has no record.
    """
    return pd.DataFrame([_effect(change, scale) for change in changes], columns=list(COLUMNS))


def show_effects(changes: Sequence[Change], scale: str = "reduced") -> Styler:
    """``effects`` for a notebook, in percentage points."""
    shown = effects(changes, scale)
    shown["here"] = [
        "" if pd.isna(here) else _points(here) + ("" if pd.isna(sd) else f" ± {100 * sd:.2f}")
        for here, sd in zip(shown["here"], shown["sd"], strict=True)
    ]
    shown["paper"] = shown["paper"].map(_points)
    return shown.drop(columns="sd").style.hide(axis="index")


def _effect(change: Change, scale: str) -> dict[str, object]:
    key = PRINTED[change.accuracy]
    paper = getattr(change.after.paper, key) - getattr(change.before.paper, key)
    rows = [records.find_runs(row.name, scale) for row in (change.before, change.after)]
    cells: dict[str, object] = {
        "change": change.title,
        "method": change.after.title,
        "accuracy": change.accuracy,
        "paper": paper,
        "seeds": min(map(len, rows)),
        "as in the paper": "not yet run",
    }
    if not all(rows):
        return cells
    before, after = map(results_of, rows)
    here = after[change.accuracy] - before[change.accuracy]
    sd = f"{change.accuracy} sd"
    return cells | {
        "here": here,
        "sd": (before[sd] ** 2 + after[sd] ** 2) ** 0.5,
        "as in the paper": "yes" if here * paper > 0 else "no",
    }


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"
