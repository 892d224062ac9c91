"""Table 2: TinyImageNet  [Zhang2021, Tables 2, 5 and 6]."""

from dataclasses import replace
from fractions import Fraction

from linfdist.data import DATASETS, Augmentation
from linfdist.experiments.base import Experiment, PaperNumbers, QuotedRow, Scale
from linfdist.experiments.table1 import NET_MLP, smoke
from linfdist.nn import NetConfig
from linfdist.training import IBPLoss, TrainConfig

TITLE = "Table 2. TinyImageNet"

_PAPER = Scale(
    dataset="tinyimagenet",
    eps=DATASETS["tinyimagenet"].eps,
    net=NetConfig(kind="net_mlp", hidden=(5120,) * 5, mlp_hidden=512),
    train=TrainConfig(
        epochs=(100, 350, 50),
        lr=0.04,
        loss=IBPLoss(eps_train=Fraction(5, 1000), kappa=0.0),
        augmentation=Augmentation(flip=True, crop=56),
    ),
)

EXPERIMENTS = (
    Experiment(
        name="table2/tinyimagenet_net_mlp",
        title=NET_MLP,
        paper=PaperNumbers.percent("156M", 21.82, 18.09, 16.31),
        scales={
            "smoke": smoke("net_mlp"),
            "reduced": replace(
                _PAPER,
                net=replace(_PAPER.net, hidden=(512,) * 4),
                train=replace(_PAPER.train, epochs=(5, 25, 5)),
            ),
            "paper": _PAPER,
        },
    ),
)


def _quoted(model: str, flops: str, test: float, robust: float, certified: float) -> QuotedRow:
    return QuotedRow(
        title=f"CROWN-IBP, loss fusion (Xu et al., 2020a), {model}",
        dataset="tinyimagenet",
        paper=PaperNumbers.percent(flops, test, robust, certified),
    )


QUOTED = (
    _quoted("CNN7+BN", "458M", 21.58, 19.04, 12.69),
    _quoted("ResNeXt", "64M", 21.42, 20.20, 13.05),
    _quoted("DenseNet", "575M", 22.04, 19.48, 14.56),
    _quoted("WideResNet", "5.22G", 27.86, 20.52, 15.86),
)
