"""The native step is the formula, is what torch's ops give, and knows the edges."""

import math
import platform
from copy import deepcopy

import pytest
import torch
from helpers.adamw_cases import P_VALUES, SETTINGS, SHAPES, check, sample
from helpers.forks import run_script

from linfdist.ops import backend, native
from linfdist.optim import LpAdamW, set_p
from linfdist.optim.adamw_step import adamw_step_

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def stepped(tensors, p, **changed):
    """Weight and moments after the step; the gradient is as it was."""
    weight, grad, exp_avg, exp_avg_sq = (tensor.clone() for tensor in tensors)
    adamw_step_(weight, grad, exp_avg, exp_avg_sq, p=p, **{**SETTINGS, **changed})
    assert torch.equal(grad, tensors[1])
    return weight, exp_avg, exp_avg_sq


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch):
    """Which code makes the step."""
    if request.param == "torch":
        monkeypatch.setattr(native, "runs_on", lambda device: False)
    elif backend() == "reference":
        pytest.skip("the native kernels are not built")
    return request.param


@pytest.mark.quick
@DTYPES
@pytest.mark.parametrize("p", P_VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_formula(path, shape, p, dtype):
    tensors = sample(shape, dtype)
    check(tensors, stepped(tensors, p), p)


@pytest.mark.parametrize("steps", [1, 2, 10_000])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.0, 0.0), (0.9, 0.9999)])
def test_the_bias_is_corrected(path, betas, steps):
    tensors = sample((5, 37), torch.float32)
    check(tensors, stepped(tensors, 8.0, betas=betas, steps=steps), 8.0, betas=betas, steps=steps)


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 1000.0, math.inf])
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e30])
def test_a_weight_of_any_size(path, scale, p):
    tensors = sample((5, 37), torch.float32)
    tensors[0] *= scale
    weight, _, _ = stepped(tensors, p, lr=0.0)
    assert weight.isfinite().all()
    assert torch.equal(weight[1], torch.zeros(37)) and weight[-1, 1] == 0
    assert (weight.abs() <= tensors[0].abs()).all() or p == 1


@pytest.mark.parametrize("p", [1.0, 2.0, 8.7, 1000.0, math.inf])
def test_nan_stays_nan_and_infinity_does_not_spread(path, p):
    tensors = sample((4, 70), torch.float32)
    tensors[0][1] = 1
    tensors[0][0, 69] = math.nan
    tensors[0][2] = math.nan
    tensors[0][3, 5] = math.inf
    weight, _, _ = stepped(tensors, p)
    assert weight[0, 69].isnan() and weight[2].isnan().all() and not weight[3, 5].isfinite()
    assert weight[1].isfinite().all()
    if p == 2 or math.isinf(p):
        assert weight[0, :69].isfinite().all()


@pytest.mark.parametrize("p", [2.0, 8.7, math.inf])
def test_steps_are_the_same_bits_on_any_number_of_threads(p):
    tensors = sample((70, 700), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(stepped(tensors, p))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def trained(p, decay, shapes=((6, 5), (3, 4, 2, 2), (6,), ())):
    """Parameters after five steps of the optimizer."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = LpAdamW(params, weight_decay=0.5, decay=decay)
    set_p(optimizer, p)
    for _ in range(5):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    return params


@pytest.mark.parametrize("decay", ["lp", "l2", "none"])
@pytest.mark.parametrize("p", [1.0, 8.7, math.inf])
def test_native_and_torch_train_alike(monkeypatch, p, decay):
    ours = trained(p, decay)
    monkeypatch.setattr(native, "runs_on", lambda device: False)
    torch.testing.assert_close(ours, trained(p, decay), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("p", [3.0, math.inf])
def test_strides_change_nothing(path, p):
    tensors = [tensor.view(4, 3, 2, 2) for tensor in sample((4, 12), torch.float32)]
    expected = stepped(tensors, p)
    strided = [tensor.to(memory_format=torch.channels_last) for tensor in tensors]
    for mixed in (strided, [tensors[0], strided[1], *tensors[2:]], [*tensors[:3], strided[3]]):
        results = stepped(mixed, p)
        assert results[0].stride() == mixed[0].stride()
        torch.testing.assert_close(results, expected, rtol=1e-6, atol=1e-7)


def test_an_empty_parameter(path):
    for shape in ((0, 3), (3, 0), (0,)):
        assert stepped([torch.empty(shape)] * 4, 8.0)[0].shape == shape


def test_autograd_notices_the_step(path):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    loss = (weight**2).sum()
    weight.grad = torch.ones(2, 3)
    LpAdamW([weight]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_half_precision_is_trained_by_torch_s_ops():
    weight = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    LpAdamW([weight], decay="none").step()
    torch.testing.assert_close(weight, torch.full_like(weight, 0.98))


@pytest.mark.skipif(
    backend() == "reference" or platform.machine() not in ("x86_64", "AMD64"),
    reason="needs the native kernels on x86",
)
def test_moments_without_a_gradient_end_at_zero():
    """As denormals they would stay, and cost an x86 thirty times the time."""
    weight, grad = torch.ones(1, 40), torch.zeros(1, 40)
    exp_avg, exp_avg_sq = torch.full((2, 1, 40), 1e-38)
    for steps in range(1, 4):
        settings = {**SETTINGS, "steps": steps}
        adamw_step_(weight, grad, exp_avg, exp_avg_sq, p=math.inf, **settings)
    assert not exp_avg.any() and not exp_avg_sq.any()
    assert (torch.tensor([1e-38]) * 0.1).item() > 0  # elsewhere denormals are as they were


def test_a_checkpoint_from_when_adam_was_torch_s_goes_on():
    params = [torch.nn.Parameter(torch.ones(2, 3))]
    old, new = LpAdamW(params), LpAdamW(params)
    params[0].grad = torch.ones(2, 3)
    old.step()
    state = deepcopy(old.state_dict())
    state["param_groups"][0]["fused"] = True
    new.load_state_dict(state)
    assert new.state_dict()["param_groups"] == old.state_dict()["param_groups"]
    assert new.state[params[0]]["step"] == 1
    new.step()
    assert new.state[params[0]]["step"] == 2


SCRIPT = """
import itertools, sys, torch
from helpers.adamw_cases import P_VALUES, SETTINGS, SHAPES, check, sample
from linfdist.ops import backend
from linfdist.optim.adamw_step import adamw_step_
assert backend() == f"native ({sys.argv[1]})", backend()
for shape, p, dtype in itertools.product(SHAPES, P_VALUES, (torch.float32, torch.float64)):
    tensors = sample(shape, dtype)
    weight, grad, exp_avg, exp_avg_sq = (tensor.clone() for tensor in tensors)
    adamw_step_(weight, grad, exp_avg, exp_avg_sq, p=p, **SETTINGS)
    check(tensors, (weight, exp_avg, exp_avg_sq), p)
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    if backend() == "reference":
        pytest.skip("the native kernels are not built")
    done = run_script(SCRIPT, isa, LINFDIST_ISA=isa)
    if "is not an instruction set of this build and machine" in done.stderr:
        pytest.skip(f"{isa} is not on this machine")
    assert done.returncode == 0, done.stderr
