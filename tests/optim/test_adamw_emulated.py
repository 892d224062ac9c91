"""The CUDA kernel of the optimizer step as it stands, run thread by thread on the CPU."""

import math

import emulator
import pytest
import torch
from helpers.adamw_cases import P_VALUES, SETTINGS, SHAPES, check, sample

pytestmark = pytest.mark.skipif(
    emulator.compiler() is None, reason="the emulation needs a C++20 compiler: install g++"
)


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    return emulator.Emulator(emulator.built_once(tmp_path_factory))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", P_VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_formula_wherever_arrays_begin(cuda, shape, p, dtype):
    tensors = sample(shape, dtype)
    try:
        for cuda.offset in (0, 1):
            check(tensors, cuda.adamw(*tensors, p=p, **SETTINGS), p)
    finally:
        cuda.offset = 0


@pytest.mark.parametrize("p", [2.0, 8.7, math.inf])
@pytest.mark.parametrize("shape", [(4, 3), (3, 784), (2, 12292)])
def test_no_result_depends_on_order_or_on_memory_never_written(cuda, shape, p):
    tensors = sample(shape, torch.float32)
    first = cuda.adamw(*tensors, p=p, **SETTINGS)
    for machine in ({"order": "reverse"}, {"poison": 0x00}):
        with cuda.configured(**machine):
            again = cuda.adamw(*tensors, p=p, **SETTINGS)
        assert all(map(torch.equal, first, again)), machine


@pytest.mark.parametrize("p", [1.0, 8.7, 1000.0, math.inf])
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e30])
def test_a_weight_of_any_size(cuda, scale, p):
    tensors = sample((5, 37), torch.float32)
    tensors[0] *= scale
    weight, _, _ = cuda.adamw(*tensors, p=p, **{**SETTINGS, "lr": 0.0})
    assert weight.isfinite().all()
    assert torch.equal(weight[1], torch.zeros(37)) and weight[-1, 1] == 0
    assert (weight.abs() <= tensors[0].abs()).all() or p == 1


@pytest.mark.parametrize("p", [1.0, 2.0, 8.7, 1000.0, math.inf])
def test_nan_and_infinity(cuda, p):
    tensors = sample((5, 70), torch.float32)
    tensors[0][0, 69] = math.nan
    tensors[0][2] = math.nan
    tensors[0][3, 5] = math.inf
    weight, _, _ = cuda.adamw(*tensors, p=p, **SETTINGS)
    assert weight[0, 69].isnan() and weight[2].isnan().all() and not weight[3, 5].isfinite()
    assert weight[1].isfinite().all() and weight[4].isfinite().all()
