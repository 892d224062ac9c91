"""Table 4: the paper's seconds per epoch beside those timed here, and the ratios of both."""

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist.bench import epochs_file
from linfdist.bench.epochs import PHASES
from linfdist.experiments import table4
from linfdist.report.formats import format_flops

TIMING_COLUMNS = (
    *("method", "source", "FLOPs", "paper seconds", "paper ratio"),
    *("scale", "device", "batch", "run FLOPs", "seconds", "ratio"),
    *(f"ratio, {phase}" for phase in PHASES),
    "status",
)


def timings(scale: str = "reduced") -> pd.DataFrame:
    """One row per method and device that timed it at ``scale``; "not yet run" without a device.

    - "source": "paper" for the paper's rows, "ours" for the rows that this code adds.
    - "seconds": the time of an epoch of 50,000 images, a mean over the phases of the paper's
      schedule.
    - "ratio": "seconds" over IBP's on the same device.
    - "ratio, <phase>": the phase's seconds over IBP's mean on the same device.
    - "batch": the batch size that was timed.
    """
    files = epochs_file.recorded(scale)
    rows = [_row(row, scale, times) for times in files or [None] for row in table4.ROWS]
    return pd.DataFrame(rows, columns=list(TIMING_COLUMNS))


def _row(
    row: table4.TimedRow, scale: str, times: epochs_file.EpochTimes | None
) -> dict[str, object]:
    experiment, paper = row.experiment, row.paper_seconds
    cells: dict[str, object] = {
        "method": experiment.title,
        "source": "ours" if paper is None else "paper",
        "FLOPs": experiment.paper.flops,
        "paper seconds": paper,
        "paper ratio": None if paper is None else paper / table4.REFERENCE.paper_seconds,
        "scale": scale,
    }
    if times is None:
        command = f"python -m linfdist bench epochs --scale {scale}"
        return cells | {"status": f"not yet run: {command}"}
    summary = times.summary()
    here, reference = (
        summary.loc[name] for name in (experiment.name, table4.REFERENCE.experiment.name)
    )
    return cells | {
        "device": times.device,
        "batch": here["batch"],
        "run FLOPs": here["flops"],
        "seconds": here["seconds"],
        "ratio": here["ratio"],
        **{f"ratio, {phase}": here[phase] / reference["seconds"] for phase in PHASES},
        "status": f"median of {times.rounds} rounds, {times.environment['backend']}",
    }


def printed_timings(scale: str) -> tuple[str, pd.DataFrame]:
    """The title and the cells as text."""
    numbers = timings(scale)
    shown = numbers.drop(columns=["paper seconds", "paper ratio", "seconds", "ratio"])
    shown["run FLOPs"] = numbers["run FLOPs"].map(format_flops, na_action="ignore")
    shown["batch"] = numbers["batch"].map("{:.0f}".format, na_action="ignore")
    for name in numbers.filter(regex="seconds|ratio"):
        written = "{:.1f}".format if "seconds" in name else "{:.2f}×".format
        shown[name] = numbers[name].map(written, na_action="ignore")
    title = f"{table4.TITLE} (the paper's on an {table4.DEVICE}; ratios to IBP)"
    return title, shown[list(TIMING_COLUMNS)].astype(object).fillna("")


def timings_text(scale: str) -> str:
    """The table for a terminal, followed by the status of each device."""
    title, shown = printed_timings(scale)
    notes = shown.groupby(["device", "status"]).groups
    cells = shown.drop(columns="status").to_string(index=False)
    lines = (": ".join(filter(None, note)) for note in notes)
    return "\n".join([title, "", cells, "", *lines])


def show_timings(scale: str = "reduced") -> Styler:
    """The table for a notebook; the rows that this code adds are set in italics."""
    title, shown = printed_timings(scale)
    ours = shown["source"] == "ours"
    styler = shown.style.set_caption(title).hide(axis="index")
    return styler.apply(lambda column: ours.map({True: "font-style: italic"}))
