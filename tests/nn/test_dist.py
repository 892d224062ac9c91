"""The dist layers: initialisation, values, Lipschitz constant, intervals, errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from linfdist.nn import BoundedLinear, LpDist, LpDistConv2d, MeanShift

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("p", [1.0, 2.0, 7.3, math.inf])
def test_values_are_the_norms(p):
    layer = LpDist(5, 4, bias=True, dtype=torch.float64)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = torch.linalg.vector_norm(x.unsqueeze(-2) - layer.weight, p, dim=-1) + layer.bias
    torch.testing.assert_close(layer(x, p), expected)


def test_p_defaults_to_infinity():
    layer = LpDist(5, 4)
    x = torch.randn(3, 5)
    assert torch.equal(layer(x), layer(x, math.inf))


@pytest.mark.parametrize(("in_features", "out_features"), [(6, 6), (4, 10)])
def test_identity_map_wraps_around_the_inputs(in_features, out_features):
    layer = LpDist(in_features, out_features)
    expected = torch.zeros(out_features, in_features, dtype=torch.bool)
    for row in range(out_features):
        expected[row, row % in_features] = True
    assert torch.equal(layer.weight == -10, expected)


@pytest.mark.parametrize(
    "layer",
    [
        LpDist(10, 4),
        LpDist(4, 10, identity_value=None),
        LpDistConv2d(8, 4, 3, groups=2),  # four inputs and two outputs a group
    ],
)
def test_no_identity_map_where_it_cannot_copy_or_is_not_wanted(layer):
    assert not (layer.weight == -10).any()
    assert 0.5 < layer.weight.std() < 1.5


def test_identity_map_copies_the_input_up_to_a_constant():
    layer = LpDist(6, 6)
    x = torch.rand(50, 6)
    torch.testing.assert_close(layer(x), x + 10)


@pytest.mark.parametrize("out", [2, 3, 4])
def test_identity_map_sits_on_the_centre_tap_in_each_group(out):
    layer = LpDistConv2d(4, 2 * out, 3, groups=2)
    expected = torch.zeros(2 * out, 2, 3, 3, dtype=torch.bool)
    for row in range(2 * out):
        expected[row, row % out % 2, 1, 1] = True
    assert torch.equal(layer.weight == -10, expected)
    # Output i of a group copies channel i mod 2 of that group's input.
    x = torch.rand(2, 4, 5, 5)
    copied = torch.stack([x[:, 2 * (row // out) + row % out % 2] for row in range(2 * out)], 1)
    torch.testing.assert_close(layer(x), copied[:, :, 1:-1, 1:-1] + 10)


def brute_force_convolution(layer: LpDistConv2d, x, p):
    """One output at a time, by the definition of a padded, strided, dilated, grouped window."""
    (pad_h, pad_w), (step_h, step_w) = layer.padding, layer.stride
    x = nn.functional.pad(x, (pad_w, pad_w, pad_h, pad_h))
    height, width = layer.output_size(x.shape[2] - 2 * pad_h, x.shape[3] - 2 * pad_w)
    out = torch.empty(len(x), layer.out_channels, height, width, dtype=x.dtype)
    fan_in = layer.in_channels // layer.groups
    for o, i, j in itertools.product(range(layer.out_channels), range(height), range(width)):
        first = o // (layer.out_channels // layer.groups) * fan_in
        rows = [i * step_h + k * layer.dilation[0] for k in range(layer.kernel_size[0])]
        columns = [j * step_w + k * layer.dilation[1] for k in range(layer.kernel_size[1])]
        window = x[:, first : first + fan_in][:, :, rows][:, :, :, columns]
        out[:, o, i, j] = torch.linalg.vector_norm((window - layer.weight[o]).flatten(1), p, dim=1)
    return out


@pytest.mark.parametrize("p", [3.0, math.inf])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)},
        {"kernel_size": 3, "dilation": (2, 1), "padding": 2, "stride": 3},
        {"kernel_size": 3, "groups": 2, "padding": 1, "stride": 2},
    ],
)
def test_convolution_by_its_definition(settings, p):
    layer = LpDistConv2d(4, 6, **settings, dtype=torch.float64)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x, p), brute_force_convolution(layer, x, p))


def test_a_convolution_of_the_whole_image_is_a_fully_connected_layer():
    conv, dense = LpDistConv2d(3, 5, 4), LpDist(48, 5)
    with torch.no_grad():
        dense.weight.copy_(conv.weight.flatten(1))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(conv(x).flatten(1), dense(x.flatten(1)))


LAYERS = [
    (lambda: LpDist(12, 9, bias=True), (12,)),
    (lambda: LpDist(5, 11), (5,)),
    (lambda: LpDistConv2d(2, 4, 3, 2, 1), (2, 5, 5)),
    (lambda: LpDistConv2d(4, 4, 2, dilation=2, groups=2), (4, 5, 5)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_lipschitz_constant_is_one_in_linf(make, shape):
    layer = make()
    x = torch.randn(64, *shape)
    y = x + torch.randn(64, *shape) * torch.rand(64, *[1] * len(shape))
    moved = (layer(x) - layer(y)).abs().flatten(1).amax(1)
    # Two roundings of values below 16, each half a unit in the last place.
    assert (moved <= (x - y).abs().flatten(1).amax(1) + 2e-6).all()


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_interval_contains_every_value_in_the_box(make, shape):
    layer = make()
    lower = torch.randn(8, *shape)
    upper = lower + torch.rand(8, *shape)
    low, high = layer.interval(lower, upper)
    for _ in range(20):
        x = torch.lerp(lower, upper, torch.rand_like(lower)).clamp(lower, upper)
        out = layer(x)
        assert (low <= out).all() and (out <= high).all()
    for corner in (lower, upper):
        assert (low <= layer(corner)).all() and (layer(corner) <= high).all()


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_interval_of_a_point_is_its_value(make, shape):
    layer = make()
    x = torch.randn(3, *shape)
    low, high = layer.interval(x, x)
    assert torch.equal(low, layer(x)) and torch.equal(high, layer(x))


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_empty_batch(make, shape):
    layer = make()
    x = torch.empty(0, *shape)
    assert layer(x).shape[0] == 0 and layer(x).shape[1:] == layer(torch.randn(1, *shape)).shape[1:]


def test_gradients_reach_input_and_weight():
    layer = LpDistConv2d(2, 3, 3, padding=1, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def forward(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x, 3.5))

    assert torch.autograd.gradcheck(forward, (x, layer.weight))


def test_errors_name_the_shape_and_the_fix():
    with pytest.raises(ValueError, match=r"in_features=784 in its last axis; got \(2, 1, 28, 28\)"):
        LpDist(784, 3)(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="at least 1; got 0 and 3"):
        LpDist(0, 3)
    with pytest.raises(ValueError, match="groups must divide in_channels=3"):
        LpDistConv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match=r"in_channels=3, height, width\); got \(2, 1, 8, 8\)"):
        LpDistConv2d(3, 4, 3)(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"p must be in \[1"):
        LpDist(3, 4)(torch.zeros(2, 3), 0.5)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, torch.tensor, int])
def test_sizes_may_be_integers_of_any_kind(kind):
    settings = ("kernel_size", "stride", "padding", "dilation", "groups")
    conv = LpDistConv2d(
        kind(4), kind(6), **dict(zip(settings, map(kind, (3, 2, 1, 1, 2)), strict=True))
    )
    assert repr(conv) == repr(LpDistConv2d(4, 6, 3, 2, 1, 1, 2))
    assert conv(torch.zeros(2, 4, 8, 8)).shape == (2, 6, 4, 4)
    two = (kind(3), kind(1))
    assert LpDistConv2d(1, 2, two).kernel_size == (3, 1)
    assert {type(size) for size in LpDistConv2d(1, 2, two, two, two, two).padding} == {int}
    assert repr(LpDist(kind(3), kind(4))) == repr(LpDist(3, 4))
    assert repr(BoundedLinear(kind(3), kind(4))) == repr(BoundedLinear(3, 4))
    assert MeanShift(kind(3)).num_features == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LpDistConv2d(1, 2, 3, padding="same"),
            TypeError,
            "padding must be one integer or two",
        ),
        (lambda: LpDistConv2d(1, 2, 3, padding="valid"), TypeError, "got 'valid'"),
        (
            lambda: LpDistConv2d(1, 2, "3"),
            TypeError,
            "kernel_size must be one integer or two; got '3'",
        ),
        (lambda: LpDistConv2d(1, 2, 3.0), TypeError, "kernel_size must be a whole number; got 3.0"),
        (
            lambda: LpDistConv2d(1, 2, (3, 2.5)),
            TypeError,
            "kernel_size must be a whole number; got 2.5",
        ),
        (lambda: LpDistConv2d(1, 2, (3, 3, 3)), ValueError, r"one integer or two; got \(3, 3, 3\)"),
        (lambda: LpDistConv2d(1, 2, 0), ValueError, "kernel_size must be at least 1; got 0"),
        (lambda: LpDistConv2d(1, 2, 3, 0), ValueError, "stride must be at least 1; got 0"),
        (lambda: LpDistConv2d(1, 2, 3, 1, -1), ValueError, "padding must be at least 0; got -1"),
        (lambda: LpDistConv2d(1, 2, 3, 1, 0, 0), ValueError, "dilation must be at least 1; got 0"),
        (lambda: LpDistConv2d(1, 2, 3, groups=0), ValueError, "groups must be at least 1; got 0"),
        (lambda: LpDistConv2d(0, 2, 3), ValueError, "in_channels must be at least 1; got 0"),
        (
            lambda: LpDistConv2d(1, None, 3),
            TypeError,
            "out_channels must be a whole",
        ),
        (lambda: LpDist(3.0, 4), TypeError, "LpDist: in_features must be a whole number; got 3.0"),
        (lambda: LpDist(3, "4"), TypeError, "LpDist: out_features must be a whole number; got '4'"),
        (
            lambda: BoundedLinear(3.0, 4),
            TypeError,
            "BoundedLinear: in_features must be a whole",
        ),
        (
            lambda: MeanShift(2.5),
            TypeError,
            "MeanShift: num_features must be a whole",
        ),
    ],
)
def test_a_size_that_is_no_integer_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_layers_describe_themselves():
    assert "in_features=3, out_features=4, bias=True" in repr(LpDist(3, 4, bias=True))
    assert "stride=(2, 2), padding=(1, 1)" in repr(LpDistConv2d(3, 4, 3, 2, 1))
