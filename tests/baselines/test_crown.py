"""CROWN-IBP and loss fusion: soundness, closed forms, and how they compare with intervals."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.small_baselines import RELAXED, ascent, ball, batch, margins_at, points_in, small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linfdist.baselines import crown_ibp_margins, fused_loss_bound, interval_trace, margin_bounds
from linfdist.baselines.crown import backward, upper_bounds
from linfdist.baselines.ibp import merged

KINDS = pytest.mark.parametrize("kind", RELAXED)
SLACK = 1e-9


def mlp(seed, sizes=(4, 6, 5), num_classes=3):
    torch.manual_seed(seed)
    layers = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes)).double()
    return net[:-1], net[-1]


@KINDS
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_at_radius_zero_all_bounds_are_the_values(kind, training):
    net, twin = small(kind).train(training), small(kind).train(training)
    x, labels = batch()
    trace, margins = net.trace(x, x, x), margins_at(twin, x, labels)
    torch.testing.assert_close(net.margins(trace, labels, 1.0), margins)
    expected = F.cross_entropy(margins, labels, reduction="none")
    for beta in (0.0, 0.5, 1.0):
        torch.testing.assert_close(net.loss_bound(trace, labels, beta), expected)


@KINDS
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_margins_hold_for_random_and_attacked_points(kind, beta):
    net = small(kind).eval()
    x, labels = batch()
    for eps in (0.02, 0.2):
        lower, upper = ball(x, eps)
        bounds = net.margins(net.trace(lower, upper), labels, beta)
        assert (bounds.gather(1, labels[:, None]).abs() < 1e-12).all()
        for point in points_in(lower, upper):
            assert (margins_at(net, point, labels) <= bounds + SLACK).all()
        for k in range(4):
            found = ascent(net, lambda net, x, k=k: margins_at(net, x, labels)[:, k], lower, upper)
            assert (margins_at(net, found, labels) <= bounds + SLACK).all()


@KINDS
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_loss_bound_holds_for_random_and_attacked_points(kind, beta):
    net = small(kind).eval()
    x, labels = batch()

    def loss(net, x):
        return F.cross_entropy(net(x), labels, reduction="none")

    for eps in (0.02, 0.2):
        lower, upper = ball(x, eps)
        bounds = net.loss_bound(net.trace(lower, upper), labels, beta)
        for point in (*points_in(lower, upper), ascent(net, loss, lower, upper)):
            assert (loss(net, point) <= bounds + SLACK).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 2.0), st.sampled_from([0.3, 1.0]))
def test_bounds_hold_for_any_small_net(seed, eps, beta):
    layers, last = mlp(seed)
    x = torch.randn(8, 4, dtype=torch.float64)
    labels = torch.arange(8) % 3
    trace = interval_trace(layers, x - eps, x + eps)
    margins = crown_ibp_margins(trace, last, labels, beta)
    losses = fused_loss_bound(trace, last, labels, beta)
    for point in points_in(x - eps, x + eps, 20):
        logits = last(layers(point))
        assert (logits - logits.gather(1, labels[:, None]) <= margins + SLACK).all()
        assert (F.cross_entropy(logits, labels, reduction="none") <= losses + SLACK).all()


@pytest.mark.parametrize("kind", RELAXED)
def test_the_relaxation_is_tighter_than_intervals_on_average(kind):
    net = small(kind).eval()
    x, labels = batch(24)
    others = F.one_hot(labels, 4) == 0
    trace = net.trace(*ball(x, 0.02))
    by_crown, by_ibp = net.margins(trace, labels, 1.0), net.margins(trace, labels, 0.0)
    assert by_crown[others].mean() < by_ibp[others].mean() - 1e-3
    mixed = net.margins(trace, labels, 0.25)
    torch.testing.assert_close(mixed, 0.25 * by_crown + 0.75 * by_ibp)


def test_linear_nets_are_exact():
    """Two linear layers: the intervals are loose, the backward pass is not."""
    torch.manual_seed(0)
    layers, last = nn.Sequential(nn.Linear(5, 8)).double(), nn.Linear(8, 3).double()
    x, labels = torch.randn(4, 5).double(), torch.tensor([0, 1, 2, 0])
    trace = interval_trace(layers, x - 0.1, x + 0.1)
    bounds = crown_ibp_margins(trace, last, labels, 1.0)
    product, constant = merged(last, labels)
    exact = (product @ layers[0].weight @ x[:, :, None]).squeeze(2) + constant
    exact += (product @ layers[0].bias) + 0.1 * (product @ layers[0].weight).abs().sum(2)
    torch.testing.assert_close(bounds, exact)
    others = F.one_hot(labels, 3) == 0
    assert (bounds < crown_ibp_margins(trace, last, labels, 0.0))[others].all()


def test_stable_neurons_are_exact():
    """Where no neuron changes its sign in the box the network is linear there."""
    layers, last = mlp(0)
    x, labels = torch.randn(6, 4).double(), torch.arange(6) % 3
    eps = 1e-6
    trace = interval_trace(layers, x - eps, x + eps)
    assert all(
        ((s.lower > 0) | (s.upper < 0)).all() for s in trace.steps if isinstance(s.layer, nn.ReLU)
    )
    bounds = crown_ibp_margins(trace, last, labels, 1.0)
    for k in range(3):
        point = x.clone().requires_grad_(True)
        logits = last(layers(point))
        margin = logits[:, k] - logits.gather(1, labels[:, None]).squeeze(1)
        gradient = torch.autograd.grad(margin.sum(), point)[0]
        torch.testing.assert_close(bounds[:, k], margin + eps * gradient.abs().sum(1))


def test_one_neuron_s_lines():
    """relu of [−1, 3] and of [−3, 1]: the chord above, and below the line of slope 1, or 0."""
    for middle, slope in ((1.0, 1.0), (-1.0, 0.0)):
        x = torch.full((1, 1), middle, dtype=torch.float64)
        trace = interval_trace([nn.ReLU()], x - 2, x + 2)
        high = middle + 2
        matrix, constant = backward(trace.steps, torch.tensor([[[1.0], [-1.0]]]).double())
        assert matrix.flatten().tolist() == [high / 4, -slope]
        assert constant.flatten().tolist() == [high / 4 * (2 - middle), 0.0]
        matrix, constant = backward(
            trace.steps, torch.tensor([[[1.0], [-1.0]]]).double(), parallel=True
        )
        offset = high / 4 * (2 - middle)
        assert matrix.flatten().tolist() == [high / 4, -high / 4]
        assert constant.flatten().tolist() == [offset, 0.0, 0.0, -offset]


@pytest.mark.parametrize("kind", RELAXED)
def test_fusion_is_at_most_the_chords_at_the_bounds_of_the_classes(kind):
    """One row of the sum relaxes no more than a row for each class, put into the same chords."""
    net = small(kind).eval()
    x, labels = batch(12)
    for eps in (0.01, 0.05):
        trace = net.trace(*ball(x, eps))
        low, high = margin_bounds(net.last, trace.lower, trace.upper, labels)
        by_class = upper_bounds(trace, *merged(net.last, labels))
        width = (high - low).clamp_min(1e-12)
        slope = torch.where(high == low, high.exp(), (high.exp() - low.exp()) / width)
        separate = (low.exp() + slope * (by_class - low)).sum(1).log()
        assert (net.loss_bound(trace, labels, 1.0) <= separate + 1e-5).all()


def test_fusion_at_beta_0_is_the_loss_of_the_intervals():
    net = small("dm_large").eval()
    x, labels = batch()
    trace = net.trace(*ball(x, 0.1))
    expected = F.cross_entropy(net.margins(trace, labels), labels, reduction="none")
    torch.testing.assert_close(net.loss_bound(trace, labels, 0.0), expected)


def test_fusion_mixes_the_sums_of_exponentials():
    net = small("dm_medium").eval()
    x, labels = batch()
    trace = net.trace(*ball(x, 0.05))
    none, some, all_ = (net.loss_bound(trace, labels, beta).exp() for beta in (0.0, 0.25, 1.0))
    assert (all_ != none).all()
    torch.testing.assert_close(some, 0.25 * all_ + 0.75 * none)


def test_what_rounding_leaves_of_the_sum_is_no_logarithm_of_zero():
    """Intervals of [m, m + 40] where the relaxation finds m: the chord is e^-40 of the top."""
    layers, last = nn.Sequential(nn.Linear(1, 1)), nn.Linear(1, 2)
    with torch.no_grad():
        layers[0].weight.fill_(1)
        layers[0].bias.zero_()
        last.weight.copy_(torch.tensor([[0.0], [1.0]]))
        last.bias.zero_()
    x = -torch.rand(200, 1) * 30
    trace = interval_trace(layers, x, x)
    trace = dataclasses.replace(trace, upper=trace.upper + 40)
    bound = fused_loss_bound(trace, last, torch.zeros(200, dtype=torch.int64), 1.0)
    assert bound.isfinite().all() and (bound >= 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_bound_is_finite_and_so_are_its_gradients(scale, dtype):
    net = small("dm_medium").to(dtype)
    with torch.no_grad():
        net.last.weight.mul_(scale)
    x, labels = batch()
    trace = net.trace(*(end.to(dtype) for end in ball(x, 0.3)))
    loss = net.loss_bound(trace, labels)
    loss.sum().backward()
    assert loss.isfinite().all() and (loss >= 0).all()
    assert all(value.grad.isfinite().all() for value in net.parameters())


def test_a_certain_image_has_a_loss_bound_near_zero():
    layers, last = mlp(0)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([60.0, 0.0, 0.0]))
    x = torch.randn(3, 4).double()
    bound = fused_loss_bound(
        interval_trace(layers, x - 0.01, x + 0.01), last, torch.zeros(3, dtype=torch.int64), 1.0
    )
    assert (bound >= 0).all() and (bound < 1e-20).all()


@KINDS
def test_gradients_flow_to_every_parameter(kind):
    net = small(kind).train()
    x, labels = batch()
    trace = net.trace(*ball(x, 0.05), x)
    weights = [*net.features.parameters(), *net.last.parameters()]
    for value in (net.margins(trace, labels, 0.5).square().sum(), net.loss_bound(trace, labels)):
        gradients = torch.autograd.grad(value.sum(), weights, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(gradient.any() for gradient in gradients[:2])


def test_gradients_are_those_of_differences():
    layers, last = mlp(3)
    x, labels = torch.randn(2, 4).double(), torch.tensor([0, 1])

    def value(weight):
        trace = interval_trace([_With(layers[0], weight), *layers[1:]], x - 0.2, x + 0.2)
        return fused_loss_bound(trace, last, labels, 0.7)

    weight = layers[0].weight.detach().clone().requires_grad_(True)
    assert torch.autograd.gradcheck(value, (weight,))


class _With(nn.Linear):
    """A Linear that reads its weight from an argument of the test."""

    def __init__(self, layer, weight):
        super().__init__(layer.in_features, layer.out_features)
        del self.weight
        self.weight, self.bias = weight, layer.bias


def test_errors():
    net = small("groupsort").eval()
    x, labels = batch()
    trace = net.trace(x, x)
    with pytest.raises(TypeError, match="got MaxMin, which has no linear relaxation here"):
        net.margins(trace, labels, 1.0)
    for call in (net.margins, net.loss_bound):
        for beta in (-0.1, 1.5, math.nan):
            with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\]; got {beta}"):
                call(trace, labels, beta)
