"""Tables of networks: this code's layers, at the paper's scale, beside the printed ones."""

from collections.abc import Iterator

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from linfdist import data, experiments
from linfdist.experiments import ArchitectureTable
from linfdist.nn import NetConfig, build_net, flop_count
from linfdist.report.formats import format_flops


def frame(table: ArchitectureTable, scale: str) -> pd.DataFrame:
    """Two columns per experiment, "paper" and "this code". They are the same at every scale."""
    columns = {}
    for name, printed in table.layers.items():
        experiment = experiments.get(name)
        info = data.DATASETS[experiment.dataset]
        config, _ = experiment.scales["paper"].dist_net()
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
        columns[heading, "paper"] = _numbered(printed) | {"FLOPs": experiment.paper.flops}
        ours = layers(config, info.num_classes, in_channels=info.input_shape[0])
        columns[heading, "this code"] = _numbered(ours) | {
            "FLOPs": f"{format_flops(flops)} = {flops:,}"
        }
    rows = [*_numbered(max(table.layers.values(), key=len)), "FLOPs"]
    return pd.DataFrame(columns, index=rows).fillna("")


def text(table: ArchitectureTable, scale: str) -> str:
    """The table for a terminal."""
    return f"{table.title}\n\n{frame(table, scale).to_string()}"


def style(table: ArchitectureTable, scale: str) -> Styler:
    """The table for a notebook."""
    return frame(table, scale).style.set_caption(table.title)


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


def _numbered(layers: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {f"Layer {number}": layer for number, layer in enumerate(layers, 1)}
