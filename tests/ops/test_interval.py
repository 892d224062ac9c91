"""linf_interval against the oracle, sampled points and its own gradient."""

import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.pairs import SHAPES, sample

from linfdist.ops import linf_interval, lp_dist, reference

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_equal_the_oracle(shape, dtype):
    x, w, _ = sample(shape, dtype)
    radius = torch.rand_like(x)
    lower, upper = x - radius, x + radius
    low, high = linf_interval(lower, upper, w)
    wanted_low, wanted_high = oracles.linf_interval(lower.numpy(), upper.numpy(), w.numpy())
    step = torch.finfo(dtype).eps
    np.testing.assert_allclose(high.numpy(), wanted_high, rtol=2 * step)
    np.testing.assert_allclose(low.numpy(), wanted_low, rtol=2 * step, atol=2 * step)
    fallback = reference.linf_interval(lower, upper, w)
    assert torch.equal(fallback[0], low) and torch.equal(fallback[1], high)


def test_the_reference_knows_a_weight_inside_the_box():
    x = torch.zeros(1, 3)
    for bounds in (linf_interval, reference.linf_interval):
        low, high = bounds(x - 1, x + 1, torch.tensor([[0.5, 0.0, -0.5]]))
        assert (low.item(), high.item()) == (0.0, 1.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_point_is_its_own_bounds(shape):
    x, w, _ = sample(shape, torch.float32)
    low, high = linf_interval(x, x, w)
    assert torch.equal(low, lp_dist(x, w)) and torch.equal(high, lp_dist(x, w))


def test_sampled_points_are_inside_and_the_ends_are_reached():
    x, w, _ = sample((20, 12, 5), torch.float32)
    radius = 0.3 * torch.rand_like(x)
    lower, upper = x - radius, x + radius
    low, high = linf_interval(lower, upper, w)
    for _ in range(200):
        point = torch.maximum(lower, torch.minimum(upper, lower + torch.rand_like(x) * 2 * radius))
        distance = lp_dist(point, w)
        assert (low <= distance).all() and (distance <= high).all()
    # The nearest and the farthest point of the box for one neuron reach its bounds.
    for j in range(len(w)):
        nearest = torch.maximum(lower, torch.minimum(upper, w[j].expand_as(x)))
        assert torch.equal(lp_dist(nearest, w)[:, j], low[:, j])
        farthest = torch.where((w[j] - lower).abs() > (w[j] - upper).abs(), lower, upper)
        assert torch.equal(lp_dist(farthest, w)[:, j], high[:, j])


def test_gradcheck():
    x, w, _ = sample((3, 5, 7), torch.float64)
    inputs = [(x - 0.2).requires_grad_(), (x + 0.3).requires_grad_(), w.requires_grad_()]
    assert torch.autograd.gradcheck(linf_interval, inputs)


def test_no_gradient_through_a_lower_bound_of_zero():
    x = torch.zeros(1, 4)
    lower, upper = (x - 1).requires_grad_(), (x + 1).requires_grad_()
    low, _ = linf_interval(lower, upper, torch.zeros(2, 4))
    assert torch.equal(low, torch.zeros(1, 2))
    low.sum().backward()
    assert torch.equal(lower.grad, x) and torch.equal(upper.grad, x)


def test_nan_is_no_bound():
    x, w, _ = sample((4, 3, 20), torch.float32)
    upper = x + 1
    upper[1, 19] = float("nan")
    w[2, 0] = float("nan")
    low, high = linf_interval(x, upper, w)
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[1] = True
    expected[:, 2] = True
    assert torch.equal(low.isnan(), expected) and torch.equal(high.isnan(), expected)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_empty_input(shape):
    x, w, _ = sample(shape, torch.float32)
    low, high = linf_interval(x, x, w)
    assert torch.equal(low, torch.zeros(shape[:2])) and torch.equal(high, torch.zeros(shape[:2]))


def test_leading_axes_and_strides():
    x = torch.randn(6, 4, 30)[:, ::2, ::3]
    w = torch.randn(10, 7).t()
    low, high = linf_interval(x, x + 1, w)
    assert low.shape == high.shape == (6, 2, 7)
    again = linf_interval(x.contiguous(), x.contiguous() + 1, w.contiguous())
    assert torch.equal(low, again[0]) and torch.equal(high, again[1])


@pytest.mark.parametrize("bound", [0, 1])
def test_no_gradient_where_a_bound_touches_the_weight(bound):
    """Both bounds are 0 there."""
    weight = torch.zeros(2, 4, requires_grad=True)
    lower, upper = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    linf_interval(lower, upper, weight)[bound].sum().backward()
    for operand in (lower, upper, weight):
        assert not operand.grad.any()
