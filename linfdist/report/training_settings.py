"""Tables of training settings: this code's, at the paper's scale, beside the printed ones."""

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import data, experiments
from linfdist.experiments import HyperParameterTable
from linfdist.report.formats import format_pixels
from linfdist.robust import Loss
from linfdist.robust.losses import GatedLoss, HingeLoss, IBPLoss, MixtureLoss
from linfdist.training import TrainConfig

COSINE = ", a half cosine from the start"
SMOOTHINGS = {
    "lse": "LogSumExp, t = p",
    "matched_lse": "LogSumExp, matched to p",
    "lp_then_lse": "ℓp for e1 epochs, then LogSumExp, matched to p",
}


def frame(table: HyperParameterTable, scale: str) -> pd.DataFrame:
    """Two columns per experiment, "paper" and "this code". They are the same at every scale."""
    columns = {}
    for name, printed in table.settings.items():
        experiment = experiments.get(name)
        heading = f"{data.DATASETS[experiment.dataset].title}, {experiment.title}"
        columns[heading, "paper"] = dict(printed)
        _, train = experiment.scales["paper"].dist_net()
        columns[heading, "this code"] = hyper_parameters(train)
    return pd.DataFrame(columns)


def text(table: HyperParameterTable, scale: str) -> str:
    """The table for a terminal, one line per column of ``frame``."""
    return f"{table.title}\n\n{frame(table, scale).T.to_string()}"


def style(table: HyperParameterTable, scale: str) -> Styler:
    """The table for a notebook, one line per column of ``frame``."""
    return frame(table, scale).T.style.set_caption(table.title)


def hyper_parameters(train: TrainConfig) -> dict[str, str]:
    """A training configuration, with Table 6's names of the settings."""
    beta1, beta2 = train.betas
    e1, e2, e3 = train.epochs
    return {
        "Optimizer": f"Adam(β1 = {beta1:g}, β2 = {beta2:g}, ε = {train.adam_eps:g})",
        "Batch size": f"{train.batch_size}",
        "Learning rate": f"{train.lr:g}{COSINE if train.lr_schedule == 'cosine' else ''}",
        "Weight decay": "none" if train.decay == "none" else f"{train.weight_decay:g}",
        **_smoothing(train),
        "p_start": f"{train.p_start:g}",
        "p_end": f"{train.p_end:g}",
        **_loss(train.loss),
        "e1": f"{e1}",
        "e2": f"{e2}",
        "e3": f"{e3}",
        "Total epochs": f"{e1 + e2 + e3}",
    }


def _loss(loss: Loss) -> dict[str, str]:
    """The paper's rows, empty if the loss has no such number, and the rows of other losses."""
    said = dict.fromkeys(("ε_train", "κ", "t"), "")
    if isinstance(loss, HingeLoss | MixtureLoss):
        said["t"] = format_pixels(loss.threshold)
    else:
        said["ε_train"] = format_pixels(loss.eps_train)
    if isinstance(loss, IBPLoss):
        said["κ"] = f"{loss.kappa:g}"
    if isinstance(loss, MixtureLoss | GatedLoss):
        first, start, end = loss.weights
        said["λ"] = f"{first:g}, then {start:g} → {end:g}"
    if isinstance(loss, MixtureLoss):
        said["s"] = f"from {loss.scale:g}, at {loss.scale_rate:g} of the learning rate"
    return said


def _smoothing(train: TrainConfig) -> dict[str, str]:
    """The rows that describe a smoothing other than the paper's; none for the paper's own."""
    if train.smoothing == "lp":
        return {}
    said = {"Smoothing": SMOOTHINGS[train.smoothing], "Relaxation": f"{train.relaxation:g}"}
    return said if train.p_rise is None else said | {"p_rise": f"{train.p_rise:g}"}
