"""lse_dist and its gradients: the oracle, its theorems, both of its paths, torch's tools."""

import math

import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.pairs import SHAPES, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist.ops import lp_dist, lse_dist, lse_distance, reference
from linfdist.ops.lse_distance import RANGES

pytestmark = pytest.mark.quick

DTYPES = [torch.float32, torch.float64]
T_VALUES = [1e-3, 0.3, 1.0, 4.5, 30.0, 1e3, 1e6]


def fits(x, t):
    """Whether lse_dist takes its products."""
    return bool(lse_distance._centre(x, t)[0])


def direct(x, w, t):
    """The native sum, whatever fits."""
    distance = x.new_empty(len(x), len(w))
    total = torch.empty_like(distance)
    lse_distance._direct(x, w, distance, total, torch.zeros(1, 1, dtype=torch.int32), t)
    return distance, total


def direct_backward(grad, x, w, total, t):
    gradients = torch.empty_like(x), torch.empty_like(w)
    no = torch.zeros(1, 1, dtype=torch.int32)
    lse_distance._direct_backward(grad, x, w, total, gradients, no, t)
    return gradients


def assert_right(x, w, grad, t):
    """The distance, and both gradients, within the rounding of the differences; never NaN."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    distance = lse_dist(x, w, t)
    distance.backward(grad)
    assert all(value.isfinite().all() for value in (distance, x.grad, w.grad))
    a, b, g = (value.detach().numpy() for value in (x, w, grad))
    step = torch.finfo(x.dtype).eps
    size = np.abs(a).max() + np.abs(b).max()
    expected = oracles.lse_dist(a, b, t)
    error = np.abs(distance.detach().numpy() - expected)
    assert (error <= 4 * step * size + 16 * step * expected).all()
    # A rounding of d multiplies e^(td) by e^(t · rounding); no share is above 1.
    tolerance = min(2.0, (4 * t * size + 16) * step)
    to_x, to_w = oracles.lse_dist_gradients(g, a, b, t)
    assert (np.abs(x.grad.numpy() - to_x) <= tolerance * np.abs(g).sum(1)[:, None]).all()
    assert (np.abs(w.grad.numpy() - to_w) <= tolerance * np.abs(g).sum(0)[:, None]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", T_VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_distance_and_gradients_equal_the_oracle(shape, t, dtype):
    assert_right(*sample(shape, dtype), t)


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    in_features=st.integers(1, 200),
    log_t=st.floats(-3, 6),
    log_x=st.floats(-6, 4),
    log_w=st.floats(-6, 4),
    offset=st.floats(-1e4, 1e4),
    dtype=st.sampled_from(DTYPES),
)
def test_right_at_any_temperature_and_size(seed, in_features, log_t, log_x, log_w, offset, dtype):
    x, w, grad = sample((4, 5, in_features), dtype, seed)
    assert_right(10**log_x * x + offset, 10**log_w * w + offset, grad, 10**log_t)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    in_features=st.integers(1, 200),
    log_t=st.floats(-3, 6),
    log_size=st.floats(-6, 4),
    log_step=st.floats(-6, 2),
    dtype=st.sampled_from(DTYPES),
)
def test_one_lipschitz_and_between_its_bounds(seed, in_features, log_t, log_size, log_step, dtype):
    """|f_t(x) − f_t(y)| ≤ ‖x − y‖_∞ and 0 ≤ f_t − ‖x − w‖_∞ ≤ log(2n) / t, at every t."""
    x, w, _ = sample((8, 5, in_features), dtype, seed)
    x, w, t = 10**log_size * x, 10**log_size * w, 10**log_t
    y = x + 10**log_step * sample((8, 1, in_features), dtype, seed + 1)[0]
    smooth = lse_dist(x, w, t)
    rounding = 16 * torch.finfo(dtype).eps * (smooth.max() + w.abs().max() + y.abs().max())
    moved = (smooth - lse_dist(y, w, t)).abs().amax(1)
    assert (moved <= (x - y).abs().amax(1) + rounding).all()
    above = smooth - lp_dist(x, w)
    assert (above >= -rounding).all()
    assert (above <= math.log(2 * in_features) / t + rounding).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), log_t=st.floats(-3, 6), log_size=st.floats(-6, 4))
def test_a_gradient_is_a_sign_vector_weighted_by_a_probability(seed, log_t, log_size):
    x, w, _ = sample((8, 1, 50), torch.float32, seed)
    x, w = (10**log_size * x).requires_grad_(), 10**log_size * w
    lse_dist(x, w, 10**log_t).sum().backward()
    assert (x.grad.abs().sum(1) <= 1 + 1e-4).all()
    assert (x.grad * (x - w[0]) >= -1e-6 * (x - w[0]).abs()).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [1e-3, 1.0, 100.0])
def test_both_paths_agree_at_the_switch(weights, dtype):
    x, w, grad = sample((13, 70, 129), dtype)
    w *= weights
    spread = (x.amax(0) - x.amin(0)).amax().item()
    t = RANGES[dtype].largest / spread * (1 - 1e-6)
    assert fits(x, t) and not fits(x, t * (1 + 2e-6))
    factorised = torch.ops.linfdist.lse_dist(x, w, t)
    direct = reference.lse_dist(x, w, t)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(factorised[0], direct[0], rtol=16 * eps, atol=0)
    gradients = torch.ops.linfdist.lse_dist_backward(grad, x, w, factorised[1], t, [True, True])
    expected = reference.lse_dist_backward(grad, x, w, direct[1], t)
    condition = t * (x.abs().max() + w.abs().max()).item()
    torch.testing.assert_close(gradients, expected, rtol=0, atol=32 * eps * condition)


@pytest.mark.parametrize("t", [1.0, 1e3])
def test_weights_far_from_the_inputs_keep_the_products_exact(t):
    """As an identity value of −10 does: X is small, W is not, and only X has to be."""
    x, w, grad = sample((9, 20, 70), torch.float32)
    x *= 0.01
    w[torch.arange(20), torch.arange(20)] = -10.0
    assert fits(x, t)
    assert_right(x, w, grad, t)


@pytest.mark.parametrize("t", [0.5, 8.0, 1e4])
def test_ties_share_the_gradient_and_x_equal_to_w_has_none(t):
    x = torch.zeros(1, 10, requires_grad=True)
    w = torch.stack((torch.ones(10), torch.zeros(10))).requires_grad_()
    distance = lse_dist(x, w, t)
    expected = [1 + math.log(10 * (1 + math.exp(-2 * t))) / t, math.log(20) / t]
    assert distance[0].tolist() == pytest.approx(expected, rel=1e-6)
    distance[0, 1].backward(retain_graph=True)
    for gradient in (x.grad, w.grad):  # two equal products, of which one was rounded
        assert (gradient.abs() <= 2**-24 / 10).all()
    distance[0, 0].backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -math.tanh(t) / 10))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.1, 8.0, 1e3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_native_sum_equals_the_reference(shape, t, dtype):
    x, w, grad = sample(shape, dtype)
    eps = torch.finfo(dtype).eps
    expected = reference.lse_dist(x, w, t)
    distance, total = direct(x, w, t)
    torch.testing.assert_close(distance, expected[0], rtol=16 * eps, atol=0)
    torch.testing.assert_close(total, expected[1], rtol=64 * eps * max(1, t), atol=0)
    gradients = direct_backward(grad, x, w, total, t)
    torch.testing.assert_close(
        gradients,
        reference.lse_dist_backward(grad, x, w, expected[1], t),
        rtol=0,
        atol=256 * eps * max(1, t),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neurons", [1, 16, 69])
def test_neurons_by_blocks_are_all_of_them(neurons, dtype, monkeypatch):
    """A layer of real width takes several; here a block is of so many neurons."""
    x, w, grad = sample((13, 70, 129), dtype)
    monkeypatch.setattr(lse_distance, "CPU_BLOCK_BYTES", neurons * 2 * 129 * w.element_size())
    assert fits(x, 0.3)
    assert_right(x, w, grad, 0.3)


@pytest.mark.parametrize("wants", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("undecided", [False, True])
@pytest.mark.parametrize("t", [0.3, 1e3])
def test_a_gradient_that_nobody_wants_is_not_made(t, undecided, wants, monkeypatch):
    if undecided:
        monkeypatch.setattr(lse_distance, "_decided", lambda fits: None)
    x, w, grad = sample((13, 70, 129), torch.float32)
    _, total = torch.ops.linfdist.lse_dist(x, w, t)
    whole = torch.ops.linfdist.lse_dist_backward(grad, x, w, total, t, [True, True])
    found = torch.ops.linfdist.lse_dist_backward(grad, x, w, total, t, list(wants))
    for gradient, expected, wanted in zip(found, whole, wants, strict=True):
        assert torch.equal(gradient, expected) if wanted else gradient.numel() == 0
    x.requires_grad_(wants[0])
    w.requires_grad_(wants[1])
    lse_dist(x, w, t).backward(grad)
    for operand, expected, wanted in zip((x, w), whole, wants, strict=True):
        assert torch.equal(operand.grad, expected) if wanted else operand.grad is None


@pytest.mark.parametrize("t", [0.3, 1e3, 1e6])
def test_undecided_both_are_made_and_the_sum_has_the_last_word(t, monkeypatch):
    """As on a GPU, where the sum then asks the device whether it has to."""
    monkeypatch.setattr(lse_distance, "_decided", lambda fits: None)
    assert_right(*sample((13, 70, 129), torch.float32), t)


@pytest.mark.parametrize("t", [1.0, 1e3])
def test_results_do_not_depend_on_threads(t):
    x, w, grad = sample((50, 70, 130), torch.float32)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            distance, total = direct(x, w, t)
            gradients = direct_backward(grad, x, w, total, t)
            found.append((distance, total, *gradients))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_an_infinite_temperature_is_the_l_inf_distance():
    x, w, _ = sample((9, 20, 70), torch.float32)
    for t in (math.inf, 1e300):
        assert torch.equal(lse_dist(x, w, t), lp_dist(x, w))


@pytest.mark.parametrize("t", [0.7, 4.0, 500.0])
def test_gradcheck(t):
    x, w, _ = sample((3, 5, 7), torch.float64)
    x.requires_grad_()
    w.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: lse_dist(a, b, t), (x, w))


@pytest.mark.parametrize("t", [2.0, 1e3])
def test_non_contiguous_and_batched_input(t):
    x = torch.randn(6, 4, 30)[:, ::2, ::3]
    w = torch.randn(10, 7).t()
    assert not x.is_contiguous() and not w.is_contiguous()
    distance = lse_dist(x, w, t)
    assert distance.shape == (6, 2, 7)
    torch.testing.assert_close(distance, lse_dist(x.contiguous(), w.contiguous(), t))
    torch.testing.assert_close(lse_dist(x[0, 0], w, t), distance[0, 0])
    assert_right(x.reshape(12, 10), w, torch.ones(12, 7), t)


@pytest.mark.parametrize("t", [1.0, 1e6])
@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)])
def test_empty_input(shape, t):
    batch, out_features, in_features = shape
    x = torch.randn(batch, in_features, requires_grad=True)
    w = torch.randn(out_features, in_features, requires_grad=True)
    distance = lse_dist(x, w, t)
    assert torch.equal(distance, torch.zeros(batch, out_features))
    distance.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(w.grad, torch.zeros_like(w))


@pytest.mark.parametrize("t", [1.0, 1e3])
def test_what_is_not_finite_stays_so_and_in_its_pairs(t):
    x, w, _ = sample((9, 20, 70), torch.float32)
    x[2, 69] = w[5, 0] = math.nan
    x[4, 3] = w[7, 3] = math.inf
    assert torch.equal(lse_dist(x, w, t).isfinite(), lp_dist(x, w).isfinite())
    assert torch.equal(lse_dist(x[5:], w, t).isfinite(), lp_dist(x[5:], w).isfinite())


# torch 2.14 warns of what its own check does.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("t", [1.0, 1e3])
def test_opcheck(t):
    x, w, _ = sample((4, 5, 6), torch.float64)
    x.requires_grad_()
    w.requires_grad_()
    torch.library.opcheck(torch.ops.linfdist.lse_dist.default, (x, w, t))


def test_compiles_for_a_temperature_that_rises():
    x, w, _ = sample((4, 5, 6), torch.float32)
    w.requires_grad_()
    compiled = torch.compile(lambda t: lse_dist(x, w, t).sum(), fullgraph=True, backend="aot_eager")
    for t in (1.0, 2.5, 1e3, math.inf):
        value = lse_dist(x, w, t).sum()
        torch.testing.assert_close(compiled(t), value)
        torch.testing.assert_close(
            *(torch.autograd.grad(loss, w)[0] for loss in (compiled(t), value))
        )


def test_meta_tensors_have_the_shapes():
    x, w = torch.empty(3, 4, 6, device="meta"), torch.empty(5, 6, device="meta")
    assert lse_dist(x, w, 2.0).shape == (3, 4, 5)


@pytest.mark.parametrize("t", [0.0, -1.0, math.nan, -math.inf])
def test_a_temperature_that_is_not_positive(t):
    with pytest.raises(
        ValueError, match=r"lse_dist: t must be in \(0, inf\].*math.inf is the l_inf"
    ):
        lse_dist(torch.zeros(3, 5), torch.zeros(4, 5), t)


def test_a_temperature_as_a_tensor():
    with pytest.raises(TypeError, match=r"t must be a Python number.*t.item\(\)"):
        lse_dist(torch.zeros(3, 5), torch.zeros(4, 5), torch.tensor(8.0))
