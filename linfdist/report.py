"""The paper's tables with the numbers recorded here beside the printed ones."""

import math
from collections.abc import Iterator
from fractions import Fraction

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from linfdist import data, experiments, records
from linfdist._suggest import unknown
from linfdist.experiments import Experiment, QuotedRow, printed
from linfdist.nn import NetConfig, build_net, flop_count
from linfdist.training import HingeLoss, TrainConfig

ACCURACIES = {
    "test": "clean_accuracy",
    "robust": "pgd_accuracy",
    "certified": "certified_accuracy",
}
RESULT_COLUMNS = (
    "data set",
    "eps",
    "method",
    "source",
    "FLOPs",
    *(f"paper {name}" for name in ACCURACIES),
    "scale",
    "seeds",
    *ACCURACIES,
    *(f"{name} sd" for name in ACCURACIES),
    "epochs",
    "run FLOPs",
    "minutes",
    "status",
)
SETTING_TABLES = (5, 6)


def table(number: int, scale: str = "reduced") -> pd.DataFrame:
    """A table of the paper, with what is recorded at ``scale`` beside it.

    Tables 1 and 2 have a row for each method; accuracies are fractions. "paper test", "paper
    robust" and "paper certified" are the printed numbers; "test", "robust" and "certified" are the
    mean over the recorded seeds, " sd" the standard deviation from two seeds on. A row of this code
    without a record has no numbers, and "status" says how to make them. "scale" also names the data
    set, where it is not the paper's, and the number of classes, where a run had not all of them.
    Tables 5 and 6 compare the settings of the paper's scale in this code with the printed ones.

    Raises:
        UnknownName: no such table or scale.
    """
    known = sorted({*experiments.TABLES, *SETTING_TABLES})
    if number not in known:
        raise experiments.UnknownName(unknown("table", str(number), map(str, known)))
    experiments.check_scale(scale)
    if number == 5:
        return _architectures()
    if number == 6:
        return _hyper_parameters()
    return _results(number, scale)


def text(number: int, scale: str = "reduced") -> str:
    """The table for a terminal; what each row of this code ran on, or how to run it, is below."""
    title, shown = _printed(number, scale)
    if number in SETTING_TABLES:
        return f"{title}\n\n{shown.to_string()}"
    own = shown[shown["source"] == "this code"]
    notes = [f"{row['method']}, {row['data set']}: {row['status']}" for _, row in own.iterrows()]
    cells = shown.drop(columns="status").to_string(index=False)
    return "\n".join([title, "", cells, "", *notes])


def show(number: int, scale: str = "reduced") -> Styler:
    """The table for a notebook; the rows of this code are set in bold."""
    title, shown = _printed(number, scale)
    styler = shown.style.set_caption(title)
    if number in SETTING_TABLES:
        return styler
    own = shown["source"] == "this code"
    return styler.hide(axis="index").apply(lambda column: own.map({True: "font-weight: bold"}))


def format_pixels(value: Fraction) -> str:
    """A radius as papers write it: "0.3" where three digits are exact, else "8/255"."""
    if (value * 1000).denominator == 1:
        return f"{float(value):g}"
    return f"{float(value * 255):g}/255"


def _results(number: int, scale: str) -> pd.DataFrame:
    module = experiments.TABLES[number]
    rows = [*module.QUOTED, *module.EXPERIMENTS]
    order = {name: rank for rank, name in enumerate(data.DATASETS)}
    rows.sort(key=lambda row: order[row.dataset])
    return pd.DataFrame([_result(row, scale) for row in rows], columns=RESULT_COLUMNS)


def _result(row: Experiment | QuotedRow, scale: str) -> dict[str, object]:
    own = isinstance(row, Experiment)
    cells = {
        "data set": data.DATASETS[row.dataset].title,
        "eps": format_pixels(row.eps),
        "method": row.title,
        "source": "this code" if own else "quoted",
        "FLOPs": row.paper.flops,
        **{f"paper {name}": getattr(row.paper, key) for name, key in ACCURACIES.items()},
        "status": "",
    }
    return cells | _recorded(row, scale) if own else cells


def _recorded(experiment: Experiment, scale: str) -> dict[str, object]:
    setting = experiment.scales[scale]
    runs = records.find_runs(experiment.name, scale)
    notes = [] if setting.dataset == experiment.dataset else [setting.dataset]
    all_classes = data.DATASETS[setting.dataset].num_classes
    for found in sorted({run.config["num_classes"] for run in runs} - {all_classes}):
        notes.append(f"{found} of {all_classes} classes")
    cells: dict[str, object] = {"scale": f"{scale} ({', '.join(notes)})" if notes else scale}
    if not runs:
        return cells | {"seeds": 0, "status": f"not yet run: {experiment.command(scale)}"}
    metrics = pd.DataFrame([run.metrics for run in runs])
    for name, key in ACCURACIES.items():
        cells[name] = metrics[key].mean()
        cells[f"{name} sd"] = metrics[key].std()
    return cells | {
        "seeds": len(runs),
        "epochs": round(sum(len(run.epochs) for run in runs) / len(runs)),
        "run FLOPs": runs[0].config["flops"],
        "minutes": sum(run.seconds for run in runs) / len(runs) / 60,
        "status": f"run on {', '.join(sorted({run.environment['device'] for run in runs}))}",
    }


def _printed(number: int, scale: str) -> tuple[str, pd.DataFrame]:
    """The title and the cells of a table as text."""
    numbers = table(number, scale)
    if number == 5:
        return "Table 5. Details of network architectures", numbers
    if number == 6:
        return "Table 6. Hyper-parameters of Tables 1 and 2", numbers.T
    shown = numbers.drop(columns=[f"{name} sd" for name in ACCURACIES])
    for name in ACCURACIES:
        shown[f"paper {name}"] = numbers[f"paper {name}"].map(_percent)
        shown[name] = [
            _measured(mean, sd)
            for mean, sd in zip(numbers[name], numbers[f"{name} sd"], strict=True)
        ]
    shown["seeds"] = numbers["seeds"].map(_integer)
    shown["epochs"] = numbers["epochs"].map(_integer)
    shown["run FLOPs"] = numbers["run FLOPs"].map(lambda n: "" if pd.isna(n) else format_flops(n))
    shown["minutes"] = numbers["minutes"].map(lambda n: "" if pd.isna(n) else f"{n:.1f}")
    title = f"{experiments.TABLES[number].TITLE} (accuracies in percent)"
    return title, shown.fillna("")


def _percent(fraction: float | None) -> str:
    return "–" if pd.isna(fraction) else f"{100 * fraction:.2f}"


def _measured(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return ""
    return _percent(mean) if pd.isna(sd) else f"{_percent(mean)} ± {100 * sd:.2f}"


def _integer(number: float) -> str:
    return "" if pd.isna(number) else f"{number:.0f}"


def format_flops(flops: float) -> str:
    """Three digits and a unit: 82708480 -> "82.7M"."""
    scaled = float(f"{flops:.3g}")
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if scaled >= unit:
            digits = 2 - int(math.log10(scaled / unit))
            return f"{scaled / unit:.{digits}f}{name}"
    return f"{scaled:.0f}"


def layers(net: NetConfig, num_classes: int, *, in_channels: int | None = None) -> list[str]:
    """A network's layers in the words of Tables 5 and 8.

    Raises:
        ValueError: a convolutional network without the images' ``in_channels``.
    """
    hidden = [*_convolutions(net, in_channels), *(f"ℓ∞-dist({n})+Norm" for n in net.hidden)]
    if net.kind == "net":
        return [*hidden, f"ℓ∞-dist({num_classes})"]
    return [*hidden, f"FC({net.mlp_hidden})+Tanh", f"FC({num_classes})"]


def _convolutions(net: NetConfig, in_channels: int | None) -> Iterator[str]:
    if net.channels and in_channels is None:
        raise ValueError(
            "layers: in_channels must be the images' number of channels for 'conv_net_mlp', whose "
            "layers Table 8 prints with it; got None. Pass info.input_shape[0]."
        )
    for out_channels, stride in net.channels:
        strided = "" if stride == 1 else f", stride={stride}"
        yield f"ℓ∞-dist-conv({in_channels}, {out_channels}, kernel=3{strided})+Norm"
        in_channels = out_channels


def _architectures() -> pd.DataFrame:
    columns = {}
    for name, wanted in printed.TABLE5.items():
        experiment = experiments.get(name)
        info = data.DATASETS[experiment.dataset]
        config = experiment.scales["paper"].net
        with torch.device("meta"):  # shapes without the weights
            net = build_net(
                config,
                input_shape=info.input_shape,
                num_classes=info.num_classes,
                mean=info.mean,
                std=info.std,
            )
        flops = flop_count(net, info.input_shape)
        heading = f"{experiment.title} ({info.title})"
        columns[heading, "paper"] = _numbered(wanted) | {"FLOPs": experiment.paper.flops}
        ours = layers(config, info.num_classes, in_channels=info.input_shape[0])
        columns[heading, "this code"] = _numbered(ours) | {
            "FLOPs": f"{format_flops(flops)} = {flops:,}"
        }
    rows = [*_numbered([""] * 7), "FLOPs"]
    return pd.DataFrame(columns, index=rows).fillna("")


def _numbered(layers: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {f"Layer {number}": layer for number, layer in enumerate(layers, 1)}


def hyper_parameters(train: TrainConfig) -> dict[str, str]:
    """A training configuration in Table 6's words."""
    beta1, beta2 = train.betas
    hinge = isinstance(train.loss, HingeLoss)
    e1, e2, e3 = train.epochs
    return {
        "Optimizer": f"Adam(β1 = {beta1:g}, β2 = {beta2:g}, ε = {train.adam_eps:g})",
        "Batch size": f"{train.batch_size}",
        "Learning rate": f"{train.lr:g}",
        "Weight decay": f"{train.weight_decay:g}",
        "p_start": f"{train.p_start:g}",
        "p_end": f"{train.p_end:g}",
        "ε_train": "" if hinge else format_pixels(train.loss.eps_train),
        "κ": "" if hinge else f"{train.loss.kappa:g}",
        "t": format_pixels(train.loss.threshold) if hinge else "",
        "e1": f"{e1}",
        "e2": f"{e2}",
        "e3": f"{e3}",
        "Total epochs": f"{e1 + e2 + e3}",
    }


def _hyper_parameters() -> pd.DataFrame:
    columns = {}
    for name, wanted in printed.TABLE6.items():
        experiment = experiments.get(name)
        heading = f"{data.DATASETS[experiment.dataset].title}, {experiment.title}"
        columns[heading, "paper"] = dict(wanted)
        columns[heading, "this code"] = hyper_parameters(experiment.scales["paper"].train)
    return pd.DataFrame(columns)
