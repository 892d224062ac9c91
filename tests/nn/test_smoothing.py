"""LogSumExp in place of p: what the layers then compute, and the means that match temperatures."""

import math

import pytest
import torch

from linfdist.nn import (
    LinfDistNet,
    LogSumExp,
    LpDist,
    LpDistConv2d,
    NetConfig,
    build_net,
    frozen,
    mean_distances,
    set_mean_distances,
)
from linfdist.ops import lp_dist, lse_dist

pytestmark = pytest.mark.quick

MATCHED = LogSumExp(7.0, matched=True)


def net(**given) -> LinfDistNet:
    config = NetConfig(kind="net", hidden=(12, 10))
    torch.manual_seed(0)
    return build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=[0.5], std=0.5, **given)


def test_one_temperature_is_lse_dist():
    layer, x = LpDist(6, 5, bias=True), torch.randn(4, 6)
    expected = lse_dist(x, layer.weight, 3.0) + layer.bias
    assert torch.equal(layer(x, LogSumExp(3.0)), expected)


def test_a_matched_temperature_is_t_over_the_layers_mean_distance():
    layer, x = LpDist(6, 5), torch.randn(24, 6)
    mean = lp_dist(x[::8], layer.weight).mean().item()
    torch.testing.assert_close(layer(x, MATCHED), lse_dist(x, layer.weight, 7 / mean))
    layer(3 * x, MATCHED)
    moved = 0.9 * mean + 0.1 * lp_dist(3 * x[::8], layer.weight).mean().item()
    assert layer.distance.mean.item() == pytest.approx(moved)


def test_matched_layers_scale_with_their_input():
    """As l_p layers do, and unlike those of one temperature."""
    x = torch.randn(9, 6)
    small, large = LpDist(6, 5), LpDist(6, 5)
    large.load_state_dict({"weight": 100 * small.weight})
    torch.testing.assert_close(100 * small(x, MATCHED), large(100 * x, MATCHED))


def test_means_move_in_training_mode_alone_and_have_no_gradient():
    layer, x = LpDist(6, 5), torch.randn(9, 6)
    layer.eval()
    own = layer(x, MATCHED)  # no batch has trained: by its own mean
    assert layer.distance.mean is None
    layer.train()
    torch.testing.assert_close(layer(x, MATCHED), own)
    before = layer.distance.mean
    assert not before.requires_grad
    for p in (8.0, math.inf, LogSumExp(2.0)):
        layer(3 * x, p)
    layer.eval()(3 * x, MATCHED)
    layer.train()(x[:0], MATCHED)
    assert layer.distance.mean is before


def test_inputs_equal_to_weights_and_empty_ones_stay_finite():
    layer = LpDist(6, 1)
    x = layer.weight.detach().requires_grad_()
    assert torch.equal(layer(x[:0], MATCHED), torch.zeros(0, 1))
    layer(x, MATCHED).sum().backward()
    assert x.grad.isfinite().all() and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [LogSumExp(4.0), MATCHED])
def test_the_smoothed_net_is_lipschitz_as_at_infinity(smoothing):
    model = net()
    pixels = torch.rand(64, 1, 4, 4)
    model(pixels, smoothing)  # gives the layers their means
    other = pixels + 0.1 * (2 * torch.rand(64, 1, 4, 4) - 1)
    with frozen(model) as still:
        moved = (still(pixels, smoothing) - still(other, smoothing)).abs().amax(1)
    reach = model.lipschitz * (pixels - other).flatten(1).abs().amax(1)
    assert (moved <= reach * (1 + 1e-4)).all()


def test_convolutions_match_each_group():
    layer = LpDistConv2d(4, 6, 3, padding=1, groups=2)
    x = torch.randn(2, 4, 5, 5)
    x[:, 2:] *= 100
    assert layer(x, MATCHED).shape == (2, 6, 5, 5)
    first, second = mean_distances(layer)
    assert 5 * first < second


def test_the_means_stay_out_of_the_state_dict_and_can_be_put_back():
    model, fresh = net(), net()
    keys = list(model.state_dict())
    model(torch.rand(8, 1, 4, 4), MATCHED)
    assert list(model.state_dict()) == keys
    fresh.load_state_dict(model.state_dict())
    assert mean_distances(fresh) == [None] * 3
    set_mean_distances(fresh, mean_distances(model))
    pixels = torch.rand(5, 1, 4, 4)
    assert torch.equal(fresh.eval()(pixels, MATCHED), model.eval()(pixels, MATCHED))


@pytest.mark.parametrize("t", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_out_of_range(t):
    with pytest.raises(ValueError, match=r"LogSumExp: t must be in \(0, inf\).*Pass p=math.inf"):
        LogSumExp(t)
