"""Differences between two rows of a table: the paper's difference beside the recorded one."""

import math
from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import records
from linfdist.experiments import Comparison, QuotedRow
from linfdist.report.formats import PRINTED
from linfdist.report.results import results_of

EFFECT_COLUMNS = ("change", "method", "accuracy", "paper", "here", "sd", "seeds", "as in the paper")


def effects(comparisons: Sequence[Comparison], scale: str = "reduced") -> pd.DataFrame:
    """One row per comparison: by how much its accuracy differs, as a fraction of the images.

    - "paper": the difference of the printed numbers.
    - "here": the difference of the means over the seeds recorded at ``scale``.
    - "sd": the standard deviation of "here", if each row has at least two seeds.
    - "seeds": the number of seeds of the row that has fewer.
    - "as in the paper": "yes" if both differences have the same sign, "no" if they do not, and
      "not yet run" if a row has no record.
    """
    return pd.DataFrame(
        [_effect(comparison, scale) for comparison in comparisons], columns=list(EFFECT_COLUMNS)
    )


def show_effects(comparisons: Sequence[Comparison], scale: str = "reduced") -> Styler:
    """``effects`` for a notebook, in percentage points."""
    shown = effects(comparisons, scale)
    shown["here"] = [
        "" if pd.isna(here) else _points(here) + ("" if pd.isna(sd) else f" ± {100 * sd:.2f}")
        for here, sd in zip(shown["here"], shown["sd"], strict=True)
    ]
    shown["paper"] = shown["paper"].map(_points)
    return shown.drop(columns="sd").style.hide(axis="index")


def difference(comparison: Comparison, scale: str) -> dict[str, float]:
    """A comparison's "paper", "here", "sd" and "seeds", as in ``effects``; NaN without a record.

    A quoted row contributes its printed number, and only at the paper's scale.
    """
    key = PRINTED[comparison.accuracy]
    before, after = comparison.before, comparison.after
    cells: dict[str, float] = {
        "paper": getattr(after.paper, key) - getattr(before.paper, key),
        "here": math.nan,
        "sd": math.nan,
    }
    rows = [after] if isinstance(before, QuotedRow) else [before, after]
    runs = [records.find_runs(row.name, scale) for row in rows]
    cells["seeds"] = min(map(len, runs))
    quoted = isinstance(before, QuotedRow)
    if not all(runs) or (quoted and scale != "paper"):
        return cells
    results = [results_of(row) for row in runs]
    reference = getattr(before.paper, key) if quoted else results[0][comparison.accuracy]
    variances = [result[f"{comparison.accuracy} sd"] ** 2 for result in results]
    return cells | {
        "here": results[-1][comparison.accuracy] - reference,
        "sd": sum(variances) ** 0.5,
    }


def _effect(comparison: Comparison, scale: str) -> dict[str, object]:
    cells = difference(comparison, scale)
    here, paper = cells["here"], cells["paper"]
    same = "not yet run" if math.isnan(here) else "yes" if here * paper > 0 else "no"
    return {
        "change": comparison.title,
        "method": comparison.after.title,
        "accuracy": comparison.accuracy,
        "as in the paper": same,
        **cells,
    }


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"
