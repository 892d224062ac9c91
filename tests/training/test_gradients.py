"""The share of weights with a gradient, against the argmaxes that carry it at p = ∞."""

import math
from dataclasses import replace

import pytest
import torch

from linfdist import data, experiments
from linfdist.data.batches import Batches
from linfdist.experiments.runner import build
from linfdist.training.gradients import gradient_shares

IMAGES = data.load("digits", "train").take(40)
SMOKE = experiments.get("table1/mnist_net").scales["smoke"]


def setting(p, hidden, batch_size):
    at_infinity = math.isinf(p)
    train = replace(
        SMOKE.train,
        epochs=(0, 0, 1) if at_infinity else (1, 0, 0),
        p_start=8.0 if at_infinity else p,
        batch_size=batch_size,
    )
    return replace(SMOKE, net=replace(SMOKE.net, hidden=hidden, identity_value=None), train=train)


def shares(p, hidden=(24, 24), batch_size=16):
    chosen = setting(p, hidden, batch_size)
    return gradient_shares(build(chosen, IMAGES.info, 0), IMAGES, chosen.train, seed=0)


def test_all_weights_have_a_gradient_at_small_p_and_few_at_infinity():
    assert shares(8.0) == [1.0] * 3
    few = shares(math.inf)
    assert len(few) == 3 and few == sorted(few)
    assert 0 < few[0] < few[-1] < 0.25


def test_the_share_falls_with_the_width():
    narrow, wide = (shares(math.inf, (width, width))[-1] for width in (16, 128))
    assert wide < narrow / 3


@pytest.mark.parametrize("hidden", [(12,), (12, 12)])
def test_one_step_at_infinity_reaches_the_furthest_inputs_alone(hidden):
    """Counted by hand: the entries that are some image's largest |x_i − w_i|."""
    chosen = setting(math.inf, hidden, len(IMAGES))
    net = build(chosen, IMAGES.info, 0)
    pixels, _ = Batches(IMAGES, chosen.train.augmentation, len(IMAGES), 0).get(0, 0)
    net.train()
    led, counts = net.features.normalize(pixels).flatten(1), []
    layers = [layer for layer in (*net.features.layers, net.last) if hasattr(layer, "weight")]
    for layer in layers:
        furthest = (led.unsqueeze(1) - layer.weight).abs().argmax(2)  # (image, neuron)
        reached = torch.zeros_like(layer.weight, dtype=torch.bool)
        reached[torch.arange(len(layer.weight)).expand_as(furthest), furthest] = True
        counts.append(int(reached.sum()))
        led = layer(led, math.inf)
        led = led - led.mean(0)
    total = sum(layer.weight.numel() for layer in layers)
    (share,) = gradient_shares(net, IMAGES, chosen.train, seed=0)
    assert len(IMAGES) / 2 < share * total <= sum(counts) + 1e-6
