"""Sound certificates: exact rational and float32 outputs stay inside; radii, errors, ties."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import small_baselines
from helpers.sound_cases import EPS, random_images, random_net, up, violations
from helpers.threads import one_thread
from torch import nn

from linfdist.data import to_pixels
from linfdist.robust import (
    interval_certified,
    interval_radius,
    sound,
    sound_certificates,
    sound_certified,
    sound_radius,
)
from linfdist.robust.boxes import pixel_box, sound_pixel_box


@pytest.mark.quick
@pytest.mark.parametrize(("kind", "nets"), [("net", 80), ("net_mlp", 80), ("conv_net_mlp", 40)])
def test_exact_outputs_of_perturbed_images_stay_inside(kind, nets):
    with one_thread():
        for seed in range(nets):
            net, rng = random_net(kind, seed), np.random.default_rng(seed)
            images = random_images(net, 2, seed)
            assert violations(net, images, EPS[seed % len(EPS)], rng) == 0, seed


def trained_like(kind: str):
    """A network and images that it classifies as they are labelled, but for every fourth."""
    net = random_net(kind, 12)
    images = random_images(net, 64, 1)
    labels = net(to_pixels(images)).argmax(1)
    labels[::4] = (labels[::4] + 1) % net.num_classes
    return net, images, labels


BOTH = pytest.mark.parametrize("kind", ["net", "net_mlp", "conv_net_mlp"])


@BOTH
def test_sound_implies_interval_and_bounds_are_wider(kind):
    for seed in range(16):
        net = random_net(kind, seed)
        images, labels = random_images(net, 16, seed), torch.arange(16) % net.num_classes
        pixels = to_pixels(images)
        for eps in (Fraction(0), Fraction(1, 100), Fraction(8, 255)):
            plain = pixel_box(pixels, torch.tensor(float(eps), dtype=torch.float64))
            box = sound_pixel_box(images, up(eps))
            assert (box[0] <= plain[0]).all() and (box[1] >= plain[1]).all()
            margins = net.worst_case_margins_on_box(*plain, labels)
            assert (sound.sound_margins_on_box(net, *box, labels) >= margins).all()
            certified = sound_certified(net, images, labels, eps)
            assert (certified <= interval_certified(net, pixels, labels, eps)).all()


@pytest.mark.quick
@BOTH
def test_radii_are_certified_and_agree_with_the_verdict(kind):
    net, images, labels = trained_like(kind)
    for eps in (Fraction(1, 1000), Fraction(1, 30)):
        radii = interval_radius(net, to_pixels(images), labels, 4 * eps, eps=eps)
        certified, radius = sound_certificates(net, images, labels, eps, radii)
        assert torch.equal(certified, sound_certified(net, images, labels, eps))
        assert [Fraction(r) >= eps for r in radius.tolist()] == certified.tolist()
        assert sound_certified(net, images, labels, radius)[radius > 0].all()
        assert (radius <= radii.maximum(up(eps))).all() and (radius >= radii - 5e-6).all()
        assert (radius > 0).sum() > 16 and (radius[::4] == 0).all()
    lowered = sound_radius(net, images, labels, radii + 1e-5)
    assert (lowered < radii + 1e-5).any() and sound_certified(net, images, labels, lowered)[1]


def test_a_tie_is_no_certificate():
    net = random_net("net", 3)
    net.last.weight[1:] = net.last.weight[0]
    net.last.bias.zero_()
    images = random_images(net, 8, 0)
    labels = torch.zeros(8, dtype=torch.int64)
    assert (net(to_pixels(images)).argmax(1) == 0).all()
    assert not sound_certified(net, images, labels, Fraction(0)).any()


def test_empty_batch():
    net = random_net("net_mlp", 0)
    images, labels = torch.empty(0, *net.input_shape, dtype=torch.uint8), torch.empty(0).long()
    assert sound_certified(net, images, labels, Fraction(1, 10)).shape == (0,)
    assert sound_radius(net, images, labels, torch.empty(0)).shape == (0,)


def test_bad_input_is_refused_by_name():
    net, images, labels = trained_like("net_mlp")
    with pytest.raises(TypeError, match=r"images must be uint8.*got torch.float32\. Pass the"):
        sound_certified(net, to_pixels(images), labels, Fraction(1, 10))
    with pytest.raises(ValueError, match=r"labels must have shape \(64,\)"):
        sound_certified(net, images, labels[:3], Fraction(1, 10))
    with pytest.raises(ValueError, match=r"eps must be at least 0, in pixels; got -0\.1"):
        sound_certified(net, images, labels, -0.1)
    with pytest.raises(ValueError, match=r"radii must have shape \(64,\).*got \(\)"):
        sound_radius(net, images, labels, 0.1)
    if torch.set_flush_denormal(True):
        try:
            with pytest.raises(ValueError, match="denormals must be kept"):
                sound_certified(net, images, labels, Fraction(1, 10))
        finally:
            torch.set_flush_denormal(False)
    with pytest.raises(TypeError, match=r"LinfDistNetMLP in float32; got LinfDistNetMLP, torch.fl"):
        sound_certified(net.double(), images, labels, Fraction(1, 10))
    with pytest.raises(TypeError, match=r"got CapNet, torch.float64\. .*use interval_certified"):
        sound_certified(small_baselines.small("cap"), images, labels, Fraction(1, 10))
    net, images, labels = trained_like("net")
    net.last.bias[0] = math.nan
    with pytest.raises(ValueError, match=r"weights must be finite; last\.bias holds NaN"):
        sound_certified(net, images, labels, Fraction(1, 10))
    net.last.bias[0] = 0
    net.features.layers.append(nn.ReLU())
    with pytest.raises(TypeError, match="sound certificates have no rule for ReLU"):
        sound_certified(net, images, labels, Fraction(1, 10))
