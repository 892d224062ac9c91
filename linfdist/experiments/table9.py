"""Table 9: the convolutional net of Table 8 on CIFAR-10  [Zhang2021, App. F]."""

from dataclasses import replace

from linfdist.experiments import baselines, table1, table3
from linfdist.experiments.base import Experiment, PaperNumbers
from linfdist.experiments.tables import Table
from linfdist.nn import NetConfig

CONV_NET_MLP = "Convolutional ℓ∞-dist Net+MLP"

# "Exactly the same" training as for Net+MLP (App. F), at each scale.
_BASE = table1.BY_NAME["table1/cifar10_net_mlp"].scales


def _net(*channels: tuple[int, int], hidden: int, mlp_hidden: int) -> NetConfig:
    return NetConfig(
        kind="conv_net_mlp", channels=channels, hidden=(hidden,), mlp_hidden=mlp_hidden
    )


_SMOKE = replace(
    _BASE["smoke"],
    net=_net((4, 1), (8, 2), hidden=24, mlp_hidden=16),
    train=replace(_BASE["smoke"].train, epochs=(2, 4, 2)),
)
# An eighth of the channels, on a quarter of the pixels: the first layer has a stride too. Patches
# are written out, so a pair costs several times as much as in a fully connected layer.
_REDUCED = replace(
    _BASE["reduced"],
    net=_net((16, 2), (16, 1), (32, 2), (32, 1), (32, 1), hidden=512, mlp_hidden=512),
    train=replace(_BASE["reduced"].train, **table3.SHORT["net_mlp"]),
)
_PAPER = replace(
    _BASE["paper"],
    net=_net((128, 1), (128, 1), (256, 2), (256, 1), (256, 1), hidden=512, mlp_hidden=512),
)

TABLE = Table(
    number=9,
    title="Table 9. Convolutional ℓ∞-dist nets and existing methods",
    rows=(
        Experiment(
            name="table9/cifar10_conv_net_mlp",
            title=CONV_NET_MLP,
            paper=PaperNumbers.percent("566M", 49.17, 37.23, 34.30),
            scales={"smoke": _SMOKE, "reduced": _REDUCED, "paper": _PAPER},
        ),
    ),
    # All rows of Table 1 on CIFAR-10 except CROWN-IBP with loss fusion.
    repeated=tuple(
        row
        for row in baselines.EXPERIMENTS
        if row.dataset == "cifar10" and row.title != baselines.LOSS_FUSION
    ),
    methods=baselines.METHODS,
)
