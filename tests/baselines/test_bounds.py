"""Interval bounds: what they contain, their closed forms, and what they refuse."""

import pytest
import torch
from helpers.small_baselines import WIDTHS, ascent, ball, batch, margins_at, points_in, small
from torch import nn

from linfdist.baselines import interval_trace, margin_bounds
from linfdist.baselines.layers import MaxMin, Residual

KINDS = pytest.mark.parametrize("kind", list(WIDTHS))
SLACK = 1e-9  # float64 sums of two orders


@KINDS
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
def test_every_layer_contains_its_values(kind, eps):
    net = small(kind).eval()
    x, _ = batch()
    lower, upper = ball(x, eps)
    trace = net.trace(lower, upper, x)
    torch.testing.assert_close(trace.clean, net.features(x))
    for point in (x, *points_in(lower, upper)):
        for step in trace.steps:
            assert (step.lower - SLACK <= point).all() and (point <= step.upper + SLACK).all()
            point = step.layer(point)
        assert (trace.lower - SLACK <= point).all() and (point <= trace.upper + SLACK).all()


@KINDS
def test_a_box_of_one_point_is_exact(kind):
    net = small(kind).eval()
    x, labels = batch()
    trace = net.trace(x, x)
    torch.testing.assert_close(trace.lower, net.features(x))
    torch.testing.assert_close(trace.upper, net.features(x))
    torch.testing.assert_close(
        net.worst_case_margins_on_box(x, x, labels), margins_at(net, x, labels)
    )


@KINDS
@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_margins_hold_for_random_and_attacked_points(kind, eps):
    net = small(kind).eval()
    x, labels = batch()
    lower, upper = ball(x, eps)
    bounds = net.worst_case_margins_on_box(lower, upper, labels)
    for point in points_in(lower, upper):
        assert (margins_at(net, point, labels) <= bounds + SLACK).all()
    for k in range(4):
        found = ascent(net, lambda net, x, k=k: margins_at(net, x, labels)[:, k], lower, upper)
        assert (margins_at(net, found, labels) <= bounds + SLACK).all()
    assert (bounds.gather(1, labels[:, None]) == 0).all()


def test_a_batch_norm_in_training_takes_the_clean_images_statistics():
    net, twin = small("cnn7_bn").train(), small("cnn7_bn").train()
    x, labels = batch()
    logits = twin(x)
    trace = net.trace(*ball(x, 0.0), x)
    torch.testing.assert_close(net.last(trace.clean), logits)
    torch.testing.assert_close(trace.lower, trace.clean)
    torch.testing.assert_close(trace.upper, trace.clean)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value)  # updated once, and alike
    # With the statistics of the batch held fixed, the bounds contain every point of the box.
    lower, upper = ball(x, 0.1)
    trace = net.trace(lower, upper, x)
    for point in points_in(lower, upper, 10):
        for step in trace.steps:
            if step.affine:
                point = point * step.affine[0] + step.affine[1]
            else:
                point = step.layer(point)
        assert (trace.lower - SLACK <= point).all() and (point <= trace.upper + SLACK).all()
    bounds = net.margins(trace, labels)
    bounds.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_one_linear_layer_is_exact():
    torch.manual_seed(0)
    last = nn.Linear(7, 3).double()
    x, radius = torch.randn(5, 7).double(), torch.rand(5, 7).double()
    labels = torch.tensor([0, 1, 2, 0, 1])
    low, high = margin_bounds(last, x - radius, x + radius, labels)
    for image, label in enumerate(labels.tolist()):
        for k in range(3):
            row = last.weight[k] - last.weight[label]
            point = x[image] + radius[image] * row.sign()
            logits = last(point)
            torch.testing.assert_close(high[image, k], logits[k] - logits[label])
            logits = last(x[image] - radius[image] * row.sign())
            torch.testing.assert_close(low[image, k], logits[k] - logits[label])


def test_the_intervals_of_one_relu_layer_are_attained():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 9), nn.ReLU()).double()
    x = torch.randn(4, 5).double()
    trace = interval_trace(layers, x - 0.3, x + 0.3)
    for neuron in range(9):
        sign = layers[0].weight[neuron].sign()
        torch.testing.assert_close(trace.upper[:, neuron], layers(x + 0.3 * sign)[:, neuron])
        torch.testing.assert_close(trace.lower[:, neuron], layers(x - 0.3 * sign)[:, neuron])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_a_convolution_is_the_linear_layer_of_its_matrix(kernel, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, kernel, stride, padding=1).double()
    x = torch.randn(4, 2, 7, 8).double()
    flat = conv(torch.eye(112).double().view(112, 2, 7, 8)) - conv(torch.zeros(1, 2, 7, 8).double())
    radius = torch.rand_like(x)
    trace = interval_trace([conv], x - radius, x + radius)
    spread = (radius.flatten(1) @ flat.flatten(1).abs()).view_as(trace.lower)
    torch.testing.assert_close(trace.upper, conv(x) + spread)
    torch.testing.assert_close(trace.lower, conv(x) - spread)


def test_max_min_sorts_pairs():
    x = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    assert MaxMin()(x).tolist() == [[3.0, 5.0, 1.0, 2.0]]
    with pytest.raises(ValueError, match="must be even, because MaxMin pairs them; got 3"):
        MaxMin()(x[:, :3])


def test_a_residual_sum_adds():
    body, shortcut = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(4, 3)
    torch.testing.assert_close(Residual(body, shortcut)(x), body(x) + shortcut(x))


def test_a_batch_norm_in_a_branch_is_updated_once():
    branch = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).double()
    layer = Residual(branch, nn.Sequential(nn.Conv2d(2, 2, 1).double()))
    x, _ = batch()
    trace = interval_trace([layer], x, x, x)
    assert branch[1].num_batches_tracked == 1
    torch.testing.assert_close(trace.clean, layer(x))


def test_errors():
    x, _ = batch()
    with pytest.raises(TypeError, match=r"layers must be Linear.*got Tanh\. Add its rule here"):
        interval_trace([nn.Tanh()], x, x)
    with pytest.raises(ValueError, match=r"clean must be given in training mode.*got None"):
        small("cnn7_bn").train().trace(x, x)
