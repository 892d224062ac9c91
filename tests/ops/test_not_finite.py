"""One rule for NaN, infinities and overflow: the reference's, on every instruction set and on CUDA.

- A distance is NaN where an entry is NaN or a feature is ∞ − ∞; else ∞ where one is infinite. Other
  pairs keep their results, whatever shares a vector with them.
- At a finite p, and by LogSumExp, a distance that is not finite makes all gradients of its sample
  and of its neuron NaN; at p = ∞ one that is NaN makes that of its first NaN entry so.
"""

import itertools
import math

import emulator
import pytest
import torch
from helpers import not_finite
from helpers.forks import run_script

from linfdist.ops import backend, linf_interval, lp_dist, lse_dist, native, reference

P_VALUES = (1.0, 2.0, 4.0, 8.0, 3.3, 100.0, math.inf)
DTYPES = (torch.float32, torch.float64)
CASES = list(itertools.product(not_finite.KINDS, not_finite.SHAPES, DTYPES))


class Native:
    """The ops as they are; LogSumExp by its direct sum."""

    interval = staticmethod(linf_interval)
    forward = staticmethod(lp_dist)
    forward_with_index = staticmethod(torch.ops.linfdist.linf_dist)

    @staticmethod
    def backward(grad, x, w, distance=None, index=None, p=math.inf):
        ops = torch.ops.linfdist
        if index is not None:
            return ops.linf_dist_backward(grad, x, w, index)
        return ops.lp_dist_backward(grad, x, w, distance, p)

    @staticmethod
    def lse_forward(x, w, t):
        distance = x.new_empty(len(x), len(w))
        total = torch.empty_like(distance)
        native.call("lse_forward", x, w, distance, total, t)
        return distance, total

    @staticmethod
    def lse_backward(grad, x, w, total, t):
        gradients = torch.empty_like(x), torch.empty_like(w)
        native.call("lse_backward", grad, x, w, total, *gradients, t)
        return gradients


def check_all(ops, kind, shape, dtype):
    """Every function of ``ops`` against the reference."""
    x, w, grad = not_finite.sample(kind, shape, dtype)
    small = 1e-4 if dtype == torch.float32 else 1e-10
    upper = x + 0.3
    for ours, theirs in zip(
        ops.interval(x, upper, w), reference.linf_interval(x, upper, w), strict=True
    ):
        not_finite.same(ours, theirs, 0.0)
    for p in P_VALUES:
        distance = reference.lp_dist(x, w, p)
        not_finite.same(ops.forward(x, w, p), distance, small)
        if math.isinf(p):
            index = reference.first_index(x, w)
            found = ops.forward_with_index(x, w)
            not_finite.same(found[0], distance, 0.0)
            assert torch.equal(found[1], index)
            wanted = reference.linf_dist_backward(grad, x, w, index)
            gradients = ops.backward(grad, x, w, index=index)
        else:
            wanted = reference.lp_dist_backward(grad, x, w, distance, p)
            gradients = ops.backward(grad, x, w, distance, p=p)
        for ours, theirs in zip(gradients, wanted, strict=True):
            not_finite.same(ours, theirs, 100 * small)
    for t in (1.0, 50.0):
        distance, total = reference.lse_dist(x, w, t)
        found = ops.lse_forward(x, w, t)
        not_finite.same(found[0], distance, small)
        wanted = reference.lse_dist_backward(grad, x, w, total, t)
        gradients = ops.lse_backward(grad, x, w, found[1], t)
        for ours, theirs in zip(gradients, wanted, strict=True):
            not_finite.same(ours, theirs, 100 * small)


@pytest.mark.skipif(backend() == "reference", reason="the native kernels are not built")
@pytest.mark.parametrize(("kind", "shape", "dtype"), CASES)
def test_the_cpu_s_kernels_are_the_reference(kind, shape, dtype):
    check_all(Native, kind, shape, dtype)


SCRIPT = """
import importlib.util, sys
path, isa = sys.argv[1:]
spec = importlib.util.spec_from_file_location("cases", path)
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
assert cases.backend() == f"native ({isa})", cases.backend()
for case in cases.CASES:
    cases.check_all(cases.Native, *case)
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_is_the_reference(isa):
    if backend() == "reference":
        pytest.skip("the native kernels are not built")
    done = run_script(SCRIPT, __file__, isa, LINFDIST_ISA=isa)
    if "is not an instruction set of this build and machine" in done.stderr:
        pytest.skip(f"{isa} is not on this machine")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    if emulator.compiler() is None:
        pytest.skip("the emulation needs a C++20 compiler: install g++")
    return emulator.Emulator(emulator.built_once(tmp_path_factory))


@pytest.mark.parametrize(("kind", "shape", "dtype"), CASES)
def test_the_cuda_kernels_are_the_reference(cuda, kind, shape, dtype):
    check_all(cuda, kind, shape, dtype)


def test_the_cuda_kernels_pass_an_index_by_that_is_none(cuda):
    """The device's memory is not read to find out: what lies outside adds nothing."""
    x, w = torch.randn(3, 5), torch.randn(4, 5)
    index = torch.tensor([-1, 5, 2**31 - 1, -(2**31)], dtype=torch.int32).expand(3, 4).contiguous()
    for gradient in cuda.backward(torch.ones(3, 4), x, w, index=index):
        assert not gradient.any()


@pytest.mark.skipif(backend() == "reference", reason="the native kernels are not built")
@pytest.mark.parametrize("t", [0.3, 1e4])  # by products, by the sum
@pytest.mark.parametrize("kind", not_finite.KINDS)
def test_lse_dist_is_finite_where_the_reference_is(kind, t):
    for of in ("both", "weight"):
        x, w, grad = not_finite.sample(kind, (9, 40, 13), torch.float32)
        if of == "weight":  # so that products are made
            x = torch.rand(9, 13)
        distance, total = reference.lse_dist(x, w, t)
        wanted = reference.lse_dist_backward(grad, x, w, total, t)
        x.requires_grad_()
        w.requires_grad_()
        found = lse_dist(x, w, t)
        not_finite.as_finite(found.detach(), distance, 1e-4)
        found.backward(grad)
        for ours, theirs in zip((x.grad, w.grad), wanted, strict=True):
            # At differences of 1e38 a rounding decides which of two shares is 0 and which 1.
            not_finite.as_finite(ours, theirs, 1e3 if kind in ("overflow", "mixed") else 0.02)


@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_an_interval_has_nan_only_where_the_same_feature_is_infinite_in_both(bound):
    x, w = torch.zeros(4, 3), torch.zeros(2, 3)
    x[0, 1] = x[2, 2] = math.inf
    x[1, 1] = -math.inf
    x[3, 0] = math.nan
    w[1, 1] = math.inf
    lower, upper = (x, x) if bound == "upper" else (torch.full_like(x, -math.inf), x)
    for ours in (linf_interval, reference.linf_interval):
        low, high = ours(lower, upper, w)
        assert torch.equal(high.isnan(), low.isnan())
        wanted = [[False, True], [False, False], [False, False], [True, True]]
        assert low.isnan().tolist() == wanted
        assert high[2].tolist() == [math.inf, math.inf]
