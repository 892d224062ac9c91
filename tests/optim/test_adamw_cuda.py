"""The step on a GPU: the formula, the same bits each time, and no wait for the device."""

import math
from copy import deepcopy

import pytest
import torch
from helpers.adamw_cases import P_VALUES, SETTINGS, SHAPES, check, sample

from linfdist.ops import backend
from linfdist.optim import LpAdamW, set_p
from linfdist.optim.adamw_step import adamw_step_

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or backend("cuda") == "reference",
    reason="needs a GPU and a build with nvcc",
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def shifted(tensor, by):
    """A copy on the GPU, ``by`` elements past an aligned address."""
    memory = torch.empty(tensor.numel() + by, dtype=tensor.dtype, device="cuda")
    return memory[by:].view(tensor.shape).copy_(tensor)


def stepped(tensors, p, shifts=(0, 0, 0, 0)):
    weight, grad, exp_avg, exp_avg_sq = map(shifted, tensors, shifts)
    adamw_step_(weight, grad, exp_avg, exp_avg_sq, p=p, **SETTINGS)
    assert torch.equal(grad.cpu(), tensors[1])
    return weight.cpu(), exp_avg.cpu(), exp_avg_sq.cpu()


@DTYPES
@pytest.mark.parametrize("p", P_VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_formula_and_repeats_to_the_bit(shape, p, dtype):
    tensors = sample(shape, dtype)
    results = stepped(tensors, p)
    check(tensors, results, p)
    assert all(torch.equal(*pair) for pair in zip(results, stepped(tensors, p), strict=True))


@DTYPES
@pytest.mark.parametrize("p", [2.0, 8.7, math.inf])
@pytest.mark.parametrize("shifts", [(1, 1, 1, 1), (0, 1, 0, 0), (0, 0, 0, 3)])
def test_an_address_that_is_not_aligned(shifts, p, dtype):
    for shape in ((3, 784), (2, 12292)):
        tensors = sample(shape, dtype)
        check(tensors, stepped(tensors, p, shifts), p)


@pytest.mark.parametrize("p", [1.0, 2.0, 8.7, 1000.0, math.inf])
def test_zeros_nan_and_infinity(p):
    tensors = sample((5, 70), torch.float32)
    tensors[0][0, 69] = math.nan
    tensors[0][2] = math.nan
    tensors[0][3, 5] = math.inf
    weight, _, _ = stepped(tensors, p)
    assert weight[0, 69].isnan() and weight[2].isnan().all() and not weight[3, 5].isfinite()
    assert weight[1].isfinite().all() and weight[4].isfinite().all()


@pytest.mark.parametrize("p", [8.7, math.inf])
def test_training_equals_the_cpu_s_and_waits_for_nothing(p):
    shapes = ((64, 784), (10, 64), (64, 3, 3, 3), (10,))
    params = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=generator) for shape in shapes]
        params[device] = [torch.nn.Parameter(value.to(device)) for value in values]
        optimizer = LpAdamW(params[device], weight_decay=0.5)
        set_p(optimizer, p)
        for _ in range(5):
            for param in params[device]:
                param.grad = torch.randn(param.shape, generator=generator).to(device)
            torch.cuda.set_sync_debug_mode("error")
            try:
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(params["cuda"], params["cpu"], strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=2e-6, atol=2e-6)


def test_a_checkpoint_that_was_loaded_on_the_gpu_waits_for_nothing_either():
    param = torch.nn.Parameter(torch.ones(8, 40, device="cuda"))
    param.grad = torch.ones_like(param)
    old, new = LpAdamW([param]), LpAdamW([param])
    old.step()
    state = deepcopy(old.state_dict())
    state["param_groups"][0]["fused"] = True  # as when Adam was torch's
    state["state"][0]["step"] = state["state"][0]["step"].cuda()
    new.load_state_dict(state)
    assert new.state[param]["step"].device.type == "cpu"
    assert new.state[param]["exp_avg"].device.type == "cuda"
    torch.cuda.set_sync_debug_mode("error")
    try:
        new.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert new.state[param]["step"] == 2


def test_runs_on_the_current_stream():
    tensors = sample((64, 5120), torch.float32)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results = stepped(tensors, 8.7)
    check(tensors, results, 8.7)
