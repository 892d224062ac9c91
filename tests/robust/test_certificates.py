"""Certificates: what they bound, how the two relate, and what they refuse."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from linfdist.nn import MeanShift, NetConfig, build_net, reestimate_mean_shift
from linfdist.robust import interval_certified, interval_radius, margin_radius
from linfdist.robust.boxes import pixel_box
from linfdist.robust.certificates import ROUNDING

pytestmark = pytest.mark.quick

NET = NetConfig(kind="net", hidden=(16, 16))
MLP = NetConfig(kind="net_mlp", hidden=(16, 16), mlp_hidden=8)
BOTH = pytest.mark.parametrize("config", [NET, MLP], ids=lambda config: config.kind)


def small(config, std=0.3):
    torch.manual_seed(1)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=std)
    reestimate_mean_shift(net, [torch.rand(256, 1, 4, 4)])
    return net


def images_and_labels(net, n=64):
    """Images with the labels that the network gives, but for every fourth one."""
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = net.eval()(x).argmax(1)
    net.train()
    labels[::4] = (labels[::4] + 1) % 3
    return x, labels


def test_margin_radius_is_half_the_margin_in_pixels():
    net = small(NET, std=0.25)
    x, labels = images_and_labels(net)
    logits = net.eval()(x).double()
    radius = margin_radius(net, x, labels)
    assert radius.dtype == torch.float64
    for image, label in enumerate(labels.tolist()):
        rivals = [logits[image, k].item() for k in range(3) if k != label]
        expected = max(0.0, (logits[image, label].item() - max(rivals)) / 2 * 0.25)
        assert radius[image].item() == pytest.approx(expected)
    assert (radius[::4] == 0).all() and (radius > 0).sum() == 48


def test_no_image_within_the_margin_radius_changes_the_prediction():
    net = small(NET).eval()
    x, labels = images_and_labels(net)
    net.eval()
    # Short of the radius by what the logits' rounding may cost.
    radius = (margin_radius(net, x, labels) - 1e-5).clamp_min(0).float()[:, None, None, None]
    held = labels == net(x).argmax(1)
    for _ in range(50):
        sign = torch.randint(0, 2, x.shape) * 2 - 1
        moved = net(x + sign * radius).argmax(1)
        assert torch.equal(moved[held], labels[held])


@pytest.mark.parametrize("eps", [Fraction(0), Fraction(1, 100), Fraction(8, 255)])
def test_the_interval_certifies_whatever_the_margin_does(eps):
    net = small(NET)
    x, labels = images_and_labels(net)
    by_margin = margin_radius(net, x, labels) > float(eps) + 1e-6
    by_interval = interval_certified(net, x, labels, eps)
    assert (by_margin <= by_interval).all()
    assert 0 < by_interval.sum() <= 48


@BOTH
def test_no_image_in_a_certified_box_changes_the_prediction(config):
    net = small(config)
    x, labels = images_and_labels(net)
    certified = interval_certified(net, x, labels, 0.02)
    assert 0 < certified.sum() < 64
    net.eval()
    lower, upper = (x - 0.02).clamp(0, 1), (x + 0.02).clamp(0, 1)
    for _ in range(50):
        corner = torch.where(torch.rand_like(x) < 0.5, lower, upper)
        moved = net(corner).argmax(1)
        assert torch.equal(moved[certified], labels[certified])


@BOTH
def test_a_tie_is_no_certificate(config):
    """Two classes of one logit: argmax may take the first, but nothing is proven of it."""
    net = small(config).eval().requires_grad_(False)
    last = net.last if config is NET else net.fc2
    last.weight[1:] = last.weight[0]
    last.bias.zero_()
    x, labels = torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)
    assert (net(x).argmax(1) == 0).all()
    margins = net.worst_case_margins_on_box(x, x, labels)
    assert (margins == 0).all()
    assert not interval_certified(net, x, labels, 0).any()
    assert (interval_radius(net, x, labels, 0.1) == 0).all()


@BOTH
def test_interval_radius_agrees_with_the_verdict_at_eps(config):
    net = small(config)
    x, labels = images_and_labels(net)
    for eps in (Fraction(1, 100), Fraction(2, 100), Fraction(8, 255)):
        radius = interval_radius(net, x, labels, 4 * eps, eps=eps)
        assert torch.equal(radius >= float(eps), interval_certified(net, x, labels, eps))


@BOTH
def test_interval_radius_is_verified_and_close_to_the_largest(config):
    net = small(config)
    x, labels = images_and_labels(net)
    radius = interval_radius(net, x, labels, 0.5, num_steps=14)
    inside = radius > 0
    assert inside.sum() > 16
    assert interval_certified(net, x, labels, radius)[inside].all()
    beyond = radius + 0.5 / 2**13
    assert not interval_certified(net, x, labels, beyond)[radius < 0.5].any()
    assert (radius[::4] == 0).all()


@pytest.mark.parametrize("num_steps", [0, 4, 12])
@pytest.mark.parametrize("eps", [None, Fraction(8, 255)])
def test_interval_radius_is_at_least_the_margins(num_steps, eps):
    net = small(NET)
    x, labels = images_and_labels(net)
    by_margin = (margin_radius(net, x, labels) - ROUNDING).clamp(0, 0.2)
    holds = interval_certified(net, x, labels, by_margin)
    assert holds.sum() == 48 and (by_margin[holds] < 0.2).any()
    by_interval = interval_radius(net, x, labels, 0.2, num_steps, eps=eps)
    assert (by_interval >= by_margin)[holds].all()
    certified = interval_certified(net, x, labels, by_interval)
    assert torch.equal(certified, holds)


def test_interval_radius_stops_at_the_largest_that_was_asked_for():
    net = small(NET)
    x, labels = images_and_labels(net)
    tiny = interval_radius(net, x, labels, 1e-3)
    assert ((tiny == 1e-3) | (tiny == 0) | (tiny < 1e-3)).all() and (tiny == 1e-3).any()


def test_the_box_is_rounded_outward_and_stays_in_the_pixels():
    x = torch.rand(1000, 1, 1, 1)
    eps = torch.tensor(8 / 255, dtype=torch.float64)
    lower, upper = pixel_box(x, eps)
    assert (lower.double() <= (x.double() - eps).clamp(0, 1)).all()
    assert (upper.double() >= (x.double() + eps).clamp(0, 1)).all()
    assert (lower >= 0).all() and (upper <= 1).all()
    assert (upper - lower <= 2 * 8 / 255 + 1e-6).all()


@BOTH
def test_the_network_is_left_as_it_was(config):
    net = small(config).train()
    x, labels = images_and_labels(net)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    interval_radius(net, x, labels, 0.1)
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@BOTH
def test_running_means_are_used_not_batch_means(config):
    net = small(config).train()
    x, labels = images_and_labels(net)
    net.train()
    whole = interval_certified(net, x, labels, 0.02)
    alone = torch.cat(
        [interval_certified(net, x[i : i + 1], labels[i : i + 1], 0.02) for i in range(8)]
    )
    assert torch.equal(whole[:8], alone)


def test_empty_batch():
    net = small(NET)
    x, labels = torch.empty(0, 1, 4, 4), torch.empty(0, dtype=torch.int64)
    assert margin_radius(net, x, labels).shape == (0,)
    assert interval_certified(net, x, labels, 0.1).shape == (0,)
    assert interval_radius(net, x, labels, 0.1).shape == (0,)


def every_certificate(net, x, labels):
    yield lambda: margin_radius(net, x, labels)
    yield lambda: interval_certified(net, x, labels, 0.1)
    yield lambda: interval_radius(net, x, labels, 0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x.fill_(math.nan), y), ValueError, "images must be finite; got NaN"),
        (lambda x, y: (x + 1, y), ValueError, r"pixels in \[0, 1\]; got values from"),
        (lambda x, y: (x.to(torch.uint8), y), TypeError, "got torch.uint8"),
        (lambda x, y: (x, y[:3]), ValueError, r"labels must have shape \(8,\).*got \(3,\)"),
        (lambda x, y: (x, y + 7), ValueError, r"labels must be in 0\.\.2.*got \d"),
        (lambda x, y: (x, y - 9), ValueError, r"labels must be in 0\.\.2.*got -\d"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, message):
    net = small(NET)
    x, labels = change(torch.rand(8, 1, 4, 4), torch.arange(8) % 3)
    for certificate in every_certificate(net, x, labels):
        with pytest.raises(error, match=message):
            certificate()


@pytest.mark.parametrize("place", ["features.layers.1.weight", "features.layers.2.running_mean"])
def test_damaged_weights_are_refused_by_name(place):
    net = small(NET)
    net.state_dict()[place].view(-1)[0] = math.nan
    x, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    for certificate in every_certificate(net, x, labels):
        with pytest.raises(ValueError, match=f"{place} holds NaN"):
            certificate()


def test_other_errors():
    x, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    with pytest.raises(TypeError, match=r"must be a LinfDistNet.*got LinfDistNetMLP"):
        margin_radius(small(MLP), x, labels)
    with pytest.raises(ValueError, match=r"eps must be at least 0, in pixels; got -0\.1"):
        interval_certified(small(NET), x, labels, -0.1)
    with pytest.raises(ValueError, match="max_radius must be at least 0, in pixels; got nan"):
        interval_radius(small(NET), x, labels, math.nan)
    with pytest.raises(ValueError, match=r"max_radius must be at least eps=0.2; got 0.1"):
        interval_radius(small(NET), x, labels, 0.1, eps=0.2)


def test_mean_shift_is_part_of_the_tested_networks():
    kinds = [type(module) for module in small(NET).modules()]
    assert kinds.count(MeanShift) == 2 and kinds.count(nn.Flatten) == 1
