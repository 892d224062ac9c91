"""No bound is wider than it must be: a step left out or an eps rounded is caught."""

import math
from fractions import Fraction
from itertools import count

import mpmath
import numpy as np
import pytest
import torch
from helpers import exact_nets
from helpers.sound_cases import random_images, random_net, up, violations
from torch import Tensor

from linfdist.data import to_pixels
from linfdist.nn import LinfDistNet, NetConfig, build_net
from linfdist.robust import boxes, sound, sound_certified

OPERATIONS = ("mean", "std", "dist", "shift", "last dist", "bias", "margin")


CORNER = 0.1  # where the end of the pixel's interval lies that is looked at


def revealing_net(operation: str, end: int, seed: int) -> LinfDistNet:
    """One pixel, one hidden neuron, two classes whose distances move in opposite directions.

    What one operation gives is large, and the next one takes it away again, so that its rounding is
    large beside all the steps that follow. Where those before or after are of its size, the numbers
    are such that they hide the rounding as little as can be.
    """
    rng = np.random.default_rng(seed)
    big, (small, shift, offset) = rng.uniform(50, 100), rng.uniform(0.3, 1, 3)
    mean, std = -small, rng.uniform(0.6, 0.9)
    if operation == "mean":
        mean, std = CORNER - rng.uniform(32.2, 32.6), rng.uniform(0.51, 0.52)
    if operation == "std":
        mean, std = CORNER - rng.uniform(1.985, 1.999), 1.98 / 128
    config = NetConfig(kind="net", hidden=(1,))
    shape = {"input_shape": (1, 1, 1), "num_classes": 2}
    net = build_net(config, **shape, mean=(float(mean),), std=float(std))
    net.eval().requires_grad_(False)
    _, hidden, mean_shift = net.features.layers
    beside = big if operation == "dist" else 0.3 if end else -0.3
    hidden.weight.fill_((CORNER - mean) / std + beside)
    mean_shift.running_mean.fill_({"dist": big, "shift": -big}.get(operation, shift))
    value = net.features(torch.full((1, 1, 1, 1), CORNER)).item()
    far = big if operation == "last dist" else 0
    net.last.weight.copy_(torch.tensor([[value - offset], [value + offset + far]]))
    biases = {"bias": (63.5 - offset, 64.5 - offset), "margin": (126 - offset, -7 - offset)}
    biases = torch.tensor(biases.get(operation, (shift, shift - far)))
    net.last.bias.copy_(biases + 0.01 * small)
    return net


@pytest.mark.parametrize(
    ("operation", "end"), [(o, end) for o in OPERATIONS for end in (0, 1)][:-1], ids=str
)
def test_one_missing_step_is_caught(operation, end, monkeypatch):
    """Of the bounds of features, if it is one of theirs, and of those of the margins."""
    missing = 2 * OPERATIONS.index(operation) + end
    skipped = {2 + missing} & {*range(10)} | {10 + missing}  # the pixel box takes two, features 8
    monkeypatch.setattr(boxes, "exact_box", exact_ends)
    assert not revealed(operation, end, monkeypatch, (), nets=20)
    assert revealed(operation, end, monkeypatch, skipped, nets=400)


def revealed(operation: str, end: int, monkeypatch, skipped, nets: int) -> bool:
    """Whether bounds without the skipped steps are violated by one of so many nets."""
    # Two images, for both labels, whose interval ends at the corner; 0 leaves nothing to round.
    image = torch.full((2, 1, 1, 1), 0 if end else 51, dtype=torch.uint8)
    for seed in range(nets):
        net, rng = revealing_net(operation, end, seed), np.random.default_rng(seed)
        with monkeypatch.context() as patch:
            patch.setattr(boxes, "_step", without(lambda call: call in skipped))
            if violations(net, image, Fraction(1, 10) + Fraction(seed + 1, 10**6 + 7), rng):
                return True
    return False


def convolution_violations(seed: int) -> int:
    """Exact features outside of their bounds where a convolution's rounding is large beside all.

    The distance is that of one pixel to the kernel's centre; the mean shift takes it away again.
    """
    rng = np.random.default_rng(seed)
    big, weight, shift = rng.uniform(50, 100), *rng.uniform(0.3, 1, 2)
    config = NetConfig(kind="conv_net_mlp", hidden=(1,), mlp_hidden=1, channels=((1, 1),))
    net = build_net(config, input_shape=(1, 1, 1), num_classes=2, mean=(0.0,), std=1.0)
    net.eval().requires_grad_(False)
    convolution, first, _, distance, second = net.features.layers
    convolution.weight.zero_()[0, 0, 1, 1] = -big
    first.running_mean.fill_(big)
    distance.weight.fill_(-weight)
    second.running_mean.fill_(shift)
    x = torch.from_numpy(rng.uniform(0.1, 1, (8, 1, 1, 1)).astype(np.float32))
    low, high = (
        end.double().numpy().astype(object) for end in sound.sound_features(net.features, x, x)
    )
    real = exact_nets.features(net, exact_nets.fractions(x))
    return int((low > real).sum() + (real > high).sum())


@pytest.mark.parametrize("end", [0, 1], ids=["lower", "upper"])
def test_a_missing_step_after_a_convolution_is_caught(end, monkeypatch):
    """It is the third of six: two of the normalisation come before, four shifts and distances."""
    assert sum(convolution_violations(seed) for seed in range(20)) == 0
    found = 0
    for seed in range(20):
        with monkeypatch.context() as patch:
            patch.setattr(boxes, "_step", without(lambda call: call == 4 + end))
            found += convolution_violations(seed)
    assert found > 0


def without(skips):
    """The step of ``outward``, but for the calls for which ``skips`` holds."""
    step, calls = boxes._step, count()
    return lambda x, towards: x if skips(next(calls)) else step(x, towards)


def exact_ends(levels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """``exact_box`` without its own steps: here they would only blur what is looked for."""
    nearest = levels.double() / 255
    return (nearest - eps).clamp(0, 1), (nearest + eps).clamp(0, 1)


def ball_violations(eps_of_level) -> int:
    """Levels whose ball leaves its bounds, in float64 or in float32, as eps comes close to them."""
    levels, outside = torch.arange(256, dtype=torch.uint8), 0
    given = exact_nets.fractions(to_pixels(levels))
    for k in range(0, 256, 15):
        for eps in (Fraction(k, 255) + Fraction(1, 10**7 + k), Fraction(max(k, 8) - 1, 271)):
            exact = exact_nets.ball(levels.numpy(), given, eps)
            bound = eps_of_level(eps)
            image = levels.view(1, 1, 16, 16)
            ends = boxes.exact_box(levels, bound), boxes.sound_pixel_box(image, bound)
            for lower, upper in ends:
                low, high = (exact_nets.fractions(end.flatten()) for end in (lower, upper))
                outside += int(((low > exact[0]) | (high < exact[1])).sum())
    return outside


def test_the_ball_lies_within_its_bounds():
    assert ball_violations(up) == 0


@pytest.mark.parametrize("missing", [0, 3, 4, 5])
def test_one_missing_step_of_the_ball_is_caught(missing, monkeypatch):
    """Steps 1 and 2 follow the rule but are not needed: 3 and 0 cover both roundings of an end."""
    # Of ten: four of ball alone, the same and two of float32 in sound_pixel_box.
    skipped = (missing, missing + 4) if missing < 4 else (missing + 4,)
    monkeypatch.setattr(boxes, "_step", without(lambda call: call % 10 in skipped))
    assert ball_violations(up) > 0


@pytest.mark.parametrize(
    "rounded",
    [
        lambda eps: torch.tensor(math.nextafter(float(eps), 0.0), dtype=torch.float64),
        lambda eps: torch.tensor(float(eps), dtype=torch.float32).double(),
        lambda eps: torch.tensor(math.floor(eps * 10**5) / 1e5, dtype=torch.float64),
    ],
    ids=["a step of float64", "float32", "0.03137"],
)
def test_a_rounded_eps_is_caught(rounded):
    assert ball_violations(rounded) > 0


def test_eps_is_rounded_up_to_float64():
    for k in range(1, 1000):
        found = up(Fraction(k, 255)).item()
        assert math.nextafter(found, 0) < Fraction(k, 255) <= found
    assert up(Fraction(1, 4)).item() == 0.25 and up(0.1).item() == 0.1


@pytest.mark.parametrize("fault", ["UNIT_32", "TANH_ERROR"])
def test_a_head_without_its_slack_is_caught(fault, monkeypatch):
    """Where nothing but float32's own rounding counts: eps 0 and large weights."""
    bad = {}
    for planted in (False, True):
        if planted:
            monkeypatch.setattr(sound, fault, 0.0)
        bad[planted] = sum(head_violations(seed) for seed in range(40))
    assert bad[False] == 0 < bad[True]


def head_violations(seed: int) -> int:
    """Of a head on features that are known exactly: float32 logits outside their bounds."""
    torch.manual_seed(seed)
    config = NetConfig(kind="net_mlp", hidden=(64,), mlp_hidden=16)
    net = build_net(config, input_shape=(1, 2, 2), num_classes=5, mean=(0.5,), std=0.5)
    net.requires_grad_(False)
    features = torch.randn(20, 64) * 3
    hidden = net.tanh(net.fc1(features))
    exact = features.double(), features.double()
    low, high = sound._tanh(*sound._linear(net.fc1, *exact))
    outside = int(((hidden < low) | (hidden > high)).sum())
    logits = net.head(features).double()
    labels = torch.arange(20) % 5
    own = logits.gather(1, labels[:, None])
    exact = net.tanh(net.fc1(features)).double()
    margins = sound._merged_margins(net.fc2, exact, exact, labels)
    return outside + int((logits - own > margins).sum())


def test_sums_that_float32_may_overflow_are_not_bounded():
    net = random_net("net_mlp", 0)
    net.fc1.weight.fill_(3e38)
    images = random_images(net, 2, 0)
    labels = torch.zeros(2, dtype=torch.int64)
    box = boxes.sound_pixel_box(images, up(Fraction(1, 10)))
    assert sound.sound_margins_on_box(net, *box, labels)[:, 1:].isnan().all()
    assert not sound_certified(net, images, labels, Fraction(0)).any()
    assert sound.gamma(2**23, sound.UNIT_32) == math.inf


def test_tanh_is_far_more_exact_than_is_assumed():
    x = torch.cat((torch.linspace(-20, 20, 2_000_001), torch.logspace(-30, 1, 100_001)))
    off = (x.tanh().double() - x.double().tanh()).abs()
    assert (off <= sound.TANH_ERROR / 2 * x.double().tanh().abs() + sound.TINY).all()
    x = torch.cat((x[::2000], x[-100_001::200])).double()
    x += 1e-9 * x
    exact = [mpmath.tanh(value) for value in x.tolist()]
    for found, true in zip(x.tanh().tolist(), exact, strict=True):
        assert abs(found - true) <= 2.0**-50 * abs(true) + sound.TINY
