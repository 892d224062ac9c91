"""Each part of a head's slack by itself: where it is left out, a number leaves its bound.

In certificates one part hides another. Here all but one are switched off, or the number is that of
an adversary who rounds as unkindly as the standard model of floating point lets him.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from linfdist.nn import BoundedLinear
from linfdist.robust import boxes, sound

U = Fraction(1, 2**24)  # half a step of float32, relative


def layer_of(weight, bias):
    weight = torch.tensor(weight, dtype=torch.float32)
    layer = BoundedLinear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))
    return layer


def random_layer(rng, inputs, outputs, bias=1.0):
    return layer_of(rng.normal(size=(outputs, inputs)), bias * rng.normal(size=outputs))


def random_box(rng, inputs, spread=1.0, images=4):
    """In float64; numbers of very different sizes, whose sums round."""
    lower = rng.normal(size=(images, inputs)) * 10.0 ** rng.uniform(-12, 2, (images, inputs))
    width = np.abs(rng.normal(size=(images, inputs))) * 10.0 ** rng.uniform(-12, 2, lower.shape)
    return torch.from_numpy(lower), torch.from_numpy(lower + spread * width)


def exact(values):
    flat = [Fraction(value) for value in values.double().flatten().tolist()]
    return np.array(flat, object).reshape(values.shape)


def scale_of(layer) -> Fraction:
    """The float32 number next to 1/√n, which (R) has."""
    return Fraction(float(np.float32(1 / math.sqrt(layer.in_features))))


def exact_ends(layer, lower, upper):
    """The exact range of the layer of real numbers on the box."""
    weight, bias, scale = exact(layer.weight), exact(layer.bias), scale_of(layer)
    low, high = exact(lower)[:, None], exact(upper)[:, None]
    products = np.minimum(weight * low, weight * high), np.maximum(weight * low, weight * high)
    return tuple(part.sum(-1) * scale + bias for part in products)


def outside_linear(seeds, spread) -> int:
    """Exact ends outside of what ``_linear`` says."""
    outside = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        inputs = int(rng.integers(1, 9))
        layer = random_layer(rng, inputs, 3)
        lower, upper = random_box(rng, inputs, spread)
        found = [exact(end) for end in sound._linear(layer, lower, upper)]
        ends = exact_ends(layer, lower, upper)
        outside += int((ends[0] < found[0]).sum() + (ends[1] > found[1]).sum())
    return outside


def outside_margins(seeds) -> int:
    """Exact margins of corners outside of what ``_merged_margins`` says."""
    outside = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        inputs = int(rng.integers(1, 9))
        layer = random_layer(rng, inputs, 3)
        lower, upper = random_box(rng, inputs)
        labels = torch.arange(4) % 3
        found = exact(sound._merged_margins(layer, lower, upper, labels))
        weight, bias, scale = exact(layer.weight), exact(layer.bias), scale_of(layer)
        for row, label in enumerate(labels.tolist()):
            difference = weight - weight[label]
            low, high = exact(lower[row]), exact(upper[row])
            most = np.maximum(difference * low, difference * high).sum(-1) * scale
            outside += int((most + bias - bias[label] > found[row])[np.arange(3) != label].sum())
    return outside


@pytest.fixture
def only_float64(monkeypatch):
    """The slack has float64's part alone: what float64 itself rounds must lie within it."""
    monkeypatch.setattr(sound, "UNIT_32", 0.0)
    monkeypatch.setattr(sound, "TINY", 0.0)


def test_float64_s_own_rounding_is_covered(only_float64):
    assert outside_linear(100, 0.0) == outside_linear(100, 1.0) == outside_margins(100) == 0


def test_a_slack_without_float64_s_part_is_caught(only_float64, monkeypatch):
    monkeypatch.setattr(sound, "UNIT_64", 0.0)
    assert outside_linear(20, 0.0) > 0 and outside_linear(20, 1.0) > 0 and outside_margins(20) > 0


@pytest.mark.parametrize("inputs", [2, 3, 5, 300])
def test_the_scale_is_float32_s(inputs, only_float64):
    """With float64's 1/√n the bounds are of another network, which float32's slack would hide."""
    layer = layer_of(np.ones((1, inputs)), [0.0])
    assert Fraction(layer.scale) != scale_of(layer)
    lower, upper = random_box(np.random.default_rng(0), inputs, 0.0)
    *_, scale = sound._affine(layer, lower, upper)
    assert Fraction(scale) == scale_of(layer)


def box_violations() -> int:
    """Ends of boxes that are farther from the middle than the half width says, exactly."""
    outside = 0
    for seed in range(50):
        lower, upper = random_box(np.random.default_rng(seed), 8)
        _, _, half, *_ = sound._affine(layer_of(np.ones((1, 8)), [0.0]), lower, upper)
        middle, half = exact((lower + upper) / 2), exact(half)
        outside += int((exact(upper) > middle + half).sum() + (exact(lower) < middle - half).sum())
    return outside


def test_the_half_width_reaches_both_ends(monkeypatch):
    assert box_violations() == 0
    monkeypatch.setattr(boxes, "_step", lambda x, towards: x)
    assert box_violations() > 0


# --- float32 as unkind as it may be --------------------------------------------------------------


class Up:
    """A positive number that every operation rounds by a whole unit: up, or down at sign −1."""

    def __init__(self, value, sign=1):
        self.value, self.sign = Fraction(value), sign

    def rounded(self, value):
        return Up(value * (1 + self.sign * U), self.sign)

    def __add__(self, other):
        return self.rounded(self.value + other.value)

    def __mul__(self, other):
        return self.rounded(self.value * other.value)


def adversarial_logits(layer, x, sign):
    """``forward`` of positive numbers: products, sums one after the other, scale, bias."""
    found = []
    for row, bias in zip(exact(layer.weight), exact(layer.bias), strict=True):
        products = [Up(w, sign) * Up(v, sign) for w, v in zip(row, exact(x), strict=True)]
        total = products[0]
        for product in products[1:]:
            total = total + product
        found.append((total * Up(scale_of(layer), sign) + Up(bias, sign)).value)
    return found


def adversarial_margin(layer, lower, upper):
    """``BoundedLinear.worst_case_margins`` of class 1 over class 0, every rounding upward.

    All numbers are positive and W_1 > W_0, so what is subtracted is rounded down.
    """
    (low_w, high_w), (low_b, high_b) = exact(layer.weight), exact(layer.bias)
    ends = list(zip(exact(lower), exact(upper), strict=True))
    scale = scale_of(layer)

    def middle(weight, bias, sign):
        total = None
        for w, (low, high) in zip(weight, ends, strict=True):
            product = Up(w, sign) * (Up(low, sign) + Up(high, sign))
            total = product if total is None else total + product
        return (Up(total.value / 2, sign) * Up(scale, sign) + Up(bias, sign)).value

    radius = None
    for w, v, (low, high) in zip(high_w, low_w, ends, strict=True):
        product = Up((w - v) * (1 + U)) * Up((high - low) * (1 + U) / 2)
        radius = product if radius is None else radius + product
    radius = radius * Up(scale)
    difference = (middle(high_w, high_b, 1) - middle(low_w, low_b, -1)) * (1 + U)
    return (difference + radius.value) * (1 + U)


@pytest.mark.parametrize("inputs", [1, 2, 3, 8])
def test_the_slack_covers_every_rounding_of_forward(inputs):
    rng = np.random.default_rng(inputs)
    for bias in (0.0, 1.0, 1e6):
        layer = layer_of(rng.uniform(0.5, 1, (2, inputs)), bias * rng.uniform(0.5, 1, 2))
        x = torch.from_numpy(rng.uniform(0.5, 1, inputs).astype(np.float32)).double()
        low, high = (exact(end[0]) for end in sound._linear(layer, x[None], x[None]))
        assert (np.array(adversarial_logits(layer, x, 1), object) <= high).all()
        assert (np.array(adversarial_logits(layer, x, -1), object) >= low).all()
        found = exact(sound._merged_margins(layer, x[None], x[None], torch.tensor([0])))
        worst = adversarial_logits(layer, x, 1)[1] - adversarial_logits(layer, x, -1)[0]
        assert worst <= found[0, 1]


@pytest.mark.parametrize("inputs", [1, 3])
def test_the_slack_is_of_the_box_and_not_of_its_middle(inputs):
    """The middle is 0, and all that rounds lies at the corner."""
    rng = np.random.default_rng(inputs)
    layer = layer_of(rng.uniform(0.5, 1, (2, inputs)), [0.0, 0.0])
    corner = torch.from_numpy(rng.uniform(0.5, 1, inputs).astype(np.float32)).double()
    _, high = sound._linear(layer, -corner[None], corner[None])
    assert (np.array(adversarial_logits(layer, corner, 1), object) <= exact(high[0])).all()


def margins_covered(inputs) -> bool:
    rng = np.random.default_rng(inputs)
    size = np.where(np.arange(inputs) < 1, 1, 1e-3)  # the first term meets every sum's rounding
    weight = size * np.stack((rng.uniform(0.5, 0.6, inputs), rng.uniform(0.9, 1, inputs)))
    layer = layer_of(weight, [0.0, 0.0])
    lower = torch.from_numpy(rng.uniform(0.5, 0.6, inputs).astype(np.float32)).double()
    upper = lower + torch.from_numpy(rng.uniform(0, 1e-9, inputs).astype(np.float32)).double()
    found = exact(sound._merged_margins(layer, lower[None], upper[None], torch.tensor([0])))
    return adversarial_margin(layer, lower, upper) <= found[0, 1]


@pytest.mark.parametrize("inputs", [1, 2, 3, 8])
def test_the_slack_covers_every_rounding_of_the_interval_margins(inputs, monkeypatch):
    """So that sound implies interval: five roundings meet a term beside those of its sum."""
    assert margins_covered(inputs)
    monkeypatch.setattr(sound, "ROUNDINGS", 2)
    assert not margins_covered(inputs)


def test_a_large_bias_has_its_slack(monkeypatch):
    """The sum is small, and rounds as the bias does."""
    layer = layer_of([[1e-4]], [1e6])
    x = torch.tensor([[1.0]], dtype=torch.float64)
    logit = layer(x.float()).double().item()
    low, high = (end.item() for end in sound._linear(layer, x, x))
    assert low <= logit <= high
    centre, slack, half, weight, scale = sound._affine(layer, x, x)
    assert slack.item() > 0.01 > abs(centre.item() - logit) > 1e-6
    size = (x.abs() + half) @ weight.abs().T
    assert slack.item() > 1000 * sound.gamma(9, sound.UNIT_32) * float(size) * scale


def test_products_that_underflow_have_their_slack(monkeypatch):
    """Float32 gives 0 for what is 10^-50: no error relative to the product covers that."""
    layer = layer_of([[1e-25]], [0.0])
    x = torch.tensor([[1e-25]], dtype=torch.float64)
    assert layer(x.float()).item() == 0
    for tiny, held in ((sound.TINY, True), (0.0, False)):
        monkeypatch.setattr(sound, "TINY", tiny)
        low, _ = sound._linear(layer, x, x)
        assert (low.item() <= 0) is held


@pytest.mark.parametrize("part", [None, "TANH_ERROR", "TINY"])
def test_tanh_may_be_off_by_four_steps_of_float32(part, monkeypatch):
    """At every size: for denormals a few steps are many times the number itself."""
    x = torch.logspace(-45, 1, 400, dtype=torch.float64).float()
    x = torch.cat((-x, x))
    off = x.double().tanh().float()
    low, high = off.clone(), off.clone()
    for _ in range(3):  # the fourth is what ``off`` itself is rounded by
        low, high = boxes.outward(low, high)
    if part:
        monkeypatch.setattr(sound, part, 0.0)
    least, most = sound._tanh(x.double(), x.double())
    held = (least <= low.double()) & (high.double() <= most)
    assert held.all() if part is None else not held.all()


def test_both_logits_of_a_margin_have_their_slack():
    """y's own logit rounds, too: its weight is large, and its rival's is 0."""
    layer = layer_of([[1e6], [0.0]], [0.0, 0.0])
    x = torch.tensor([[0.7]], dtype=torch.float64)
    labels = torch.tensor([0])
    exact_margin = -Fraction(1e6) * Fraction(0.7)
    found = exact(sound._merged_margins(layer, x, x, labels))[0, 1]
    assert found >= exact_margin + 7 * U * 700_000
