"""What the ops promise beyond values: Lipschitz constants, determinism, memory, torch's tools."""

import math

import pytest
import torch
from helpers.forks import run_script
from helpers.pairs import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist.ops import backend, linf_interval, lp_dist


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    in_features=st.integers(1, 200),
    magnitude=st.floats(1e-6, 1e4),
    step=st.floats(1e-6, 1e2),
)
def test_one_lipschitz_at_infinity(seed, in_features, magnitude, step):
    generator = torch.Generator().manual_seed(seed)
    w = magnitude * torch.randn(5, in_features, generator=generator, dtype=torch.float64)
    x = magnitude * torch.randn(8, in_features, generator=generator, dtype=torch.float64)
    y = x + step * torch.randn(8, in_features, generator=generator, dtype=torch.float64)
    moved = (lp_dist(x, w) - lp_dist(y, w)).abs().amax(1)
    rounding = 4 * torch.finfo(torch.float64).eps * (x.abs().max() + w.abs().max() + step)
    assert (moved <= (x - y).abs().amax(1) + rounding).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), p=st.floats(1, 60), in_features=st.integers(1, 100))
def test_lipschitz_constant_at_finite_p(seed, p, in_features):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(5, in_features, generator=generator, dtype=torch.float64)
    x, y = torch.randn(2, 8, in_features, generator=generator, dtype=torch.float64)
    moved = (lp_dist(x, w, p) - lp_dist(y, w, p)).abs().amax(1)
    assert (moved <= in_features ** (1 / p) * (x - y).abs().amax(1) * (1 + 1e-9)).all()


@pytest.mark.parametrize("p", [2.0, 8.0, 8.7, 300.0, math.inf])
def test_results_do_not_depend_on_threads_or_on_the_batch(p):
    x, w, grad = sample((50, 70, 130), torch.float32)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            distance = lp_dist(a, b, p)
            distance.backward(grad)
            found.append((distance.detach(), a.grad, b.grad))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))
    if math.isinf(p):  # sums of a scaled integer power depend on the batch's largest entry
        assert torch.equal(lp_dist(x[7:8], w, p), found[0][0][7:8])


SCRIPT = """
import math, sys, numpy as np, torch
from helpers import oracles
from linfdist.ops import backend, linf_interval, lp_dist, lse_dist
assert backend() == f"native ({sys.argv[1]})", backend()
torch.manual_seed(0)
for shape in ((13, 70, 129), (5, 7, 3)):
    for dtype in (torch.float32, torch.float64):
        x, w = torch.randn(shape[0], shape[2]).to(dtype), torch.randn(shape[1:]).to(dtype)
        for p in (1.0, 2.0, 8.0, 8.7, 1000.0, math.inf):
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            distance = lp_dist(a, b, p)
            distance.sum().backward()
            expected = oracles.lp_dist(x.numpy(), w.numpy(), p)
            np.testing.assert_allclose(distance.detach().numpy(), expected, rtol=2e-6)
            to_x, to_w = oracles.lp_dist_gradients(np.ones(shape[:2]), x.numpy(), w.numpy(), p)
            for actual, wanted in ((a.grad, to_x), (b.grad, to_w)):
                assert np.abs(actual.numpy() - wanted).max() <= 1e-3 * np.abs(wanted).max()
        for t in (0.5, 200.0):
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            distance = lse_dist(a, b, t)
            distance.sum().backward()
            expected = oracles.lse_dist(x.numpy(), w.numpy(), t)
            np.testing.assert_allclose(distance.detach().numpy(), expected, rtol=2e-6)
            gradients = oracles.lse_dist_gradients(np.ones(shape[:2]), x.numpy(), w.numpy(), t)
            for actual, wanted in zip((a.grad, b.grad), gradients):
                assert np.abs(actual.numpy() - wanted).max() <= 1e-3 * np.abs(wanted).max()
        low, high = linf_interval(x - 0.25, x + 0.25, w)
        wanted = oracles.linf_interval((x - 0.25).numpy(), (x + 0.25).numpy(), w.numpy())
        np.testing.assert_allclose(low.numpy(), wanted[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(high.numpy(), wanted[1], rtol=1e-6)
print(lp_dist(torch.ones(2, 3), torch.zeros(1, 3)).sum().item())
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """Each set of kernels this machine can run equals the oracle; none falls back silently."""
    if backend() == "reference":
        pytest.skip("the native kernels are not built")
    done = run_script(SCRIPT, isa, LINFDIST_ISA=isa)
    if "is not an instruction set of this build and machine" in done.stderr:
        pytest.skip(f"{isa} is not on this machine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2.0"]


MEMORY = """
import resource, sys, torch
from linfdist.ops import lp_dist
x, w = torch.randn(512, 4096, requires_grad=True), torch.randn(512, 4096, requires_grad=True)
lp_dist(x[:8], w[:8], float(sys.argv[1])).sum().backward()  # loads and starts what there is
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lp_dist(x, w, float(sys.argv[1])).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("p", ["8", "8.7", "inf"])
def test_memory_stays_near_the_outputs(p):
    """512 × 512 × 4096 pairs would be 4 GiB if the differences were ever all there."""
    done = run_script(MEMORY, p)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 96 * 1024  # KiB; two gradients of 8 MiB, packed inputs, torch's own


@pytest.mark.parametrize("p", [8.0, 8.7, math.inf])
def test_opcheck(p):
    x, w, _ = sample((4, 5, 6), torch.float64)
    x.requires_grad_()
    w.requires_grad_()
    torch.library.opcheck(torch.ops.linfdist.lp_dist.default, (x, w, p))
    torch.library.opcheck(torch.ops.linfdist.linf_dist.default, (x, w))
    upper = (x.detach() + 1).requires_grad_()
    torch.library.opcheck(torch.ops.linfdist.linf_interval.default, (x, upper, w))


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_compiles_without_a_graph_break(p):
    x, w, _ = sample((4, 5, 6), torch.float32)
    w.requires_grad_()

    def loss(x, w):
        low, high = linf_interval(x, x + 0.1, w)
        return (lp_dist(x, w, p) + low + high).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled(x, w).backward()
    through, w.grad = w.grad, None
    loss(x, w).backward()
    torch.testing.assert_close(through, w.grad)


def test_compiles_for_a_p_that_rises():
    x, w, _ = sample((4, 5, 6), torch.float32)
    w.requires_grad_()
    compiled = torch.compile(lambda p: lp_dist(x, w, p).sum(), fullgraph=True, backend="aot_eager")
    for p in (8.0, 9.5, 11.0, math.inf):
        torch.testing.assert_close(compiled(p), lp_dist(x, w, p).sum())
        torch.testing.assert_close(
            *(torch.autograd.grad(value, w)[0] for value in (compiled(p), lp_dist(x, w, p).sum()))
        )


def test_fake_and_meta_tensors_have_the_shapes():
    x, w = torch.empty(3, 4, 6, device="meta"), torch.empty(5, 6, device="meta")
    for p in (8.0, math.inf):
        assert lp_dist(x, w, p).shape == (3, 4, 5)
    assert [bound.shape for bound in linf_interval(x, x, w)] == [(3, 4, 5)] * 2
