"""Where float32 numbers overflow, nothing is certified: sound implies interval implies forward."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import small_baselines
from helpers.threads import one_thread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.evaluation import clean_and_certified, evaluate
from linfdist.nn import LARGEST, BoundedLinear, NetConfig, Normalize, build_net
from linfdist.robust import (
    exact_radius,
    interval_certified,
    interval_radius,
    margin_radius,
    sound,
    sound_certified,
)
from linfdist.robust.certificates import proven
from linfdist.robust.exact import Search

EPS = Fraction(1, 10)


def net_of(kind="net_mlp", classes=2, hidden=(1,), mlp_hidden=1, **given):
    channels = ((2, 1),) if kind == "conv_net_mlp" else ()
    config = NetConfig(
        kind=kind,
        hidden=hidden,
        channels=channels,
        mlp_hidden=None if kind == "net" else mlp_hidden,
        identity_value=None,
    )
    given = {"input_shape": (1, 2, 2), "mean": (0.5,), "std": 0.5} | given
    return build_net(config, num_classes=classes, **given).eval().requires_grad_(False)


def one_image(net, label):
    images = torch.full((1, *net.input_shape), 128, dtype=torch.uint8)
    return images, torch.tensor([label])


def verdicts(net, images, labels, eps=EPS):
    pixels = to_pixels(images)
    sure = sound_certified(net, images, labels, eps)
    return sure.tolist(), interval_certified(net, pixels, labels, eps).tolist()


def info(net):
    return DatasetInfo(
        name="huge",
        title="Huge",
        input_shape=net.input_shape,
        num_classes=net.num_classes,
        mean=(0.5,),
        std=0.5,
        eps=EPS,
    )


def set_head(net, fc1, bias1, fc2, bias2):
    for parameter, value in (
        (net.fc1.weight, fc1),
        (net.fc1.bias, bias1),
        (net.fc2.weight, fc2),
        (net.fc2.bias, bias2),
    ):
        parameter.copy_(torch.tensor(value))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bias_that_overflows_the_logits_certifies_nothing(sign):
    """The products are finite, and both logits are infinite with the bias."""
    net = net_of()
    set_head(net, 0.0, 20.0, [[sign * 4e37], [sign * 8e37]], [sign * 3.35e38, sign * 3.4e38])
    images, labels = one_image(net, 1)
    assert net(to_pixels(images)).isinf().all()
    assert verdicts(net, images, labels) == ([False], [False])
    found, table = evaluate(net, ImageSet(images, labels, info(net)), EPS)
    assert found["certified_accuracy"] == 0 and table["sound_radius"].tolist() == [0]


def test_features_whose_middle_overflows_certify_nothing():
    """Half of lower + upper overflows, though the features, the weight and the logits do not."""
    net = net_of()
    net.features.layers[-1].running_mean.fill_(-2.5e38)
    set_head(net, 1e-38, 0.0, [[1.0], [-1.0]], 0.0)
    images, labels = one_image(net, 0)
    assert net(to_pixels(images)).isfinite().all()
    assert verdicts(net, images, labels) == ([False], [False])
    evaluate(net, ImageSet(images, labels, info(net)), EPS)


def test_what_overflows_before_tanh_is_not_hidden_behind_it():
    """In this order partial sums are infinite, and tanh makes 1 of it; in another they are 0."""
    net = net_of(hidden=(4,))
    net.features.layers[-2].weight.fill_(0.0)
    net.features.layers[-1].running_mean.fill_(-2.0)
    huge = 2.0**127
    set_head(net, [[huge, huge, -huge, -huge]], 0.0, [[1.0], [-1.0]], 0.0)
    images, labels = one_image(net, 0)
    assert verdicts(net, images, labels) == ([False], [False])
    clean = ImageSet(images, labels, info(net))
    assert clean_and_certified(net, clean, eps=Fraction(0))[1] == 0


@pytest.mark.parametrize("layer", ["fc1", "fc2"])
@pytest.mark.parametrize("place", ["weight", "bias"])
def test_every_number_of_the_head_is_held_below_the_limit(layer, place):
    """Weights whose differences overflow, and products and biases that could."""
    for factor, holds in ((0.99, True), (1.01, False)):
        net = net_of(hidden=(2,), mlp_hidden=2)
        net.features.layers[-1].running_mean.zero_()
        value = getattr(getattr(net, layer), place)
        value.zero_()
        value[0] = factor * LARGEST / (2 if place == "weight" else 1)
        lower = -torch.ones(1, 2)
        assert net.head_holds(lower, -lower).item() is holds


def test_logits_at_opposite_ends_certify_nothing():
    """The difference of the logits of a Net is −∞ in float32."""
    net = net_of("net")
    net.last.weight.zero_()
    net.last.bias.copy_(torch.tensor([3e38, -3e38]))
    images, labels = one_image(net, 1)
    assert net(to_pixels(images)).isfinite().all()
    assert verdicts(net, images, labels) == ([False], [False])
    assert margin_radius(net, to_pixels(images), labels).tolist() == [0]
    assert clean_and_certified(net, ImageSet(images, labels, info(net)), eps=Fraction(0))[1] == 0


def test_infinite_logits_have_no_margin():
    net = net_of("net")
    net.last.weight.copy_(torch.tensor([[-3e38], [0.0]]))
    net.features.layers[-1].running_mean.fill_(-3e38)
    images, labels = one_image(net, 1)
    assert net(to_pixels(images)).isinf().any()
    assert margin_radius(net, to_pixels(images), labels).tolist() == [0]
    assert verdicts(net, images, labels) == ([False], [False])


def test_only_finite_margins_below_zero_prove_anything():
    labels = torch.tensor([1])
    for rival, proves in ((-1e-45, True), (-3e38, True), (0.0, False), (-0.0, False)):
        assert proven(torch.tensor([[rival, 0.0, -1.0]]), labels).item() is proves
    for rival in (math.nan, math.inf, -math.inf):
        assert not proven(torch.tensor([[rival, 0.0, -1.0]]), labels).item()
    assert proven(torch.tensor([[-1.0, math.nan]]), labels).item()  # y's own does not count


@pytest.mark.parametrize("seed", range(40))
def test_an_exact_search_spends_at_most_its_boxes(seed):
    torch.manual_seed(seed)
    net = net_of("net", hidden=(2,))
    image = torch.full(net.input_shape, 0.5)
    for max_nodes in (1, 3, 10):
        assert exact_radius(net, image, 0, max_nodes=max_nodes).nodes <= max_nodes


def test_an_exact_search_discards_no_box_whose_bounds_are_not_numbers(monkeypatch):
    net = net_of("net", hidden=(2,))
    image = torch.full(net.input_shape, 0.5)
    search = Search(net, image, int(net(image[None]).argmax()), "test")

    def lost(lower, upper, rival):
        lower.fill_(math.nan)
        return lower.clone()

    monkeypatch.setattr(search, "tighten", lost)
    assert search.decide(0.0, 5).beaten is None


# --- whatever the numbers are --------------------------------------------------------------------


def scaled(net: nn.Module, rng) -> None:
    """Parameters and running means of magnitudes up to the end of float32, signs of their own."""
    constants = [
        part for layer in net.modules() if isinstance(layer, Normalize) for part in layer.buffers()
    ]
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if any(value is part for part in constants) or not value.is_floating_point():
            continue
        kind = rng.integers(0, 4)
        top = float(rng.choice([1.0, 1e10, 1e19, 1e30, 1e37, 3.4e38]))
        if kind == 1:
            value.copy_(torch.randn(value.shape) * min(top, 8e37))
        elif kind == 2:
            value.copy_(torch.full_like(value, top) * (torch.rand(value.shape) - 0.5).sign())
        elif kind == 3:
            value.zero_()
        value.clamp_(-3.4e38, 3.4e38)
        if "running_var" in name:
            value.abs_().add_(1e-3).clamp_(max=3.4e38)


def points(lower, upper, rng, number=12):
    for index in range(number):
        share = torch.from_numpy(rng.random(lower.shape).astype(np.float32))
        yield torch.lerp(lower, upper, share.round() if index % 2 else share).clamp(lower, upper)


def beaten(net, certified, pixels, labels, eps, rng) -> int:
    """Points of certified balls that are classified otherwise, by more than sums are rounded."""
    lower, upper = (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
    wrong = 0
    for x in (pixels, *points(lower, upper, rng)):
        logits = net(x)[certified]
        own = logits.gather(1, labels[certified, None])
        excess = (logits - own).scatter(1, labels[certified, None], -math.inf).amax(1)
        wrong += int(not logits.isfinite().all() or (excess > 1e-4 * reach(net)).any())
    return wrong


def reach(net) -> float:
    last = net.fc2 if hasattr(net, "fc2") else net.last
    if not isinstance(last, BoundedLinear | nn.Linear):
        return 0.0
    return float(last.weight.abs().sum(1).max() + last.bias.abs().max())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["net", "net_mlp", "conv_net_mlp"]))
def test_sound_implies_interval_implies_forward_at_any_magnitude(seed, kind):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    with one_thread():
        net = net_of(kind, classes=3, hidden=(3, 3), mlp_hidden=3)
        scaled(net, rng)
        images = torch.from_numpy(rng.integers(0, 256, (16, 1, 2, 2)).astype(np.uint8))
        pixels = to_pixels(images)
        labels = net(pixels).nan_to_num().argmax(1)
        eps = Fraction(int(rng.integers(0, 30)), 255)
        sure = sound_certified(net, images, labels, eps)
        plain = interval_certified(net, pixels, labels, eps)
        assert (sure <= plain).all()
        assert beaten(net, plain, pixels, labels, float(eps), rng) == 0
        assert (net(pixels).argmax(1) == labels)[sure].all()
        evaluate(net, ImageSet(images[:2], labels[:2], info(net)), eps)  # no ContradictionError


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(small_baselines.WIDTHS)))
def test_the_compared_methods_certify_nothing_that_overflows(seed, kind):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    with one_thread():
        net = build_baseline(
            BaselineConfig(kind=kind, width=1 / 64),
            input_shape=(1, 8, 8),
            num_classes=3,
            mean=(0.5,),
            std=0.5,
        )
        net.eval().requires_grad_(False)
        scaled(net, rng)
        pixels = torch.rand(4, 1, 8, 8)
        labels = net(pixels).nan_to_num().argmax(1)
        certified = interval_certified(net, pixels, labels, 0.01)
        assert beaten(net, certified, pixels, labels, 0.01, rng) == 0
        assert interval_radius(net, pixels, labels, 0.1, 3).isfinite().all()


def test_a_relu_does_not_hide_what_overflowed():
    """Both bounds of a neuron are −∞ by the order of its sum; behind the ReLU they are 0."""
    net = build_baseline(
        BaselineConfig(kind="dm_medium", width=1 / 64),
        input_shape=(1, 8, 8),
        num_classes=2,
        mean=(0.0,),
        std=1.0,
    )
    net.eval().requires_grad_(False)
    first = next(layer for layer in net.features if isinstance(layer, nn.Conv2d))
    first.weight.fill_(-3e38)
    first.bias.zero_()
    pixels, labels = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64)
    net.last.bias.copy_(torch.tensor([1.0, 0.0]))
    assert net(pixels).argmax(1).item() == 0 and net(pixels).isfinite().all()
    assert not interval_certified(net, pixels, labels, 0.0).any()


def test_bounds_of_sound_below_the_limit_are_finite_by_intervals():
    """What the claim that sound implies interval rests on where numbers are large."""
    net = net_of(hidden=(2,), mlp_hidden=2)
    set_head(net, 1.0, 0.0, [[1.0, 2.0], [2.0, 1.0]], 0.0)
    edge = LARGEST / 2
    box = torch.full((1, 2), -0.99 * edge), torch.full((1, 2), 0.99 * edge)
    assert net.worst_case_margins(*box, torch.tensor([0])).isfinite().all()
    assert (
        sound._merged_margins(net.fc2, *(end.double() for end in box), torch.tensor([0]))
        .isfinite()
        .all()
    )
