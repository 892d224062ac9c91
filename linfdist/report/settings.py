"""Tables 5, 6 and 8: this code's networks and training settings beside the paper's."""

from collections.abc import Iterator, Mapping

import pandas as pd
import torch

from linfdist import data, experiments
from linfdist.experiments import printed_settings
from linfdist.nn import NetConfig, build_net, flop_count
from linfdist.report.formats import format_flops, format_pixels
from linfdist.robust import Loss
from linfdist.robust.losses import GatedLoss, HingeLoss, IBPLoss, MixtureLoss
from linfdist.training import TrainConfig

COSINE = ", a half cosine from the start"
SMOOTHINGS = {
    "lse": "LogSumExp, t = p",
    "matched_lse": "LogSumExp, matched to p",
    "lp_then_lse": "ℓp for e1 epochs, then LogSumExp, matched to p",
}


def layers(net: NetConfig, num_classes: int, *, in_channels: int | None = None) -> list[str]:
    """A network's layers, written as in Tables 5 and 8.

    Raises:
        ValueError: the network is convolutional and ``in_channels`` is missing.
    """
    hidden = [*_convolutions(net, in_channels), *(f"ℓ∞-dist({n})+Norm" for n in net.hidden)]
    if net.kind == "net":
        return [*hidden, f"ℓ∞-dist({num_classes})"]
    return [*hidden, f"FC({net.mlp_hidden})+Tanh", f"FC({num_classes})"]


def _convolutions(net: NetConfig, in_channels: int | None) -> Iterator[str]:
    if net.channels and in_channels is None:
        raise ValueError(
            "layers: in_channels must be the number of channels of the images for 'conv_net_mlp', "
            "because Table 8 prints it; got None. Pass info.input_shape[0]."
        )
    for out_channels, stride in net.channels:
        strided = "" if stride == 1 else f", stride={stride}"
        yield f"ℓ∞-dist-conv({in_channels}, {out_channels}, kernel=3{strided})+Norm"
        in_channels = out_channels


def architectures(wanted_layers: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """Table 5 or 8: each experiment's printed layers beside this code's at the paper's scale."""
    columns = {}
    for name, wanted in wanted_layers.items():
        experiment = experiments.get(name)
        info = data.DATASETS[experiment.dataset]
        config = experiment.scales["paper"].net
        with torch.device("meta"):  # shapes only, no weights
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
    rows = [*_numbered(max(wanted_layers.values(), key=len)), "FLOPs"]
    return pd.DataFrame(columns, index=rows).fillna("")


def _numbered(layers: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {f"Layer {number}": layer for number, layer in enumerate(layers, 1)}


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


def hyper_parameter_table() -> pd.DataFrame:
    """Table 6: the printed settings beside this code's at the paper's scale."""
    columns = {}
    for name, wanted in printed_settings.TABLE6.items():
        experiment = experiments.get(name)
        heading = f"{data.DATASETS[experiment.dataset].title}, {experiment.title}"
        columns[heading, "paper"] = dict(wanted)
        columns[heading, "this code"] = hyper_parameters(experiment.scales["paper"].train)
    return pd.DataFrame(columns)
