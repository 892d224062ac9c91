"""The GPU gives what the CPU gives: bit for bit at p = ∞, within rounding at finite p."""

import math
import shutil

import pytest
import torch
from pairs import P_VALUES, SHAPES, sample

from linfdist.ops import backend, linf_interval, lp_dist, native

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
        ("80-real 90", (7, 5), False),
        ("native", (7, 5), True),
        ("80-real 90", None, True),
        ("", (9, 0), False),
        ("", None, False),
    ],
)
def test_an_older_gpu_than_the_build_gets_the_reference(architectures, capability, covered):
    assert native.covers(architectures, capability) is covered


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", P_VALUES)
@pytest.mark.parametrize("shape", [*SHAPES, (70, 66, 37)])
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
@pytest.mark.parametrize("shape", SHAPES)
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
