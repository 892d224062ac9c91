"""A data set of dots and tiny networks, for the tests of training."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.data import Augmentation, DatasetInfo, ImageSet
from linfdist.nn import NetConfig, build_net
from linfdist.robust.losses import GatedLoss, HingeLoss, IBPLoss, MixtureLoss
from linfdist.training import TrainConfig

INFO = DatasetInfo(
    name="dots",
    title="Dots",
    input_shape=(1, 6, 6),
    num_classes=3,
    mean=(0.3,),
    std=0.4,
    eps=Fraction(1, 10),
)
HINGE = HingeLoss(threshold=Fraction(3, 10), mix=0.75)
IBP = IBPLoss(eps_train=Fraction(1, 10), kappa=0.5)
MIXTURE = MixtureLoss(
    threshold=Fraction(3, 10), weights=(1.0, 0.5, 0.01), scale=2.0, scale_rate=0.5
)
GATED = GatedLoss(eps_train=Fraction(1, 10), weights=(1.0, 0.5, 0.02))
CONFIG = TrainConfig(
    epochs=(2, 2, 1), batch_size=16, loss=HINGE, augmentation=Augmentation(padding=1, flip=True)
)
NET = NetConfig(kind="net", hidden=(12, 12))
MLP = NetConfig(kind="net_mlp", hidden=(12, 12), mlp_hidden=6)
KINDS = pytest.mark.parametrize(
    ("net_config", "config"), [(NET, CONFIG), (MLP, replace(CONFIG, loss=IBP))], ids=["net", "mlp"]
)
LOSSES = pytest.mark.parametrize(
    ("net_config", "config"),
    [
        (NET, CONFIG),
        (MLP, replace(CONFIG, loss=IBP)),
        (NET, replace(CONFIG, loss=MIXTURE)),
        (MLP, replace(CONFIG, loss=GATED)),
    ],
    ids=["net", "mlp", "net, mixture", "mlp, gated"],
)
SMOOTHINGS = pytest.mark.parametrize("smoothing", ["lse", "matched_lse"])


def dots(n=56, seed=0, info=INFO):
    """Images whose class is the third of the rows that is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    images = torch.randint(0, 60, (n, *info.input_shape), generator=generator)
    rows = torch.arange(6)[None, None, :, None] // 2
    images = images + 180 * (rows == labels[:, None, None, None])
    return ImageSet(images.to(torch.uint8), labels, info)


TRAIN, TEST = dots(), dots(24, seed=1)


def fresh(config=NET, seed=0, info=INFO):
    """A network for these images: one of ours, or with a BaselineConfig a compared method's."""
    torch.manual_seed(seed)
    build = build_baseline if isinstance(config, BaselineConfig) else build_net
    return build(config, input_shape=info.input_shape, num_classes=3, mean=info.mean, std=info.std)


def same(first, second):
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def batch(n=12):
    """Images as they come in training, and labels."""
    return TRAIN.images[:n].float() / 255, TRAIN.labels[:n]
