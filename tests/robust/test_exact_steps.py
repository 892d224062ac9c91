"""The outward steps of ``exact``: what is exact lies within each bound, and does not without."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from linfdist.nn import NetConfig, build_net
from linfdist.robust import boxes
from linfdist.robust.exact import Search, _Layer


def fractions(values):
    flat = [Fraction(value) for value in values.flatten().tolist()]
    return np.array(flat, object).reshape(values.shape)


def random(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3, shape))


def layer_of(rng):
    return _Layer(random(rng, 3, 4), random(rng, 3), slice(0, 4), slice(4, 7))


def of_up(rng) -> int:
    """z at points of no width, against its bounds."""
    layer, x = layer_of(rng), random(rng, 8, 4)
    low, high = (fractions(end) for end in layer.up(x, x))
    distance = np.abs(fractions(x)[:, None] - fractions(layer.weight)).max(-1)
    z = distance - fractions(layer.shift)
    return int((z < low).sum() + (z > high).sum())


def of_ball(rng) -> int:
    """The farthest x that z ≤ u allows, against the box of all."""
    layer = layer_of(rng)
    upper = -layer.shift + random(rng, 8, 3).abs()
    low, high = (fractions(end) for end in layer.ball(upper))
    distance = (fractions(upper) + fractions(layer.shift))[..., None]
    weight = fractions(layer.weight)
    least, most = (weight - distance).max(1), (weight + distance).min(1)
    return int((least < low).sum() + (most > high).sum())


def of_literals(rng) -> int:
    """The nearest x at which z ≥ l by one input, against the literal."""
    layer = layer_of(rng)
    lower = -layer.shift + random(rng, 8, 3).abs()
    above, below = (fractions(end) for end in layer.literals(lower))
    distance = (fractions(lower) + fractions(layer.shift))[..., None]
    weight = fractions(layer.weight)
    return int((weight + distance < above).sum() + (weight - distance > below).sum())


def search_of(rng) -> Search:
    config = NetConfig(kind="net", hidden=(3,), identity_value=None)
    mean, std = float(rng.uniform(0, 1)), float(rng.uniform(0.1, 1))
    net = build_net(config, input_shape=(1, 1, 4), num_classes=2, mean=(mean,), std=std).eval()
    image = torch.from_numpy(rng.uniform(0.2, 0.8, (1, 1, 4)).astype(np.float32))
    return Search(net, image, 0, "test")


def of_normalisation(rng) -> int:
    search = search_of(rng)
    x = torch.from_numpy(rng.uniform(0, 1, 4))
    low, high = (fractions(end) for end in search._normalized(x, x))
    z = (fractions(x) - fractions(search.mean)) / Fraction(float(search.std))
    return int((z < low).sum() + (z > high).sum())


def of_root(rng) -> int:
    """The ball's ends; the normalisation's own steps blur them, and are left out of the count."""
    search = search_of(rng)
    search.mean, search.std = torch.zeros(4).double(), torch.ones(()).double()
    search._normalized = lambda lower, upper: (lower, upper)
    r = float(rng.uniform(0.01, 0.1))
    lower, upper, _ = search._root(r)
    low, high = fractions(lower[0, :4]), fractions(upper[0, :4])
    image = fractions(search.image)
    return int((image - Fraction(r) < low).sum() + (image + Fraction(r) > high).sum())


@pytest.mark.parametrize(
    "outside", [of_up, of_ball, of_literals, of_normalisation, of_root], ids=lambda f: f.__name__
)
def test_no_exact_end_is_outside_and_some_are_without_the_steps(outside, monkeypatch):
    assert sum(outside(np.random.default_rng(seed)) for seed in range(60)) == 0
    monkeypatch.setattr(boxes, "_step", lambda x, towards: x)
    assert sum(outside(np.random.default_rng(seed)) for seed in range(60)) > 0
