"""The ledger as the book shows it."""

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist.report.formats import format_flops, format_percent
from linfdist.report.ledger import Verdict

VERDICT_COLORS = {
    Verdict.REPRODUCED: "#2e8b57",
    Verdict.EXCEEDED: "#1f77b4",
    Verdict.REPRODUCED_AT_REDUCED_SCALE: "#6aa84f",
    Verdict.WITHIN_NOISE: "#b8860b",
    Verdict.NOT_REPRODUCED: "#cc3d3d",
}


def verdicts(claims: pd.DataFrame) -> pd.DataFrame:
    """The number of claims with each verdict: one row per table, one column per verdict."""
    counts = pd.crosstab(claims["table"], claims["verdict"])
    return counts.reindex(columns=list(Verdict), fill_value=0)


def show_ledger(claims: pd.DataFrame) -> Styler:
    """Rows of a ledger for a notebook at the book's root, with links to the tables and records.

    Accuracies are in percent and differences in percentage points. Both show the standard deviation
    over the seeds.
    """
    # Without any record, a column of text holds numbers: NaN.
    words = claims[["scale", "device", "commit"]].astype(object).fillna("")
    shown = pd.DataFrame(
        {
            "table": [_table_link(number) for number in claims["table"]],
            "claim": claims["claim"],
            "paper": [_number(row.kind, row.paper) for row in claims.itertuples()],
            "here": [_measured(row) for row in claims.itertuples()],
            "n": claims["n"].map(lambda n: "" if pd.isna(n) or n == 0 else f"{n:.0f}"),
            "scale": words["scale"],
            "tolerance": [_tolerance(row) for row in claims.itertuples()],
            "minutes": claims["minutes"].map(lambda n: "" if pd.isna(n) else f"{n:.0f}"),
            "device": words["device"].str.replace(r"\(R\)| Processor", "", regex=True),
            "commit": words["commit"],
            "records": [_record_links(paths) for paths in claims["runs"]],
            "verdict": claims["verdict"],
        }
    )
    styler = shown.style.hide(axis="index")
    return styler.map(
        lambda verdict: f"color: {VERDICT_COLORS.get(verdict, 'inherit')}; font-weight: bold",
        subset=["verdict"],
    )


def _table_link(number: int) -> str:
    return f'<a href="tables/table{number}.html">{number}</a>'


def _record_links(paths: object) -> str:
    if not isinstance(paths, tuple):
        return ""
    names = [path.rpartition("seed")[2] for path in paths]
    return " ".join(
        f'<a href="runs/{path}/metrics.json" title="{path}">{name}</a>'
        for path, name in zip(paths, names, strict=True)
    )


def _number(kind: str, value: float) -> str:
    if kind == "FLOPs":
        return format_flops(value)
    if kind == "time":
        return f"{value:.2f}×"
    return f"{100 * value:+.2f}" if kind == "difference" else format_percent(value)


def _measured(row) -> str:
    if pd.isna(row.here):
        return ""
    spread = "" if pd.isna(row.sd) else f" ± {100 * row.sd:.2f}"
    return _number(row.kind, row.here) + spread


def _tolerance(row) -> str:
    if pd.isna(row.tolerance):
        return ""
    if row.kind in ("FLOPs", "time"):
        return _number(row.kind, row.tolerance)
    return f"{100 * row.tolerance:.2f}"
