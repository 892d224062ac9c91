"""One rule for what torch wraps around a network: every entry refuses it by name."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.evaluation import accuracy, clean_and_certified, evaluate, sound_columns
from linfdist.nn import NetConfig, build_net
from linfdist.robust import (
    attacked_radius,
    exact_radius,
    guided_pgd,
    interval_certified,
    interval_radius,
    margin_radius,
    pgd,
    sound_certificates,
    sound_certified,
    sound_radius,
    square_attack,
    strongest,
)
from linfdist.robust.losses import HingeLoss
from linfdist.training import TrainConfig, fit

EPS = Fraction(1, 50)
INFO = DatasetInfo(
    name="noise",
    title="Noise",
    input_shape=(1, 3, 3),
    num_classes=3,
    mean=(0.5,),
    std=0.3,
    eps=EPS,
)
CONFIG = TrainConfig(epochs=(1, 0, 0), loss=HingeLoss(threshold=Fraction(1, 10)))
IMAGES = torch.randint(0, 256, (4, 1, 3, 3), dtype=torch.uint8)
LABELS = torch.arange(4) % 3
X, TEST, RADII = to_pixels(IMAGES), ImageSet(IMAGES, LABELS, INFO), torch.full((4,), 0.1).double()


def small():
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=(5,))
    return build_net(config, input_shape=(1, 3, 3), num_classes=3, mean=(0.5,), std=0.3)


ENTRIES = {
    "accuracy": lambda net: accuracy(net, TEST),
    "clean_and_certified": lambda net: clean_and_certified(net, TEST, eps=EPS),
    "evaluate": lambda net: evaluate(net, TEST, EPS),
    "sound_columns": lambda net: sound_columns(net, IMAGES, LABELS, EPS, RADII, LABELS < 3),
    "fit": lambda net: fit(net, TEST, CONFIG, seed=0, progress=False),
    "margin_radius": lambda net: margin_radius(net, X, LABELS),
    "interval_certified": lambda net: interval_certified(net, X, LABELS, EPS),
    "interval_radius": lambda net: interval_radius(net, X, LABELS, 0.1),
    "sound_certified": lambda net: sound_certified(net, IMAGES, LABELS, EPS),
    "sound_radius": lambda net: sound_radius(net, IMAGES, LABELS, RADII),
    "sound_certificates": lambda net: sound_certificates(net, IMAGES, LABELS, EPS, RADII),
    "exact_radius": lambda net: exact_radius(net, X[0], 0),
    "pgd": lambda net: pgd(net, X, LABELS, EPS),
    "guided_pgd": lambda net: guided_pgd(net, X, LABELS, EPS, num_steps=1),
    "square_attack": lambda net: square_attack(net, X, LABELS, EPS, num_queries=1),
    "strongest": lambda net: strongest(net, X, LABELS, EPS, attacks={}),
    "attacked_radius": lambda net: attacked_radius(net, X, LABELS, [0.1], attacks={}),
}


def distributed(net):
    """Without the group of processes that its constructor needs."""
    wrapper = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = net
    return wrapper


WRAPPERS = {
    "OptimizedModule": (lambda net: torch.compile(net, backend="eager"), r"its \._orig_mod"),
    "DataParallel": (nn.DataParallel, r"its \.module"),
    "DistributedDataParallel": (distributed, r"its \.module"),
    "AveragedModel": (AveragedModel, r"its \.module"),
    "Sequential": (nn.Sequential, "Pass a network of linfdist.nn"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_what_wraps_a_network(entry, wrapper):
    wrap, hint = WRAPPERS[wrapper]
    with pytest.raises(TypeError, match=rf"net must be a network itself; got {wrapper}\. .*{hint}"):
        ENTRIES[entry](wrap(small()))


def test_the_entries_take_the_network_inside():
    for name, entry in ENTRIES.items():
        assert entry(torch.compile(small(), backend="eager")._orig_mod) is not None, name


def test_a_network_that_was_compiled_in_place_keeps_every_certificate():
    plain, compiled = small(), small()
    compiled.compile(backend="eager")
    for found, expected in zip(
        *(evaluate(net, TEST, EPS) for net in (compiled, plain)), strict=True
    ):
        assert str(found) == str(expected)


class Half(nn.Module):
    """No more than an attack needs."""

    num_classes, input_shape = 3, tuple(X.shape[1:])

    def forward(self, x, p=float("inf")):
        return x.flatten(1)[:, :3] ** 2


def test_what_a_network_lacks_is_named():
    for name in ("evaluate", "interval_certified", "interval_radius"):
        message = f"{name}: net must have worst_case_margins_on_box; got Half, which does not"
        with pytest.raises(TypeError, match=message):
            ENTRIES[name](Half())
    assert pgd(Half(), X, LABELS, EPS).survived.shape == (4,)
    del Half.num_classes
    for name in ("pgd", "accuracy"):
        with pytest.raises(TypeError, match="net must have num_classes; got Half, which does not"):
            ENTRIES[name](Half())
