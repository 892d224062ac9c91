"""What all implementations of an op must agree on where entries or results are not finite."""

import math

import numpy as np
import torch

KINDS = {
    "infinity": (math.inf, -math.inf),
    "nan": (math.nan,),
    "overflow": (1.0, -1.0, 0.95),  # times the largest number: a difference can overflow, or not
    "mixed": (math.inf, -math.inf, math.nan, 1.0, -1.0),
    "denormal": (2.0**-140, -(2.0**-140)),
}
SHAPES = [(9, 20, 13), (5, 260, 40)]  # 40: more than a vector of features, and of neurons


def sample(kind, shape, dtype):
    """x, weights and gradients; one entry of twenty is special, in different features."""
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    batch, out_features, in_features = shape
    special = np.array(KINDS[kind])
    if kind in ("overflow", "mixed"):
        special = special * 0.9 * torch.finfo(dtype).max
    arrays = []
    for size in ((batch, in_features), (out_features, in_features)):
        values = rng.standard_normal(size)
        chosen = rng.random(size) < 0.05
        values[chosen] = rng.choice(special, chosen.sum())
        arrays.append(torch.from_numpy(values).to(dtype))
    return *arrays, torch.from_numpy(rng.standard_normal((batch, out_features))).to(dtype)


def same(found, expected, tolerance):
    """NaN where NaN is expected, the same infinities, and other numbers within the tolerance."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def as_finite(found, expected, tolerance):
    """Finite where finite is expected, and those numbers within the tolerance."""
    finite = expected.isfinite()
    assert torch.equal(found.isfinite(), finite)
    torch.testing.assert_close(found[finite], expected[finite], rtol=tolerance, atol=tolerance)
