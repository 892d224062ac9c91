"""The CUDA kernels as they stand in csrc, run thread by thread on the CPU: no GPU is needed.

What must hold is what test_cuda.py asks of a GPU, and that no result depends on the order in which
threads and blocks run, on what lies in memory that was never written, or on the size of the GPU.
"""

import math

import emulator
import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.pairs import P_VALUES, SHAPES, sample

from linfdist.ops import linf_interval, lp_dist

pytestmark = pytest.mark.skipif(
    emulator.compiler() is None, reason="the emulation needs a C++20 compiler: install g++"
)

INF = math.inf
DTYPES = [torch.float32, torch.float64]
# Enough tiles of 64 × 64 outputs for the kernels of layers: one row or column more than tiles,
# K around the slices of 16 and no multiple of 4; sums long enough to be cut into segments
LAYERS = [(65, 1537, 33), (3, 3072, 48), (449, 385, 20), (3, 3100, 5), (3100, 3, 34)]
# one row or column more and less than a tile, K around slices, more than one block's 512 samples
SIZES = [*SHAPES, (70, 66, 37), (63, 9, 64), (9, 63, 16), (65, 5, 63), (1, 9, 65), (515, 3, 34)]
# every p at a shape of each mainloop, and one p of each kernel at the others
CASES = [
    (shape, p)
    for shape in SIZES
    for p in (P_VALUES if shape in (SHAPES[2], SIZES[-1]) else (1.0, 8.0, 8.7, INF))
]
MACHINES = [{"order": "reverse", "poison": 0x7F}, {"poison": 0x00}]


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    return emulator.Emulator(emulator.built_once(tmp_path_factory))


@pytest.fixture(autouse=True)
def _as_configured_at_first(request):
    yield
    if "cuda" in request.fixturenames:
        library = request.getfixturevalue("cuda")
        library.offset = 0
        library.configure()


def bits(tensors):
    """As integers, so that equal means the same bits, of a NaN too."""
    return [value.contiguous().view(torch.uint8) for value in tensors]


def everything(cuda, x, w, grad, p):
    """All that the kernels of one p give: distance, index at p = ∞, both gradients."""
    if math.isinf(p):
        distance, index = cuda.forward_with_index(x, w)
        return [cuda.forward(x, w, p), distance, index, *cuda.backward(grad, x, w, index=index)]
    distance = cuda.forward(x, w, p)
    return [distance, *cuda.backward(grad, x, w, distance, p=p)]


def assert_right(results, x, w, grad, p):
    """Against the CPU's kernels at p = ∞, against the float64 oracle at finite p."""
    step = torch.finfo(x.dtype).eps
    if math.isinf(p):
        alone, distance, index, *gradients = results
        d = (x.unsqueeze(1) - w).abs()
        assert torch.equal(distance, lp_dist(x, w)) and torch.equal(alone, distance)
        assert torch.equal(index.long(), d.argmax(-1))
        condition = 1
    else:
        distance, *gradients = results
        expected = oracles.lp_dist(x.numpy(), w.numpy(), p)
        np.testing.assert_allclose(distance.numpy(), expected, rtol=16 * step)
        condition = max(10.0, p)
    expected = oracles.lp_dist_gradients(grad.numpy(), x.numpy(), w.numpy(), p)
    for ours, theirs in zip(gradients, expected, strict=True):
        scale = np.abs(theirs).max() or 1.0
        assert np.abs(ours.numpy() - theirs).max() <= 16 * step * condition * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "p"), CASES)
def test_distance_and_gradients(cuda, shape, p, dtype):
    x, w, grad = sample(shape, dtype)
    assert_right(everything(cuda, x, w, grad, p), x, w, grad, p)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0, 8.0, 3.3, 8.7, 100.0, INF])
@pytest.mark.parametrize("shape", LAYERS)
def test_layers_that_fill_a_gpu(cuda, shape, p):
    x, w, grad = sample(shape, torch.float32)
    assert_right(everything(cuda, x, w, grad, p), x, w, grad, p)


@pytest.mark.parametrize("p", [8.0, 8.7, 100.0, INF])
@pytest.mark.parametrize(("multiprocessors", "dtype"), [(1, torch.float64), (132, torch.float32)])
@pytest.mark.parametrize("shape", [(13, 33, 37), (3, 17, 130), (3, 3073, 20), (515, 3, 34)])
def test_no_result_depends_on_order_or_on_memory_never_written(
    cuda, shape, multiprocessors, p, dtype
):
    x, w, grad = sample(shape, dtype)
    with cuda.configured(multiprocessors=multiprocessors):
        first = everything(cuda, x, w, grad, p)
    for machine in MACHINES:
        with cuda.configured(multiprocessors=multiprocessors, **machine):
            again = everything(cuda, x, w, grad, p)
        for one, other in zip(bits(first), bits(again), strict=True):
            assert torch.equal(one, other), machine


@pytest.mark.parametrize("p", [8.0, 8.7, INF])
@pytest.mark.parametrize("multiprocessors", [1, 7, 108])
@pytest.mark.parametrize("shape", [(3, 3100, 34), (3100, 3, 34), (70, 260, 9)])
def test_any_gpu_is_right(cuda, shape, multiprocessors, p):
    # Long sums are cut into as many segments as fill it.
    x, w, grad = sample(shape, torch.float32)
    with cuda.configured(multiprocessors=multiprocessors):
        assert_right(everything(cuda, x, w, grad, p), x, w, grad, p)


@pytest.mark.parametrize("p", [1.0, 8.0, 8.7, 100.0, INF])
@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 7, 64), (65, 1537, 32)])
def test_arrays_that_begin_anywhere(cuda, shape, offset, p):
    x, w, grad = sample(shape, torch.float32)
    cuda.offset = offset
    assert_right(everything(cuda, x, w, grad, p), x, w, grad, p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SIZES, *LAYERS])
def test_interval_is_exact(cuda, shape, dtype):
    x, w, _ = sample(shape, dtype)
    bounds = cuda.interval(x, x + 0.3, w)
    for ours, theirs in zip(bounds, linf_interval(x, x + 0.3, w), strict=True):
        assert torch.equal(ours, theirs)
    with cuda.configured(order="reverse", poison=0x7F):
        assert all(map(torch.equal, bits(cuda.interval(x, x + 0.3, w)), bits(bounds)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 7, 200), (65, 1537, 200)])
def test_the_first_index_of_a_tie(cuda, shape, dtype):
    batch, out_features, in_features = shape
    x, w = torch.zeros(batch, in_features, dtype=dtype), torch.ones(out_features, in_features)
    first = torch.arange(out_features) % in_features
    w[torch.arange(in_features) < first[:, None]] = 0.5
    distance, index = cuda.forward_with_index(x, w.to(dtype))
    assert torch.equal(distance, torch.ones_like(distance))
    assert torch.equal(index.long(), first.expand(batch, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 8.7, 1000.0, INF])
@pytest.mark.parametrize("out_features", [5, 3100])
def test_gradients_are_zero_where_x_equals_w(cuda, out_features, p, dtype):
    x = torch.randn(5, 33, dtype=dtype)  # the third and fourth of four take the polynomial
    w = x[torch.arange(out_features) % 5]
    grad = (x[:, None] == w).all(-1).to(dtype)
    distance, *rest = everything(cuda, x, w, grad, p)
    assert (distance[grad == 1] == 0).all()
    assert all((value == 0).all() for value in rest[-2:])


@pytest.mark.parametrize("p", [8.7, 1000.0, 1e5, 1e7, 1e30])
def test_no_gradient_is_above_its_pairs(cuda, p):
    x, w, grad = sample((37, 1, 50), torch.float32)
    grad_x = cuda.backward(grad, x, w, distance=cuda.forward(x, w, p), p=p)[0]
    assert (grad_x.abs() <= grad.abs() * (1 + 1e-6 * min(p, 1e3))).all()


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 8.7, 100.0, INF])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-12, 1e12, 1e30, 3e37])
@pytest.mark.parametrize("shape", [(7, 9, 50), (3, 3100, 20)])
def test_any_magnitude(cuda, shape, scale, p):
    x, w, grad = sample(shape, torch.float32)
    x, w = (scale * x).clamp(-1e38, 1e38), (scale * w).clamp(-1e38, 1e38)
    results = everything(cuda, x, w, grad, p)
    expected = oracles.lp_dist(x.numpy(), w.numpy(), p)
    finite = expected < torch.finfo(torch.float32).max
    np.testing.assert_allclose(results[0].numpy()[finite], expected[finite], rtol=1e-5, atol=1e-45)
    assert not np.isnan(results[0].numpy()).any()
    if scale > 1e-37 and finite.all():
        theirs = oracles.lp_dist_gradients(grad.numpy(), x.numpy(), w.numpy(), p)
        # At real p the rounding of a logarithm of size |log2(scale)| is multiplied by p.
        size = 1 if p in (1.0, 2.0, 8.0, INF) else abs(math.log2(scale)) / 4
        tolerance = 2e-6 * size * (1 if math.isinf(p) else max(10.0, p))
        for ours, right in zip(results[-2:], theirs, strict=True):
            assert np.abs(ours.numpy() - right).max() <= tolerance * np.abs(right).max()


@pytest.mark.parametrize("p", [2.0, 4.0, 8.0, 8.7, 100.0])
@pytest.mark.parametrize("out_features", [3, 3100])
def test_pairs_far_apart_in_size_keep_their_relative_accuracy(cuda, out_features, p):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 40, generator=generator) * 1e4
    near = torch.logspace(-12, 4, out_features)[:, None]
    w = x[torch.arange(out_features) % 6] + near * torch.randn(
        out_features, 40, generator=generator
    )
    expected = oracles.lp_dist(x.numpy(), w.numpy(), p)
    np.testing.assert_allclose(cuda.forward(x, w, p).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1.0, 4.0, 8.0, 8.7, 100.0, INF])
@pytest.mark.parametrize("out_features", [20, 3100])
def test_nan_and_infinity_are_the_cpus(cuda, out_features, p, dtype):
    x, w, grad = sample((9, out_features, 70), dtype)
    x[2, 69] = w[5, 0] = math.nan
    x[4, 3] = -INF
    x[6, 3] = w[7, 3] = -INF  # two pairs are NaN
    results = everything(cuda, x, w, grad, p)
    torch.testing.assert_close(results[0], lp_dist(x, w, p), equal_nan=True, rtol=1e-5, atol=0)
    if math.isinf(p):
        assert torch.equal(results[2].long(), (x.unsqueeze(1) - w).abs().argmax(-1))
    bounds, right = cuda.interval(x, x + 0.3, w), linf_interval(x, x + 0.3, w)
    for ours, theirs in zip(bounds, right, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("p", [1.5, 8.7, 95.9, 97.0, 149.9, 151.0, 1000.0])  # round the skips
def test_the_error_of_the_special_function_unit_is_bearable(cuda, p):
    x, w, grad = sample((70, 66, 137), torch.float32)
    with cuda.configured(mufu_error=True):
        assert_right(everything(cuda, x, w, grad, p), x, w, grad, p)
