"""lp_dist and its gradients against the float64 oracle, on every path that can run here."""

import math

import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.pairs import P_VALUES, SHAPES, sample

from linfdist.ops import backend, lp_dist, reference

pytestmark = pytest.mark.quick


def assert_within(actual, expected, tolerance):
    """Largest error, relative to the largest entry, below the tolerance."""
    scale = np.abs(expected).max() or 1.0
    assert np.abs(actual.detach().numpy() - expected).max() <= tolerance * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", P_VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_distance_and_gradients_equal_the_oracle(shape, p, dtype):
    x, w, grad = sample(shape, dtype)
    x.requires_grad_()
    w.requires_grad_()
    distance = lp_dist(x, w, p)
    distance.backward(grad)
    expected = oracles.lp_dist(x.detach().numpy(), w.detach().numpy(), p)
    to_x, to_w = oracles.lp_dist_gradients(grad.numpy(), x.detach().numpy(), w.detach().numpy(), p)
    step = torch.finfo(dtype).eps
    np.testing.assert_allclose(distance.detach().numpy(), expected, rtol=16 * step)
    # (|d|/norm)^(p−1) multiplies the rounding of d by p − 1.
    condition = 1 if math.isinf(p) else max(10.0, p)
    assert_within(x.grad, to_x, 8 * step * condition)
    assert_within(w.grad, to_w, 8 * step * condition)


@pytest.mark.parametrize("shape", SHAPES)
def test_infinite_p_is_exact(shape):
    x, w, _ = sample(shape, torch.float32)
    expected = (x.unsqueeze(1) - w).abs().amax(-1)
    assert torch.equal(lp_dist(x, w), expected)
    assert torch.equal(lp_dist(x.requires_grad_(), w), expected)


def test_infinite_p_sends_the_gradient_to_the_first_index_at_a_tie():
    x = torch.zeros(3, 200, requires_grad=True)
    w = torch.ones(2, 200)
    w[1, :77] = 0.5
    lp_dist(x, w).sum().backward()
    expected = torch.zeros(3, 200)
    expected[:, 0] = -1
    expected[:, 77] = -1
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 8.7, 1000.0, math.inf])
def test_gradients_are_finite_and_zero_where_x_equals_w(p):
    x = torch.randn(4, 33, requires_grad=True)
    w = x.detach()[:2].clone().requires_grad_()
    distance = lp_dist(x, w, p)
    assert distance.diagonal().tolist() == [0.0, 0.0]
    distance.diagonal().sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(w.grad, torch.zeros_like(w))


@pytest.mark.parametrize("p", [2.0, 8.0, 100.0, 1000.0, math.inf])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_no_overflow_or_underflow_at_any_magnitude(p, scale):
    x, w, grad = sample((7, 9, 50), torch.float32)
    x, w = (scale * x).requires_grad_(), (scale * w).requires_grad_()
    distance = lp_dist(x, w, p)
    distance.backward(grad)
    expected = oracles.lp_dist(x.detach().numpy(), w.detach().numpy(), p)
    np.testing.assert_allclose(distance.detach().numpy(), expected, rtol=1e-5)
    to_x, _ = oracles.lp_dist_gradients(grad.numpy(), x.detach().numpy(), w.detach().numpy(), p)
    assert_within(x.grad, to_x, 1e-6 * (1 if math.isinf(p) else max(10.0, p)))


@pytest.mark.parametrize("p", [2.0, 8.0, 8.7])
def test_a_pair_far_closer_than_the_rest_keeps_its_relative_accuracy(p):
    x = torch.randn(6, 40) * 1e4
    w = x[:3] + 1e-2 * torch.randn(3, 40)
    x.requires_grad_()
    distance = lp_dist(x, w, p)
    expected = oracles.lp_dist(x.detach().numpy(), w.numpy(), p)
    np.testing.assert_allclose(distance.detach().numpy(), expected, rtol=1e-5)
    distance.diagonal().sum().backward()
    grad = np.zeros((6, 3))
    np.fill_diagonal(grad, 1.0)
    to_x, _ = oracles.lp_dist_gradients(grad, x.detach().numpy(), w.numpy(), p)
    assert_within(x.grad, to_x, 1e-5 * p)


def test_the_cost_of_a_power_is_not_its_range():
    # torch.cdist overflows here, in float64 too.
    x, w, _ = sample((4, 5, 64), torch.float32)
    assert lp_dist(1e3 * x, 1e3 * w, 1000.0).isfinite().all()
    assert torch.cdist(1e3 * x.double(), 1e3 * w.double(), p=1000.0).isinf().any()


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0, 8.0, 3.3, 1000.0, math.inf])
def test_gradcheck(p):
    x, w, _ = sample((3, 5, 7), torch.float64)
    x.requires_grad_()
    w.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: lp_dist(a, b, p), (x, w))


@pytest.mark.parametrize("p", [8.0, 8.7, math.inf])
def test_non_contiguous_and_batched_input(p):
    x = torch.randn(6, 4, 30)[:, ::2, ::3]
    w = torch.randn(10, 7).t()
    assert not x.is_contiguous() and not w.is_contiguous()
    assert torch.equal(lp_dist(x, w, p), lp_dist(x.contiguous(), w.contiguous(), p))
    assert lp_dist(x, w, p).shape == (6, 2, 7)
    assert torch.equal(lp_dist(x[0, 0], w, p), lp_dist(x, w, p)[0, 0])
    x.requires_grad_()
    lp_dist(x, w, p).sum().backward()
    to_x, _ = oracles.lp_dist_gradients(
        np.ones((12, 7)), x.detach().reshape(12, 10).numpy(), w.numpy(), p
    )
    assert_within(x.grad.reshape(12, 10), to_x, 1e-5)


@pytest.mark.parametrize("p", [8.0, 8.7, math.inf])
@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)])
def test_empty_input(shape, p):
    batch, out_features, in_features = shape
    x = torch.randn(batch, in_features, requires_grad=True)
    w = torch.randn(out_features, in_features, requires_grad=True)
    distance = lp_dist(x, w, p)
    assert torch.equal(distance, torch.zeros(batch, out_features))
    distance.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(w.grad, torch.zeros_like(w))


@pytest.mark.parametrize("p", [1.0, 8.0, 8.7, math.inf])
def test_nan_gives_nan_and_infinity_infinity(p):
    x, w, _ = sample((9, 20, 70), torch.float32)
    clean = lp_dist(x, w, p)
    x[2, 69] = math.nan
    w[5, 0] = math.nan
    x[4, 3] = math.inf
    x[6, 3] = w[7, 3] = math.inf
    distance = lp_dist(x, w, p)
    expected = clean.clone()
    expected[[4, 6]] = math.inf
    expected[:, 7] = math.inf
    expected[[4, 6], 7] = math.nan  # inf − inf
    expected[2] = math.nan
    expected[:, 5] = math.nan
    torch.testing.assert_close(distance, expected, equal_nan=True, rtol=1e-5, atol=0)
    assert torch.equal(lp_dist(x.requires_grad_(), w, p).isnan(), expected.isnan())


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 8.7, math.inf])
def test_native_equals_the_reference(p):
    x, w, grad = sample((33, 40, 150), torch.float64)
    distance = lp_dist(x, w, p)
    torch.testing.assert_close(distance, reference.lp_dist(x, w, p), rtol=1e-12, atol=0)
    x.requires_grad_()
    w.requires_grad_()
    lp_dist(x, w, p).backward(grad)
    if math.isinf(p):
        index = reference.first_index(x, w)
        gradients = reference.linf_dist_backward(grad, x.detach(), w.detach(), index)
    else:
        gradients = reference.lp_dist_backward(grad, x.detach(), w.detach(), distance, p)
    torch.testing.assert_close((x.grad, w.grad), gradients, rtol=1e-9, atol=1e-12)


def test_the_op_itself_has_the_gradient_of_p_infinity_too():
    """``lp_dist`` takes another op where a gradient is wanted; a caller of this one may not."""
    x, w, grad = sample((13, 7, 29), torch.float32)
    expected = [value.clone().requires_grad_() for value in (x, w)]
    lp_dist(*expected).backward(grad)
    found = [value.clone().requires_grad_() for value in (x, w)]
    distance = torch.ops.linfdist.lp_dist(*found, math.inf)
    distance.backward(grad)
    assert torch.equal(distance, lp_dist(x, w))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [1.0, 3.3, math.inf])
def test_the_reference_is_the_same_chunk_by_chunk(monkeypatch, p, rows):
    """Real layers take several chunks of the batch; these tests, one."""
    x, w, grad = sample((7, 5, 11), torch.float64)

    def everything():
        distance, index = reference.lp_dist(x, w, p), reference.first_index(x, w)
        smooth, total = reference.lse_dist(x, w, 3.0)
        back = (
            reference.linf_dist_backward(grad, x, w, index)
            if math.isinf(p)
            else reference.lp_dist_backward(grad, x, w, distance, p)
        )
        bounds = reference.linf_interval(x, x + 0.3, w)
        through = reference.linf_interval_backward(grad, 2 * grad, x, x + 0.3, w)
        smooth_back = reference.lse_dist_backward(grad, x, w, total, 3.0)
        return [distance, index, smooth, total, *back, *bounds, *through, *smooth_back]

    whole = everything()
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", rows * w.numel())
    for ours, theirs in zip(everything(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(backend() == "reference", reason="the reference leaves nothing out")
@pytest.mark.parametrize("p", [3.3, 8.7, 100.0])
@pytest.mark.parametrize("exponent", [-20.0, -40.0, -60.0, -70.0])
def test_a_gradient_entry_is_left_out_below_two_to_the_minus_64_alone(p, exponent):
    """The largest of a pair is 1 here, the other 2^exponent."""
    x = torch.tensor([[1.0, 2 ** (exponent / (p - 1))]]).repeat(1, 20).requires_grad_()
    x.data[0, 2::2] = 0
    lp_dist(x, torch.zeros(1, 40), p).sum().backward()
    norm = lp_dist(x.detach(), torch.zeros(1, 40), p).item()
    wanted = (x[0, 1].item() / norm) ** (p - 1)
    if exponent > -64:
        assert x.grad[0, 1].item() == pytest.approx(wanted, rel=1e-3)
    else:
        assert x.grad[0, 1] == 0
    assert x.grad[0, 0].item() == pytest.approx(norm ** (1 - p), rel=1e-3)
