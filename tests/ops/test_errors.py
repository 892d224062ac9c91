"""Bad input: each kind has its own error, which names the value and the fix."""

import math
import warnings

import pytest
import torch
from helpers.forks import run_script

from linfdist.ops import linf_interval, lp_dist, lse_dist, native

X, W = torch.zeros(3, 5), torch.zeros(4, 5)


@pytest.mark.parametrize("p", [0.5, 0, -1, -math.inf, math.nan])
def test_p_below_one(p):
    with pytest.raises(ValueError, match=r"p must be in \[1, inf\].*Use math.inf"):
        lp_dist(X, W, p)


def test_p_as_a_tensor():
    with pytest.raises(TypeError, match=r"p must be a Python number.*p.item\(\)"):
        lp_dist(X, W, torch.tensor(8.0))


@pytest.mark.parametrize("x", [torch.zeros(3, 1, 28, 28), torch.zeros(5, 3), torch.tensor(1.0)])
def test_features_that_do_not_match(x):
    with pytest.raises(ValueError, match=r"x must have in_features=5 in its last axis; got .*Flat"):
        lp_dist(x, W)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_dtypes_that_are_not_supported(dtype):
    with pytest.raises(TypeError, match=r"x must be float32 or float64; got .*x.float\(\)"):
        lp_dist(X.to(dtype), W)
    with pytest.raises(TypeError, match="weight must be float32 or float64"):
        lp_dist(X, W.to(dtype))


def test_dtypes_that_differ():
    with pytest.raises(TypeError, match="must share one dtype; got"):
        lp_dist(X.double(), W)


def test_devices_that_differ():
    with pytest.raises(ValueError, match="must be on one device; got cpu and meta"):
        lp_dist(X, W.to("meta"))


def test_weight_that_is_no_matrix():
    with pytest.raises(ValueError, match=r"weight must have shape \(out_features, in_features\)"):
        lp_dist(X, torch.zeros(2, 4, 5))


def test_arrays_that_are_no_tensors():
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor; got ndarray.*as_tensor"):
        lp_dist(X.numpy(), W)


def test_interval_bounds_that_differ_in_shape():
    with pytest.raises(ValueError, match="lower and upper must have one shape"):
        linf_interval(X, X[:2], W)
    with pytest.raises(ValueError, match="upper must have in_features=5"):
        linf_interval(X, X[:, :2], W)


def test_a_device_without_native_kernels_is_named_once():
    native.warn_reference.cache_clear()
    with pytest.warns(RuntimeWarning, match="no native kernels for 'xpu' tensors.*slow"):
        native.warn_reference("xpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        native.warn_reference("xpu")
    assert native.backend("xpu") == "reference"


def test_an_instruction_set_that_does_not_exist():
    done = run_script("from linfdist.ops import backend; backend()", LINFDIST_ISA="sse9")
    assert "LINFDIST_ISA=sse9 is not an instruction set of this build and machine" in done.stderr


OPS = {
    "lp_dist": lambda x, w: lp_dist(x, w, 8.0),
    "linf_dist": lp_dist,
    "lse_dist by products": lambda x, w: lse_dist(x, w, 1.0),
    "lse_dist by the sum": lambda x, w: lse_dist(x, w, 1e4),
    "linf_interval": lambda x, w: linf_interval(x, x, w)[1],
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPS)
def test_in_autocast_every_op_computes_in_float32(name, half, compiled):
    """As torch.cdist does: a linear layer before it gives half precision."""
    op, layer, w = OPS[name], torch.nn.Linear(30, 20), torch.randn(7, 20, requires_grad=True)
    if compiled and half == torch.float16:
        pytest.skip("one half precision shows it")

    def forward(images, w):
        x = layer(images)
        return x, op(x, w)

    run = torch.compile(forward, fullgraph=True, backend="aot_eager") if compiled else forward
    with torch.autocast("cpu", dtype=half):
        x, distance = run(torch.randn(5, 30), w)
        distance.square().sum().backward()  # inside: products of the gradient are float32 too
    assert x.dtype == half and distance.dtype == torch.float32
    alone = [value.detach().float().requires_grad_() for value in (x, w)]
    expected = op(*alone)
    expected.square().sum().backward()
    assert torch.equal(distance, expected)
    torch.testing.assert_close(w.grad, alone[1].grad)
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.any()


def test_in_autocast_float64_stays_and_outside_half_precision_is_refused():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lp_dist(X.double(), W.double()).dtype == torch.float64
        with pytest.raises(TypeError, match="must share one dtype; got"):
            lp_dist(X.bfloat16(), W.double())
    with torch.autocast("cpu", enabled=False), pytest.raises(TypeError, match="float32 or float64"):
        lp_dist(X.bfloat16(), W.bfloat16())


def test_in_autocast_the_range_of_t_is_that_of_float32():
    t = 50_000.0  # more than half of the largest float16
    with torch.autocast("cpu", dtype=torch.float16):
        found = lse_dist(X.half(), torch.ones_like(W).half(), t)
    assert torch.equal(found, lse_dist(X, torch.ones_like(W), t)) and (found > 1).all()
