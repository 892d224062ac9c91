"""The paper's tables, with the recorded numbers beside the printed ones."""

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import data, experiments, records
from linfdist.experiments import Experiment, QuotedRow, printed_settings
from linfdist.report.formats import (
    PRINTED,
    format_flops,
    format_percent,
    format_pixels,
    with_percents,
)
from linfdist.report.settings import architectures, hyper_parameter_table
from linfdist.report.timings import show_timings, timings, timings_text
from linfdist.system.names import unknown

TIMES = 4
SETTING_TABLES = {
    5: "Table 5. Details of network architectures",
    6: "Table 6. Hyper-parameters of Tables 1 and 2",
    8: "Table 8. Details of convolutional network architectures",
}


def table(number: int, scale: str = "reduced") -> pd.DataFrame:
    """A table of the paper, with the numbers recorded at ``scale`` beside the printed ones.

    Table 4 is ``timings``. Tables 5, 6 and 8 compare this code's settings at the paper's scale with
    the printed ones. The other tables have one row per method or setting, and these columns:

    - "paper test", "paper robust", "paper certified": the printed accuracies, as fractions.
    - "test", "robust", "certified": the means over the recorded seeds, as fractions; empty for a
      row without a record. Table 7 prints "train" and "test" only; ``results_of`` defines "train".
    - "test sd", …: the standard deviations, if there are at least two seeds.
    - "scale": the scale; also the data set if it is not the paper's, and the numbers of classes and
      test images if a run did not use all of them.
    - "status": for a row without a record, the command that makes one; for a quoted row, why it is
      not rerun.

    Raises:
        UnknownName: no such table or scale.
    """
    known = sorted({*experiments.TABLES, *SETTING_TABLES})
    if number not in known:
        raise experiments.UnknownName(unknown("table", str(number), map(str, known)))
    experiments.check_scale(scale)
    if number == TIMES:
        return timings(scale)
    if number == 5:
        return architectures(printed_settings.TABLE5)
    if number == 6:
        return hyper_parameter_table()
    if number == 8:
        return architectures(printed_settings.TABLE8)
    return _results(number, scale)


def text(number: int, scale: str = "reduced") -> str:
    """The table for a terminal, followed by lines that say where each row ran, or how to run it.

    Rows with the same status share a line.
    """
    if number == TIMES:
        return timings_text(scale)
    title, shown = _printed(number, scale)
    if number in SETTING_TABLES:
        return f"{title}\n\n{shown.to_string()}"
    switches = experiments.TABLES[number].EXPERIMENTS[0].switches
    rows: dict[str, list[str]] = {}
    for _, row in shown[shown["status"] != ""].iterrows():
        said = [row["method"], *(f"{name} {row[name]}" for name in switches), row["data set"]]
        rows.setdefault(row["status"], []).append(", ".join(said))
    notes = [
        f"{'All rows' if len(names) == len(shown) > 1 else '; '.join(names)}: {status}"
        for status, names in rows.items()
    ]
    cells = shown.drop(columns="status").to_string(index=False)
    return "\n".join([title, "", cells, "", *notes])


def show(number: int, scale: str = "reduced") -> Styler:
    """The table for a notebook; ℓ∞-dist nets are in bold if the table has other methods too."""
    if number == TIMES:
        return show_timings(scale)
    title, shown = _printed(number, scale)
    styler = shown.style.set_caption(title)
    if number in SETTING_TABLES:
        return styler
    nets = shown["method"].str.contains("ℓ∞-dist")
    bold = nets.map({True: "" if nets.all() else "font-weight: bold"})
    return styler.hide(axis="index").apply(lambda column: bold)


def _results(number: int, scale: str) -> pd.DataFrame:
    module = experiments.TABLES[number]
    others = *getattr(module, "QUOTED", ()), *getattr(module, "AGAIN", ())
    rows = [*others, *module.EXPERIMENTS]
    order = {name: rank for rank, name in enumerate(data.DATASETS)}
    methods = {title: rank for rank, title in enumerate(getattr(module, "METHODS", ()))}
    rows.sort(key=lambda row: (order[row.dataset], methods.get(row.title, len(methods))))
    return pd.DataFrame([_result(row, scale) for row in rows], columns=_columns(rows))


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
    own = isinstance(row, Experiment)
    cells = {
        "data set": data.DATASETS[row.dataset].title,
        "eps": format_pixels(row.eps),
        "method": row.title,
        "source": "this code" if own else "quoted",
        "FLOPs": row.paper.flops,
        **{f"paper {name}": getattr(row.paper, key) for name, key in PRINTED.items()},
        "status": "" if own or not row.reason else f"quoted: {row.reason}",
    }
    return cells | dict(row.switches) | _recorded(row, scale) if own else cells


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


def _printed(number: int, scale: str) -> tuple[str, pd.DataFrame]:
    """The title and the cells of a table as text; "source" is left out if no row is quoted."""
    numbers = table(number, scale)
    if number in SETTING_TABLES:
        return SETTING_TABLES[number], numbers.T if number == 6 else numbers
    shown = with_percents(numbers)
    for name in PRINTED.keys() & {*numbers}:
        shown[f"paper {name}"] = numbers[f"paper {name}"].map(format_percent)
    shown["run FLOPs"] = numbers["run FLOPs"].map(lambda n: "" if pd.isna(n) else format_flops(n))
    if (numbers["source"] == "this code").all():
        shown = shown.drop(columns="source")
    title = f"{experiments.TABLES[number].TITLE} (accuracies in percent)"
    return title, shown.fillna("")
