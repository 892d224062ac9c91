"""Appendix B: each recurrence holds, and as it is printed it does not where the chapter says so."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist.nn import BoundedLinear, BoundedTanh, LpDist, NetConfig, build_net
from linfdist.ops import linf_interval
from linfdist.robust import ibp_loss

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 12)


def linear(seed, inputs, outputs):
    """A layer with a bias, a box, and points of it, corners among them; float64."""
    generator = torch.Generator().manual_seed(seed)
    layer = BoundedLinear(inputs, outputs).double().requires_grad_(False)
    layer.weight.normal_(generator=generator)
    layer.bias.normal_(generator=generator)
    lower = torch.randn(1, inputs, generator=generator, dtype=torch.float64)
    upper = lower + torch.rand(1, inputs, generator=generator, dtype=torch.float64)
    shares = torch.rand(64, inputs, generator=generator, dtype=torch.float64)
    shares[32:] = shares[32:].round()
    return layer, lower, upper, lower + shares * (upper - lower)


def contain(bounds, values) -> bool:
    low, high = bounds
    return bool(((values >= low - 1e-12) & (values <= high + 1e-12)).all())


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, inputs=SIZES, outputs=SIZES)
def test_eqs_19_and_20_are_the_range_of_each_output(seed, inputs, outputs):
    layer, lower, upper, points = linear(seed, inputs, outputs)
    low, high = layer.interval(lower, upper)
    assert contain((low, high), layer(points))
    highest = torch.where(layer.weight > 0, upper, lower)
    lowest = torch.where(layer.weight > 0, lower, upper)
    torch.testing.assert_close(layer(highest).diagonal(), high[0])
    torch.testing.assert_close(layer(lowest).diagonal(), low[0])


FAULTS = {
    "mu without the bias, as printed": lambda w, b, m, r: (m @ w.T, r @ w.abs().T),
    "no absolute value": lambda w, b, m, r: (m @ w.T + b, r @ w.T),
    "half the half width": lambda w, b, m, r: (m @ w.T + b, r @ w.abs().T / 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_points_leave_the_bounds_of_a_faulty_rule(fault):
    layer, lower, upper, points = linear(0, 6, 4)
    weight = layer.weight * layer.scale

    def rule(faulty):
        middle, radius = faulty(weight, layer.bias, (lower + upper) / 2, (upper - lower) / 2)
        return middle - radius, middle + radius

    assert contain(rule(lambda w, b, m, r: (m @ w.T + b, r @ w.abs().T)), layer(points))
    assert not contain(rule(FAULTS[fault]), layer(points))


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, inputs=SIZES)
def test_an_increasing_activation_takes_bounds_to_bounds(seed, inputs):
    _, lower, upper, points = linear(seed, inputs, 1)
    tanh = BoundedTanh()
    assert contain(tanh.interval(lower, upper), tanh(points))
    assert torch.equal(torch.cat(tanh.interval(lower, upper)), torch.cat((lower, upper)).tanh())


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, inputs=SIZES, classes=st.integers(2, 8))
def test_eq_21_bounds_the_margins_and_is_the_tighter(seed, inputs, classes):
    layer, lower, upper, points = linear(seed, inputs, classes)
    logits = layer(points)
    low, high = layer.interval(lower, upper)
    for label in range(classes):
        merged = layer.worst_case_margins(lower, upper, torch.tensor([label]))
        assert (logits - logits[:, [label]] <= merged + 1e-12).all()
        assert merged[0, label] == 0
        simple = high - low[:, [label]]
        simple[0, label] = 0
        assert (merged <= simple + 1e-12).all()


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, inputs=SIZES, classes=st.integers(2, 8), kappa=st.floats(0, 1))
def test_eq_22_weighs_the_clean_loss_and_a_bound_of_every_other(seed, inputs, classes, kappa):
    layer, lower, upper, points = linear(seed, inputs, classes)
    label = torch.tensor([0])
    merged = layer.worst_case_margins(lower, upper, label)
    bound = F.cross_entropy(merged, label)
    seen = F.cross_entropy(layer(points), label.expand(64), reduction="none")
    assert seen.max() <= bound + 1e-12
    clean = layer(points[:1])
    expected = kappa * F.cross_entropy(clean, label) + (1 - kappa) * bound
    torch.testing.assert_close(ibp_loss(clean, merged, label, kappa), expected)


def test_the_simple_margin_as_printed_is_no_bound_of_the_loss():
    """high_k − low_y is high_y − low_y at y, not 0, and flatters the label."""
    layer, lower, upper, points = linear(0, 6, 4)
    label = torch.tensor([0])
    low, high = layer.interval(lower, upper)
    printed = high - low[:, :1]
    seen = F.cross_entropy(layer(points), label.expand(64), reduction="none").max()
    assert printed[0, 0] > 0 and F.cross_entropy(printed, label) < seen
    mended = printed.scatter(1, label.unsqueeze(1), 0.0)
    assert F.cross_entropy(mended, label) >= seen


@settings(deadline=None, max_examples=40)
@given(
    seed=SEEDS,
    hidden=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    eps=st.floats(1e-3, 2),
)
def test_intervals_of_an_linf_net_are_never_wider_than_the_ball(seed, hidden, eps):
    generator = torch.Generator().manual_seed(seed)
    config = NetConfig(kind="net", hidden=tuple(hidden), identity_value=None)
    net = build_net(config, input_shape=(1, 2, 2), num_classes=3, mean=[0.5], std=1.0).double()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "normalize" in name:
                continue
            value.copy_(torch.randn(value.shape, generator=generator))
        x = torch.rand(4, 1, 2, 2, generator=generator, dtype=torch.float64)
        low, high = net.eval().interval(x - eps, x + eps)
        out = net(x)
    assert (low >= out - eps - 1e-9).all() and (high <= out + eps + 1e-9).all()


def test_a_neuron_s_range_is_exact_and_a_net_s_is_not():
    """1 + |x| in two layers: from 1 to 1.1 on |x| <= 0.1, and bounded from 0.9."""
    first, second = LpDist(1, 2, dtype=torch.float64), LpDist(2, 1, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        second.weight.zero_()
        x = torch.linspace(-0.1, 0.1, 201, dtype=torch.float64).unsqueeze(1)
        hidden, values = first(x), second(first(x))
        bounds = first.interval(x[:1], x[-1:])
        low, high = second.interval(*bounds)
    torch.testing.assert_close(torch.stack([hidden.amin(0), hidden.amax(0)]), torch.cat(bounds))
    assert (float(values.min()), float(values.max())) == pytest.approx((1.0, 1.1))
    assert (float(low), float(high)) == pytest.approx((0.9, 1.1))


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, inputs=SIZES)
def test_the_rule_of_an_linf_neuron_is_reached(seed, inputs):
    """At the box's point that is nearest to w and at the corner that is farthest from it."""
    generator = torch.Generator().manual_seed(seed)
    weight = 2 * torch.randn(1, inputs, generator=generator, dtype=torch.float64)
    lower = torch.randn(1, inputs, generator=generator, dtype=torch.float64)
    upper = lower + torch.rand(1, inputs, generator=generator, dtype=torch.float64)
    low, high = linf_interval(lower, upper, weight)
    nearest = weight.clamp(lower, upper)
    farthest = torch.where(upper - weight > weight - lower, upper, lower)
    assert low.item() == (nearest - weight).norm(math.inf).item()
    assert high.item() == (farthest - weight).norm(math.inf).item()
