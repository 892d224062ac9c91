"""The CUDA kernels of LogSumExp as they stand, run thread by thread on the CPU."""

import math

import emulator
import pytest
import torch
from helpers.pairs import SHAPES, sample

from linfdist.ops import lp_dist, native
from linfdist.ops.lse_distance import RANGES

pytestmark = pytest.mark.skipif(
    emulator.compiler() is None, reason="the emulation needs a C++20 compiler: install g++"
)

DTYPES = [torch.float32, torch.float64]
T_VALUES = [1e-3, 0.3, 4.5, 30.0, 1e3, 1e6, 1e38]
# both mainloops of the forward pass, features past the last four and past a slice of 16, more
# samples than a block of the backward pass has, sums cut into segments
SIZES = [*SHAPES, (63, 9, 64), (65, 5, 63), (1, 9, 65), (515, 3, 34), (3, 3100, 5)]
# every t at a shape of each mainloop, and where few, some and all exponentials count at the others
CASES = [
    (shape, t)
    for shape in SIZES
    for t in (T_VALUES if shape in (SHAPES[2], SIZES[-1]) else (0.3, 30.0, 1e6))
]
LAYERS = [(65, 1537, 33), (3, 3072, 48), (449, 385, 20), (70, 1540, 3)]
ROWS = [(1, 1), (3, 7), (5, 64), (2, 784), (2, 1000), (1, 16390), (70, 24)]
LEAST = {dtype: held.least for dtype, held in RANGES.items()}


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    return emulator.Emulator(emulator.built_once(tmp_path_factory))


@pytest.fixture(autouse=True)
def _as_configured_at_first(request):
    yield
    library = request.getfixturevalue("cuda")
    library.offset = 0
    library.configure()


def oracle(x, w, grad, t):
    """Distance, total and gradients in float64, of differences rounded as every kernel's are."""
    d = (x.unsqueeze(1) - w).double()
    top = d.abs().amax(-1, keepdim=True)
    near, far = (t * (d.abs() - top)).exp(), (-t * (d.abs() + top)).exp()
    total = (near + far).sum(-1)
    terms = (grad.double() / total).unsqueeze(-1) * d.sign() * (near - far)
    return total.log() / t + top.squeeze(-1), total, terms.sum(1), -terms.sum(0)


def everything(cuda, x, w, grad, t):
    """Distance, total, both gradients."""
    distance, total = cuda.lse_forward(x, w, t)
    return distance, total, *cuda.lse_backward(grad, x, w, total, t)


def assert_right(results, x, w, grad, t):
    """At every t: no exponent errs by more than its own rounding, and the largest is exactly 0."""
    step = torch.finfo(x.dtype).eps
    distance, total, to_x, to_w = (value.double() for value in results)
    right = oracle(x, w, grad, t)
    assert all(value.isfinite().all() for value in results)
    torch.testing.assert_close(distance, right[0], rtol=8 * step, atol=0)
    torch.testing.assert_close(total, right[1], rtol=32 * step, atol=0)
    assert (total >= 1 - 4 * step).all()
    size = grad.abs().double()
    assert ((to_x - right[2]).abs() <= 16 * step * size.sum(1)[:, None]).all()
    assert ((to_w - right[3]).abs() <= 16 * step * size.sum(0)[:, None]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "t"), CASES)
def test_distance_total_and_gradients(cuda, shape, t, dtype):
    x, w, grad = sample(shape, dtype)
    assert_right(everything(cuda, x, w, grad, t), x, w, grad, t)


@pytest.mark.parametrize("t", [1e-3, 1.0, 8.0, 100.0, 1e6])
@pytest.mark.parametrize("shape", LAYERS)
def test_layers_that_fill_a_gpu(cuda, shape, t):
    x, w, grad = sample(shape, torch.float32)
    assert_right(everything(cuda, x, w, grad, t), x, w, grad, t)


@pytest.mark.parametrize("t", T_VALUES)
@pytest.mark.parametrize("scales", [(1e-6, 1e-6), (1e-6, 1.0), (1.0, 1e4), (1e4, 1e4)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(7, 9, 50), (3, 3100, 18)])
def test_inputs_of_any_size(cuda, shape, offset, scales, t):
    x, w, grad = sample(shape, torch.float32)
    x, w = x * scales[0] + offset, w * scales[1] + offset
    assert_right(everything(cuda, x, w, grad, t), x, w, grad, t)


@pytest.mark.parametrize("t", [1e-3, 1.0, 1e6, 1e38])
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e30, 1e38])
@pytest.mark.parametrize("out_features", [9, 3100])
def test_no_finite_input_gives_nan(cuda, out_features, scale, t):
    x, w, grad = sample((7, out_features, 18), torch.float32)
    x, w = (scale * x).clamp(-1e38, 1e38), (scale * w).clamp(-1e38, 1e38)
    results = everything(cuda, x, w, grad, t)
    assert all(value.isfinite().all() for value in results)
    torch.testing.assert_close(results[0], oracle(x, w, grad, t)[0].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("t", [0.3, 20.0, 100.0, 1e6])
@pytest.mark.parametrize("shape", [(13, 70, 129), (65, 1537, 34)])
def test_it_equals_the_cpus_kernels(cuda, shape, t):
    x, w, grad = sample(shape, torch.float32)
    distance, total = torch.empty(shape[:2]), torch.empty(shape[:2])
    native.call("lse_forward", x, w, distance, total, t)
    gradients = torch.empty_like(x), torch.empty_like(w)
    native.call("lse_backward", grad, x, w, total, *gradients, t)
    ours = everything(cuda, x, w, grad, t)
    torch.testing.assert_close(ours[:2], (distance, total), rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[2:], gradients, rtol=0, atol=2e-6 * max(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_features", [5, 3100])
def test_at_the_highest_t_it_is_the_l_inf_distance_and_ties_share(cuda, out_features, dtype):
    x, w = torch.zeros(5, 38, dtype=dtype), torch.zeros(out_features, 38, dtype=dtype)
    ties = torch.arange(out_features) % 38 + 1
    w[torch.arange(38) < ties[:, None]] = -0.7
    x += torch.rand(5, 1, dtype=dtype)
    grad = torch.ones(5, out_features, dtype=dtype)
    distance, total, to_x, to_w = everything(cuda, x, w, grad, 1e30)
    assert torch.equal(distance, lp_dist(x, w))
    assert torch.equal(total, ties.to(dtype).expand(5, -1))
    expected = torch.where(w != 0, 1 / ties.to(dtype)[:, None], 0)
    torch.testing.assert_close(to_w, -5 * expected)
    torch.testing.assert_close(to_x, expected.sum(0).expand(5, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [1e-3, 8.0, 1e6])
@pytest.mark.parametrize("out_features", [5, 3100])
def test_x_equal_to_w_has_no_gradient(cuda, out_features, t, dtype):
    x = torch.randn(5, 33, dtype=dtype)
    w = x[torch.arange(out_features) % 5]
    grad = (x[:, None] == w).all(-1).to(dtype)
    distance, _, to_x, to_w = everything(cuda, x, w, grad, t)
    torch.testing.assert_close(distance[grad == 1], grad[grad == 1] * math.log(66) / t)
    assert (to_x == 0).all() and (to_w == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [1e-3, 1.0, 1e3, 1e38])
@pytest.mark.parametrize("out_features", [20, 3100])
def test_what_is_not_finite_stays_so_and_in_its_pairs(cuda, out_features, t, dtype):
    x, w, _ = sample((9, out_features, 70), dtype)
    clean = cuda.lse_forward(x, w, t)
    x[2, 69] = w[5, 0] = w[2, 1] = math.nan
    x[4, 3] = w[6, 69] = -math.inf
    x[6, 3] = w[7, 3] = math.inf
    x[2, 0] = x[3, 1] = x[3, 66] = math.inf
    top = lp_dist(x, w)
    for ours, right in zip(cuda.lse_forward(x, w, t), clean, strict=True):
        expected = torch.where(top.isfinite(), right, top)
        # pairs with an entry that is not finite, and no others
        torch.testing.assert_close(ours, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 7, 33), (3, 3100, 34), (515, 3, 34), (65, 1537, 33)])
def test_nothing_is_touched_where_the_products_fit(cuda, shape, dtype):
    x, w, grad = sample(shape, dtype)
    for fits in (1, -1):
        results = cuda.lse_forward(x, w, 8.0, fits=fits)
        total = torch.full_like(grad, 2.0)  # not the NaN that results hold untouched
        results += cuda.lse_backward(grad, x, w, total, 8.0, fits=fits)
        for value in results:
            assert (value.view(torch.uint8) == 0xFF).all()


def bits(tensors):
    """As integers, so that equal means the same bits."""
    return [value.contiguous().view(torch.uint8) for value in tensors]


@pytest.mark.parametrize("t", [1.0, 20.0, 1e6])
@pytest.mark.parametrize(("multiprocessors", "dtype"), [(1, torch.float64), (132, torch.float32)])
@pytest.mark.parametrize("shape", [(13, 33, 37), (3, 3073, 20), (515, 3, 34)])
def test_no_result_depends_on_order_or_on_memory_never_written(
    cuda, shape, multiprocessors, t, dtype
):
    x, w, grad = sample(shape, dtype)
    found = []
    for machine in ({}, {"order": "reverse", "poison": 0x7F}, {"poison": 0x00}):
        with cuda.configured(multiprocessors=multiprocessors, **machine):
            found.append(bits(everything(cuda, x, w, grad, t)))
    for again in found[1:]:
        assert all(map(torch.equal, found[0], again))


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 7, 64), (65, 1537, 32)])
def test_arrays_that_begin_anywhere(cuda, shape, offset):
    x, w, grad = sample(shape, torch.float32)
    cuda.offset = offset
    assert_right(everything(cuda, x, w, grad, 8.0), x, w, grad, 8.0)


@pytest.mark.parametrize("t", T_VALUES)
def test_the_error_of_the_special_function_unit_is_bearable(cuda, t):
    x, w, grad = sample((70, 66, 137), torch.float32)
    with cuda.configured(mufu_error=True):
        assert_right(everything(cuda, x, w, grad, t), x, w, grad, t)


def right_factors(rows, centre, t, least):
    """Factors in float64, of differences rounded as the kernel's are, and the reach."""
    v = rows - centre
    reach = v.abs().amax(1, keepdim=True)
    exponents = torch.cat((v - reach, -v - reach), 1).double() * (t / math.log(2))
    return exponents.exp2().clamp_min(2.0**least), reach


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [1e-3, 1.0, 60.0, 1e6])
@pytest.mark.parametrize("shape", ROWS)
def test_factors(cuda, shape, t, dtype):
    rows, centre, _ = sample((shape[0], 1, shape[1]), dtype)
    for cuda.offset in (0, 1):
        factors, reach = cuda.lse_factors(rows, centre, t, least=LEAST[dtype])
        expected, right = right_factors(rows, centre, t, LEAST[dtype])
        assert torch.equal(reach, right)
        # An exponent of up to 1021 is rounded to float64, of up to 125 to float32.
        precision = torch.finfo(dtype).eps * -LEAST[dtype]
        torch.testing.assert_close(factors.double(), expected, rtol=precision, atol=0)
        assert torch.equal(factors.amax(1), torch.ones_like(reach[:, 0]))


@pytest.mark.parametrize("t", [1.0, 60.0])
@pytest.mark.parametrize("shape", ROWS)
def test_bfloat16_factors_are_those_of_float32_rounded(cuda, shape, t):
    rows, centre, _ = sample((shape[0], 1, shape[1]), torch.float32)
    rows[0, 0] = math.nan if len(rows) > 1 else rows[0, 0]
    for cuda.offset in (0, 1):
        single, reach = cuda.lse_factors(rows, centre, t, least=-125.0)
        half, again = cuda.lse_factors(rows, centre, t, least=-125.0, dtype=torch.bfloat16)
        torch.testing.assert_close(again, reach, equal_nan=True, rtol=0, atol=0)
        expected = single.to(torch.bfloat16)
        torch.testing.assert_close(half, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("length", [64, 16390])
def test_what_is_not_finite_stays_in_its_row_of_factors(cuda, length, value, dtype):
    rows, centre, _ = sample((3, 1, length), dtype)
    clean, right = cuda.lse_factors(rows, centre, 1.0, least=LEAST[dtype])
    rows[1, 5] = value
    factors, reach = cuda.lse_factors(rows, centre, 1.0, least=LEAST[dtype])
    assert torch.equal(factors[::2], clean[::2]) and torch.equal(reach[::2], right[::2])
    assert not reach[1].isfinite() and factors[1].isnan().any()


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", ROWS)
def test_combining(cuda, shape, kind):
    count, length = shape
    dtype = torch.float64 if kind == "float64" else torch.float32
    products, factors, _ = sample((count, count, 2 * length), dtype)
    factors = factors.to(getattr(torch, kind))
    (up, down), (plus, minus) = (value.double().chunk(2, 1) for value in (products, factors))
    for cuda.offset in (0, 1):
        ours = cuda.lse_combine(products, factors).double()
        error = (ours - (up * minus - down * plus)).abs()
        size = (up * minus).abs() + (down * plus).abs()
        assert (error <= torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("length", [24, 16390])
def test_factors_do_not_depend_on_order_or_on_memory_never_written(cuda, length):
    rows, centre, _ = sample((3, 1, length), torch.float32)
    found = []
    for machine in ({}, {"order": "reverse", "poison": 0x7F}, {"poison": 0x00}):
        with cuda.configured(**machine):
            factors, reach = cuda.lse_factors(rows, centre, 3.0, least=-125.0)
            found.append(bits((factors, reach, cuda.lse_combine(factors, factors.flip(1)))))
    for again in found[1:]:
        assert all(map(torch.equal, found[0], again))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", [0.01, 0.3, 1.0])
def test_products_of_factors_are_the_direct_sum(cuda, part, dtype):
    """What the factors and the combining are for, both ways of the op compared up to its bound."""
    x, w, grad = sample((13, 70, 129), dtype)
    low, high = x.amin(0, keepdim=True), x.amax(0, keepdim=True)
    t, centre = part * RANGES[dtype].largest / float((high - low).amax()), (low + high) / 2
    (e, reach_x), (f, reach_w) = (
        cuda.lse_factors(rows, centre, t, least=LEAST[dtype]) for rows in (x, w)
    )
    total = e @ f.roll(129, 1).t()
    distance = total.log() / t + reach_x + reach_w.t()
    share = -grad / total
    to_x = cuda.lse_combine(share @ f, e)
    to_w = cuda.lse_combine(share.t() @ e, f)
    direct = everything(cuda, x, w, grad, t)
    rtol, atol = 200 * torch.finfo(dtype).eps, 1e4 * torch.finfo(dtype).eps
    torch.testing.assert_close(distance, direct[0], rtol=rtol, atol=0)
    torch.testing.assert_close((to_x, to_w), direct[2:], rtol=0, atol=atol)
