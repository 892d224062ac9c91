"""The GPU gives what the CPU gives: bit for bit at p = ∞, within rounding at finite p."""

import math
import shutil

import pytest
import torch
from helpers.pairs import P_VALUES, SHAPES, sample

from linfdist.ops import backend, linf_interval, lp_dist, lse_dist, native

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or backend("cuda") == "reference",
    reason="needs a GPU and a build with nvcc",
)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_the_kernels_are_built_where_nvcc_is():
    assert native.module().cuda_architectures != ""
    assert backend("cuda") == "native (cuda)"


@pytest.mark.parametrize(
    ("architectures", "capability", "covered"),
    [
        ("80-real 90", (8, 0), True),
        ("80-real 90", (12, 0), True),
        ("80-real 90", (8, 9), True),
        ("80-real 90", (7, 5), False),
        ("86-real", (8, 0), False),
        ("86-real", (9, 0), False),
        ("native", (7, 5), True),
        ("80-real 90", None, True),
        ("", (9, 0), False),
        ("", None, False),
    ],
)
def test_an_older_gpu_than_the_build_gets_the_reference(architectures, capability, covered):
    assert native.covers(architectures, capability) is covered


# Enough outputs for tiles, with rows on 16 bytes and not; more samples than a block of the backward
# pass has; few outputs of many features, either way, or one row of very many.
LAYERS = [
    (449, 447, 33),
    (450, 460, 64),
    (1100, 40, 70),
    (300, 10, 1030),
    (2, 90, 515),
    (1, 5120, 515),
    (4096, 10, 130),
]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", P_VALUES)
@pytest.mark.parametrize("shape", [*SHAPES, (70, 66, 37), *LAYERS])
def test_distance_and_gradients_equal_the_cpu(shape, p, dtype):
    x, w, grad = sample(shape, dtype)
    results = []
    for device in ("cpu", "cuda"):
        a, b = (value.to(device).requires_grad_() for value in (x, w))
        distance = lp_dist(a, b, p)
        distance.backward(grad.to(device))
        results.append([value.detach().cpu() for value in (distance, a.grad, b.grad)])
    step = torch.finfo(dtype).eps
    (cpu, *cpu_gradients), (gpu, *gpu_gradients) = results
    if math.isinf(p):
        assert torch.equal(cpu, gpu)
    else:
        torch.testing.assert_close(gpu, cpu, rtol=16 * step, atol=0)
    condition = 1 if math.isinf(p) else max(10.0, p)
    for ours, theirs in zip(gpu_gradients, cpu_gradients, strict=True):
        largest = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=16 * step * condition * largest)


@needs_gpu
@pytest.mark.parametrize("p", [8.0, 8.7, 1000.0, math.inf])
def test_the_same_bits_every_time(p):
    x, w, grad = (value.cuda() for value in sample((700, 300, 530), torch.float32))
    first, second = (
        torch.autograd.grad(lp_dist(a := x.clone().requires_grad_(), b, p), (a, b), grad)
        for b in (w.clone().requires_grad_(), w.clone().requires_grad_())
    )
    for ours, again in zip(first, second, strict=True):
        assert torch.equal(ours, again)


@needs_gpu
@pytest.mark.parametrize("p", [2.0, 3.0, 8.0, 8.7])
def test_gradcheck(p):
    x, w, _ = (value.cuda().requires_grad_() for value in sample((4, 5, 6), torch.float64))
    assert torch.autograd.gradcheck(lambda a, b: lp_dist(a, b, p), (x, w))


@needs_gpu
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("p", P_VALUES)
def test_values_of_any_size(p, scale):
    x, w, _ = (value * scale for value in sample((70, 66, 37), torch.float32))
    x[3] = w[3]  # a distance of 0
    torch.testing.assert_close(
        lp_dist(x.cuda(), w.cuda(), p).cpu(), lp_dist(x, w, p), rtol=1e-5, atol=0
    )


@needs_gpu
@pytest.mark.parametrize("p", P_VALUES)
def test_equal_vectors_have_no_gradient(p):
    x = torch.randn(3, 70, device="cuda").requires_grad_()
    w = x.detach()[:1].clone().requires_grad_()
    lp_dist(x, w, p).sum().backward()
    assert not x.grad[0].any()
    assert torch.equal(w.grad[0], -x.grad.sum(0))


@needs_gpu
@pytest.mark.parametrize("p", [8.0, 8.7, 1000.0, math.inf])
def test_a_captured_graph_replays(p):
    x, w, grad = (value.cuda() for value in sample((130, 140, 150), torch.float32))
    x.requires_grad_()
    w.requires_grad_()

    def run():
        distance = lp_dist(x, w, p)
        return distance.detach(), *torch.autograd.grad(distance, (x, w), grad)

    expected = run()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # as torch asks for: warm up on a side stream
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for value in captured:
        value.fill_(math.nan)
    graph.replay()
    for ours, theirs in zip(captured, expected, strict=True):
        assert torch.equal(ours, theirs)


def direct(x, w, grad, t, fits=0):
    """Distance, total and both gradients by the native LogSumExp of the tensors' device."""
    distance, total, to_x, to_w = (
        torch.full(shape, -7.0, dtype=x.dtype, device=x.device)
        for shape in (grad.shape, grad.shape, x.shape, w.shape)
    )
    flag = (torch.full((1, 1), fits, dtype=torch.int32, device=x.device),) if x.is_cuda else ()
    native.call("lse_forward", x, w, distance, total, *flag, t)
    workspace = native.lse_workspace(x, w)
    native.call("lse_backward", grad, x, w, total, to_x, to_w, *workspace, *flag, t)
    return distance, total, to_x, to_w


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [1e-3, 1.0, 20.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [*SHAPES, (70, 66, 37), *LAYERS])
def test_the_direct_log_sum_exp_equals_the_cpu(shape, t, dtype):
    values = sample(shape, dtype)
    step, size = torch.finfo(dtype).eps, values[2].abs()
    theirs = direct(*values, t)
    ours = [value.cpu() for value in direct(*(value.cuda() for value in values), t)]
    torch.testing.assert_close(ours[0], theirs[0], rtol=16 * step, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=128 * step, atol=0)
    assert ((ours[2] - theirs[2]).abs() <= 32 * step * size.sum(1)[:, None]).all()
    assert ((ours[3] - theirs[3]).abs() <= 32 * step * size.sum(0)[:, None]).all()


@needs_gpu
@pytest.mark.parametrize("shape", [(9, 20, 70), (449, 447, 33), (1100, 40, 70)])
def test_the_direct_log_sum_exp_is_the_same_every_time_and_nothing_where_products_fit(shape):
    values = [value.cuda() for value in sample(shape, torch.float32)]
    first, again = direct(*values, 20.0), direct(*values, 20.0)
    assert all(map(torch.equal, first, again))
    assert all((value == -7).all() for value in direct(*values, 20.0, fits=1))


@needs_gpu
def test_the_direct_log_sum_exp_of_what_is_not_finite():
    x, w, grad = sample((449, 447, 33), torch.float32)
    x[2, 32] = w[5, 0] = math.nan
    x[4, 3] = w[7, 3] = math.inf
    distance, *_ = direct(x.cuda(), w.cuda(), grad.cuda(), 20.0)
    assert torch.equal(distance.isfinite().cpu(), lp_dist(x, w).isfinite())


@needs_gpu
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("shape", [(3, 7), (70, 784), (300, 1001), (3, 16390)])
def test_factors_and_combining(shape, dtype, kind):
    count, length = shape
    rows, centre, _ = (value.cuda() for value in sample((count, 1, length), dtype))
    factors = torch.empty(count, 2 * length, dtype=kind, device="cuda")
    reach = torch.empty(count, 1, dtype=dtype, device="cuda")
    native.call("lse_factors", rows, centre, factors, reach, 2.0, -100.0)
    v = rows - centre
    assert torch.equal(reach, v.abs().amax(1, keepdim=True))
    exponents = torch.cat((v - reach, -v - reach), 1).double() * (2 / math.log(2))
    expected = exponents.exp2().clamp_min(2.0**-100)
    rtol = 100 * torch.finfo(kind).eps if kind == dtype else 2.0**-8
    torch.testing.assert_close(factors.double(), expected, rtol=rtol, atol=0)
    products = torch.randn_like(factors, dtype=dtype)
    grad = torch.empty_like(rows)
    native.call("lse_combine", products, factors, grad)
    (up, down), (plus, minus) = (value.double().chunk(2, 1) for value in (products, factors))
    error = (grad.double() - (up * minus - down * plus)).abs()
    assert (error <= torch.finfo(dtype).eps * ((up * minus).abs() + (down * plus).abs())).all()


@needs_gpu
@pytest.mark.parametrize("shape", [*SHAPES, *LAYERS])
def test_interval_equals_the_cpu(shape):
    x, w, _ = sample(shape, torch.float32)
    on_gpu = linf_interval(x.cuda(), (x + 0.3).cuda(), w.cuda())
    for ours, theirs in zip(on_gpu, linf_interval(x, x + 0.3, w), strict=True):
        assert torch.equal(ours.cpu(), theirs)


@needs_gpu
@pytest.mark.parametrize("p", [1.0, 8.0, 8.7, math.inf])
def test_nan_infinity_and_empty_input(p):
    x, w, _ = sample((9, 20, 70), torch.float32)
    x[2, 69] = math.nan
    x[4, 3] = math.inf
    for a, b in ((x, w), (x[:0], w), (x, w[:0]), (x[:, :0], w[:, :0])):
        ours, theirs = lp_dist(a.cuda(), b.cuda(), p).cpu(), lp_dist(a, b, p)
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@needs_gpu
def test_runs_on_the_current_stream():
    x, w, _ = sample((64, 64, 4096), torch.float32)
    expected = lp_dist(x, w)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        on_gpu = lp_dist(x.cuda(), w.cuda())
    stream.synchronize()
    assert torch.equal(on_gpu.cpu(), expected)


@needs_gpu
@pytest.mark.parametrize("t", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(9, 20, 70), (449, 447, 33), LAYERS[0]])
def test_lse_dist_equals_the_cpu_and_waits_for_nothing(shape, t):
    x, w, grad = sample(shape, torch.float32)
    found = {}
    for device in ("cpu", "cuda"):
        here = [value.to(device).requires_grad_() for value in (x, w)]
        torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
        try:
            distance = lse_dist(*here, t)
            gradients = torch.autograd.grad(distance, here, grad.to(device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[device] = [value.detach().cpu() for value in (distance, *gradients)]
    size = float(x.abs().max() + w.abs().max())
    step = torch.finfo(torch.float32).eps
    scales = (size + 1 / t, grad.abs().sum(1).max(), grad.abs().sum(0).max())
    for ours, theirs, scale in zip(found["cuda"], found["cpu"], scales, strict=True):
        assert ((ours - theirs).abs() <= (4 * t * size + 16) * step * scale).all()


@needs_gpu
@pytest.mark.parametrize(("precision", "error"), [("high", 2e-3), ("medium", 1e-2)])
def test_products_at_lower_precision(precision, error):
    values = [value.cuda() for value in sample(LAYERS[0], torch.float32)]
    x, w, grad = values[0].requires_grad_(), values[1].requires_grad_(), values[2]
    before = torch.get_float32_matmul_precision()
    found = []
    for name in ("highest", precision):
        torch.set_float32_matmul_precision(name)
        try:
            distance = lse_dist(x, w, 1.5)
            found.append((distance, *torch.autograd.grad(distance, (x, w), grad)))
        finally:
            torch.set_float32_matmul_precision(before)
    for exact, rounded in zip(*found, strict=True):
        assert not torch.equal(exact, rounded)
        assert (exact - rounded).abs().max() <= error * exact.abs().max()
