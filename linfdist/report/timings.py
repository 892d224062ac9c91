"""Tables of times: the paper's seconds per epoch beside those timed here, and their ratios."""

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist.bench import epochs_file
from linfdist.bench.epochs import PHASES
from linfdist.experiments import TimingTable
from linfdist.experiments.tables import TimedRow
from linfdist.report.formats import format_flops

TIMING_COLUMNS = (
    *("method", "source", "FLOPs", "paper seconds", "paper ratio"),
    *("scale", "device", "batch", "run FLOPs", "seconds", "ratio"),
    *(f"ratio, {phase}" for phase in PHASES),
    "status",
)


def frame(table: TimingTable, scale: str) -> pd.DataFrame:
    """One row per method and device that timed it at ``scale``; "not yet run" without a device.

    - "source": "paper" for the paper's rows, "ours" for the rows that this code adds.
    - "seconds": the time of an epoch of 50,000 images, a mean over the phases of the paper's
      schedule.
    - "ratio": "seconds" over those of the reference, IBP, on the same device.
    - "ratio, <phase>": the phase's seconds over IBP's mean on the same device.
    - "batch": the batch size that was timed.
    """
    files: Sequence[epochs_file.EpochTimes | None] = epochs_file.recorded_times(scale) or [None]
    rows = [_row(table, row, scale, times) for times in files for row in table.rows]
    return pd.DataFrame(rows, columns=list(TIMING_COLUMNS))


def text(table: TimingTable, scale: str) -> str:
    """The table for a terminal, followed by the status of each device."""
    title, shown = _printed(table, scale)
    notes = shown.groupby(["device", "status"]).groups
    cells = shown.drop(columns="status").to_string(index=False)
    lines = (": ".join(filter(None, note)) for note in notes)
    return "\n".join([title, "", cells, "", *lines])


def style(table: TimingTable, scale: str) -> Styler:
    """The table for a notebook; the rows that this code adds are set in italics."""
    title, shown = _printed(table, scale)
    ours = shown["source"] == "ours"
    styler = shown.style.set_caption(title).hide(axis="index")
    return styler.apply(lambda column: ours.map({True: "font-style: italic"}))


def _row(
    table: TimingTable, row: TimedRow, scale: str, times: epochs_file.EpochTimes | None
) -> dict[str, object]:
    experiment = row.experiment
    cells: dict[str, object] = {
        "method": experiment.title,
        "source": "ours" if row.paper_seconds is None else "paper",
        "FLOPs": experiment.paper.flops,
        "paper seconds": row.paper_seconds,
        "paper ratio": table.paper_ratio(row),
        "scale": scale,
    }
    if times is None:
        command = f"python -m linfdist bench epochs --scale {scale}"
        return cells | {"status": f"not yet run: {command}"}
    summary = times.summary()
    here, ibp = summary.loc[experiment.name], summary.loc[table.reference.experiment.name]
    return cells | {
        "device": times.device,
        "batch": here["batch"],
        "run FLOPs": here["flops"],
        "seconds": here["seconds"],
        "ratio": here["ratio"],
        **{f"ratio, {phase}": here[phase] / ibp["seconds"] for phase in PHASES},
        "status": f"median of {times.rounds} rounds, {times.environment['backend']}",
    }


def _printed(table: TimingTable, scale: str) -> tuple[str, pd.DataFrame]:
    """The title and the cells as text."""
    numbers = frame(table, scale)
    shown = numbers.drop(columns=["paper seconds", "paper ratio", "seconds", "ratio"])
    shown["run FLOPs"] = numbers["run FLOPs"].map(format_flops, na_action="ignore")
    shown["batch"] = numbers["batch"].map("{:.0f}".format, na_action="ignore")
    for name in numbers.filter(regex="seconds|ratio"):
        written = "{:.1f}".format if "seconds" in name else "{:.2f}×".format
        shown[name] = numbers[name].map(written, na_action="ignore")
    title = f"{table.title} (the paper's on an {table.device}; ratios to IBP)"
    return title, shown[list(TIMING_COLUMNS)].astype(object).fillna("")
