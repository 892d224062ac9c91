"""Samples and neurons that the tests of the ops share."""

import math

import torch

P_VALUES = [1.0, 2.0, 4.0, 8.0, 1.5, 3.0, 8.7, 100.0, 1000.0, math.inf]
# batch, out, in: one of each, odd sizes around the vectors' and tiles' sizes, several depth blocks
SHAPES = [(1, 1, 1), (5, 7, 3), (13, 70, 129), (6, 10, 257), (64, 64, 300), (3, 17, 700)]


def sample(shape, dtype, seed=0):
    batch, out_features, in_features = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, in_features, dtype=torch.float64, generator=generator).to(dtype)
    w = torch.randn(out_features, in_features, dtype=torch.float64, generator=generator).to(dtype)
    grad = torch.randn(batch, out_features, dtype=torch.float64, generator=generator).to(dtype)
    return x, w, grad
