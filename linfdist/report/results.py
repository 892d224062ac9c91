"""Tables of results: the recorded numbers beside the printed ones."""

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import data, records
from linfdist.experiments import Experiment, QuotedRow, Table
from linfdist.report.formats import (
    PRINTED,
    format_flops,
    format_percent,
    format_pixels,
    with_percents,
)


def frame(table: Table, scale: str) -> pd.DataFrame:
    """One row per method or setting.

    - "paper test", "paper robust", "paper certified": the printed accuracies, as fractions.
    - "test", "robust", "certified": the means over the recorded seeds, as fractions; empty for a
      row without a record. Table 7 prints "train" and "test" only; ``results_of`` defines "train".
    - "test sd", …: the standard deviations, if there are at least two seeds.
    - "scale": the scale; also the data set if it is not the paper's, and the numbers of classes and
      test images if a run did not use all of them.
    - "status": for a row without a record, the command that makes one; for a quoted row, why it is
      not rerun.
    """
    rows: list[Experiment | QuotedRow] = [*table.quoted, *table.repeated, *table.experiments]
    order = {name: rank for rank, name in enumerate(data.DATASETS)}
    methods = {title: rank for rank, title in enumerate(table.methods)}
    rows.sort(key=lambda row: (order[row.dataset], methods.get(row.title, len(methods))))
    return pd.DataFrame([_result(row, scale) for row in rows], columns=_columns(rows))


def text(table: Table, scale: str) -> str:
    """The table for a terminal, followed by lines that say where each row ran, or how to run it.

    Rows with the same status share a line.
    """
    title, shown = _printed(table, scale)
    switches = table.experiments[0].switches
    by_status: dict[str, list[str]] = {}
    for _, row in shown[shown["status"] != ""].iterrows():
        said = [row["method"], *(f"{name} {row[name]}" for name in switches), row["data set"]]
        by_status.setdefault(row["status"], []).append(", ".join(said))
    notes = [
        f"{'All rows' if len(names) == len(shown) > 1 else '; '.join(names)}: {status}"
        for status, names in by_status.items()
    ]
    cells = shown.drop(columns="status").to_string(index=False)
    return "\n".join([title, "", cells, "", *notes])


def style(table: Table, scale: str) -> Styler:
    """The table for a notebook; ℓ∞-dist nets are in bold if the table has other methods too."""
    title, shown = _printed(table, scale)
    nets = shown["method"].str.contains("ℓ∞-dist")
    bold = nets.map({True: "" if nets.all() else "font-weight: bold"})
    return shown.style.set_caption(title).hide(axis="index").apply(lambda column: bold)


def _columns(rows: Sequence[Experiment | QuotedRow]) -> list[str]:
    """The columns of a table: first those that the paper prints, then ours."""
    switches = [row.switches for row in rows if isinstance(row, Experiment)]
    accuracies = [
        name
        for name, key in PRINTED.items()
        if any(getattr(row.paper, key) is not None for row in rows)
    ]
    return [
        *("data set", "eps", "method", *switches[0], "source"),
        *(["FLOPs"] if any(row.paper.flops for row in rows) else []),
        *(f"paper {name}" for name in accuracies),
        *("scale", "seeds", *accuracies, *(f"{name} sd" for name in accuracies)),
        *("epochs", "run FLOPs", "minutes", "status"),
    ]


def _result(row: Experiment | QuotedRow, scale: str) -> dict[str, object]:
    cells: dict[str, object] = {
        "data set": data.DATASETS[row.dataset].title,
        "eps": format_pixels(row.eps),
        "method": row.title,
        "source": "quoted" if isinstance(row, QuotedRow) else "this code",
        "FLOPs": row.paper.flops,
        **{f"paper {name}": getattr(row.paper, key) for name, key in PRINTED.items()},
    }
    if isinstance(row, QuotedRow):
        return cells | {"status": f"quoted: {row.reason}" if row.reason else ""}
    return cells | {"status": "", **row.switches} | _recorded(row, scale)


def _recorded(experiment: Experiment, scale: str) -> dict[str, object]:
    runs = records.find_runs(experiment.name, scale)
    cells: dict[str, object] = {"scale": noted_scale(experiment, scale, runs)}
    if not runs:
        return cells | {"seeds": 0, "status": f"not yet run: {experiment.command(scale)}"}
    cells |= results_of(runs)
    return cells | {
        "seeds": len(runs),
        "run FLOPs": runs[0].config["flops"],
        "minutes": sum(run.seconds for run in runs) / len(runs) / 60,
        "status": f"run on {', '.join(sorted({run.environment['device'] for run in runs}))}",
    }


def noted_scale(experiment: Experiment, scale: str, runs: Sequence[records.Run]) -> str:
    """The scale, and how its data differ from the paper's: "reduced (40 of 200 classes)"."""
    setting = experiment.scales[scale]
    notes = [] if setting.dataset == experiment.dataset else [setting.dataset]
    all_classes = data.DATASETS[setting.dataset].num_classes
    for count in sorted({run.config["num_classes"] for run in runs} - {all_classes}):
        notes.append(f"{count} of {all_classes} classes")
    for count in sorted({run.config["setting"]["test_images"] for run in runs} - {None}):
        notes.append(f"{count:,} test images")
    return f"{scale} ({', '.join(notes)})" if notes else scale


def results_of(runs: Sequence[records.Run]) -> dict[str, float]:
    """Means over an experiment's runs: accuracies with their standard deviations, and epochs.

    "train" is the last epoch's training accuracy from epochs.csv. It is a mean over the steps of
    that epoch, at p = ∞, on augmented images and with the mean shifts of each batch. The learning
    rate is near 0 by then, so the weights hardly move.
    """
    metrics = pd.DataFrame(
        [run.metrics | {"train_accuracy": run.epochs["train_accuracy"].iloc[-1]} for run in runs]
    )
    cells: dict[str, float] = {}
    for name, key in PRINTED.items():
        cells[name] = metrics[key].mean()
        cells[f"{name} sd"] = metrics[key].std()
    return cells | {"epochs": round(sum(len(run.epochs) for run in runs) / len(runs))}


def _printed(table: Table, scale: str) -> tuple[str, pd.DataFrame]:
    """The title and the cells of a table as text; "source" is left out if no row is quoted."""
    numbers = frame(table, scale)
    shown = with_percents(numbers)
    for name in PRINTED.keys() & {*numbers}:
        shown[f"paper {name}"] = numbers[f"paper {name}"].map(format_percent)
    shown["run FLOPs"] = numbers["run FLOPs"].map(lambda n: "" if pd.isna(n) else format_flops(n))
    if (numbers["source"] == "this code").all():
        shown = shown.drop(columns="source")
    return f"{table.title} (accuracies in percent)", shown.fillna("")
