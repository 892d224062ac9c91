"""The configuration of a network."""

from dataclasses import dataclass
from typing import Literal

from linfdist.system.serialise import check_fields

Kind = Literal["net", "net_mlp", "conv_net_mlp"]


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """The architecture of a network, without the sizes that the data set fixes.

    [Zhang2021, Tables 5 and 8].

    Args:
        kind: l_inf-dist Net, Net+MLP or the convolutional Net+MLP.
        hidden: widths of the fully connected dist layers. A mean shift follows each of them.
        mlp_hidden: width of the head's tanh layer, for the ``*_mlp`` kinds; 512 in the paper.
        channels: (out_channels, stride) of each 3×3 dist convolution, for ``conv_net_mlp``. Their
            padding is 1, and a mean shift follows each of them.
        identity_value: C_0 of the identity-map initialisation. It applies to every hidden dist
            layer that has at least as many outputs as inputs; None initialises all as Gaussian.
    """

    kind: Kind
    hidden: tuple[int, ...]
    mlp_hidden: int | None = None
    channels: tuple[tuple[int, int], ...] = ()
    identity_value: float | None = -10.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"NetConfig: hidden must hold at least one positive width; got {self.hidden}."
            )
        if (self.kind == "net") != (self.mlp_hidden is None):
            raise ValueError(
                "NetConfig: mlp_hidden must be the head's width for the *_mlp kinds and None for "
                f"'net'; got {self.mlp_hidden} for {self.kind!r}."
            )
        if self.mlp_hidden is not None and self.mlp_hidden < 1:
            raise ValueError(f"NetConfig: mlp_hidden must be at least 1; got {self.mlp_hidden}.")
        if (self.kind == "conv_net_mlp") != bool(self.channels):
            raise ValueError(
                "NetConfig: channels must be given for 'conv_net_mlp' and for no other kind; got "
                f"{self.channels} for {self.kind!r}."
            )
        if any(min(channel) < 1 for channel in self.channels):
            raise ValueError(
                "NetConfig: channels must be pairs of a width and a stride of at least 1; got "
                f"{self.channels}."
            )
