"""Weights, gradients and moments that the tests of the optimizer step share, and what is wanted."""

import math

import torch
from helpers import oracles

P_VALUES = [1.0, 1.5, 2.0, 8.0, 8.7, 100.0, 1000.0, math.inf]
# rows, length: one weight, short, odd, whole vectors, longer than a block's shared memory
SHAPES = [(1, 1), (4, 3), (5, 37), (3, 784), (2, 5121), (2, 12292)]
SETTINGS = {"rate": 0.25, "lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-10, "steps": 3}


def sample(shape, dtype, seed=0):
    """Weight, gradient and both moments; with ties, zeros, close rivals and a row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    weight, grad, exp_avg, exp_avg_sq = (
        torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(4)
    )
    if shape[1] > 2:
        weight[0, 1] = -1 - weight[0].abs().max()
        weight[0, 2] = -weight[0, 1]  # a tie
        weight[-1, 0] = weight[-1, 2] * 1.0005
        weight[-1, 1] = 0
    if shape[0] > 2:
        weight[1] = 0
    return [tensor.to(dtype) for tensor in (weight, grad, exp_avg, exp_avg_sq.square())]


def check(tensors, results, p, **changed):
    """Weight and moments after the step are the formula's, up to rounding."""
    arrays = (tensor.numpy() for tensor in tensors)
    wanted = oracles.adamw_step(*arrays, p=p, **{**SETTINGS, **changed})
    weight, *moments = map(torch.from_numpy, wanted)
    step = torch.finfo(tensors[0].dtype).eps
    largest = torch.cat((tensors[0].double(), weight), 1).abs().amax(1)
    error = (results[0].double() - weight).abs().amax(1)
    # One rounding of a ratio is p of its power.
    assert (error <= step * (32 + (0 if math.isinf(p) else p)) * largest).all()
    for result, moment in zip(results[1:], moments, strict=True):
        torch.testing.assert_close(result.double(), moment, rtol=4 * step, atol=4 * step)
