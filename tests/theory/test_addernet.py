"""Appendix C: the AdderNet's constants are bounds, and the attacks stay within theirs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linfdist.data import load, to_pixels
from linfdist.nn import NetConfig, build_net
from linfdist.robust import margin_radius
from linfdist.theory import addernet
from linfdist.theory.addernet import (
    AdderLinear,
    adder_net,
    attack,
    certified_radius,
    conventional_net,
    lipschitz_bound,
    survives_one_pixel,
    train,
)
from linfdist.theory.stretch import lipschitz_constant, local_lipschitz

NORMS = pytest.mark.parametrize("norm", [1, math.inf], ids=["l1", "linf"])
WIDTHS = (64, 32, 10)


def seeded(make, widths=WIDTHS, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(widths)


def random_net(seed, widths):
    """An adder net in float64 with batch normalisations that do something."""
    net = seeded(adder_net, widths, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.BatchNorm1d):
                module.weight.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.1)
                module.running_mean.copy_(
                    -3 * torch.rand(module.num_features, generator=generator) * len(widths)
                )
    return net.eval()


@pytest.fixture(scope="module")
def digits():
    data = [load("digits", split) for split in ("train", "test")]
    return [(to_pixels(part.images), part.labels) for part in data]


@pytest.fixture(scope="module")
def trained(digits):
    net = seeded(adder_net)
    losses = train(net, *digits[0], epochs=8)
    return net, losses


# --- training -----------------------------------------------------------------------------------


def test_it_learns_the_digits_without_the_original_s_gradients(trained, digits):
    net, losses = trained
    images, labels = digits[1]
    assert losses[-1] < losses[0] / 4 and not net.training
    assert (net(images).argmax(1) == labels).float().mean() > 0.8


def test_a_seed_determines_the_training(digits):
    images, labels = digits[0][0][:256], digits[0][1][:256]
    runs = [train(seeded(adder_net), images, labels, epochs=2, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_the_conventional_net_differs_in_its_layers_alone():
    ours, theirs = seeded(adder_net), seeded(conventional_net)
    names = [[type(module).__name__ for module in net] for net in (ours, theirs)]
    assert [name.replace("AdderLinear", "Linear") for name in names[0]] == names[1]
    assert names[0][-1] == "BatchNorm1d" and names[0].count("ReLU") == 1


def test_a_neuron_is_minus_the_l1_distance():
    layer = AdderLinear(5, 3)
    x = torch.randn(4, 5)
    expected = -(x[:, None] - layer.weight[None]).abs().sum(-1)
    torch.testing.assert_close(layer(x), expected)
    assert repr(layer) == "AdderLinear(in_features=5, out_features=3)"


# --- the constants ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    widths=st.lists(st.integers(1, 8), min_size=2, max_size=4),
)
def test_the_bound_is_never_exceeded(seed, widths):
    net = random_net(seed, widths)
    x, y = torch.randn(2, 16, widths[0], dtype=torch.float64)
    for norm in (1, math.inf):
        bound = lipschitz_bound(net, norm)
        moved = (net(x) - net(y)).norm(norm, dim=1).detach()
        assert (moved <= bound * (x - y).norm(norm, dim=1) * (1 + 1e-9)).all()
        assert local_lipschitz(net, x, norm).max() <= bound * (1 + 1e-9)


@NORMS
def test_the_bound_is_exact_for_one_layer(norm):
    net = random_net(3, (7, 4))
    found = local_lipschitz(net, torch.randn(5, 7, dtype=torch.float64), norm)
    expected = torch.full((5,), lipschitz_bound(net, norm), dtype=torch.float64)
    torch.testing.assert_close(found, expected)


@NORMS
def test_without_batch_normalisation_it_is_the_constant_of_remark_3_5(norm):
    """ReLU changes neither the worst case nor the bound."""
    widths = (6, 5, 4, 3)
    net = seeded(adder_net, widths).double().eval()
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 0.0  # γ = 1, σ = 1: the identity
    assert lipschitz_bound(net, norm) == pytest.approx(lipschitz_constant(widths, 1.0, norm))


def test_a_scale_left_out_is_found(monkeypatch):
    net = random_net(3, (7, 4))
    with torch.no_grad():
        net[2].weight.mul_(5)
    right = {norm: lipschitz_bound(net, norm) for norm in (1, math.inf)}
    monkeypatch.setattr(
        addernet, "_gains", lambda net, norm, caller: (7, 1.0, torch.ones(4, dtype=torch.float64))
    )
    found = local_lipschitz(net, torch.randn(5, 7, dtype=torch.float64)).max()
    assert lipschitz_bound(net, math.inf) < found <= right[math.inf] * (1 + 1e-12)


@NORMS
def test_the_certified_radius_is_one(trained, digits, norm):
    """It is 0 where the class is wrong already, and no attack succeeds within it."""
    net, (images, labels) = trained[0], digits[1]
    radius = certified_radius(net, images, labels, norm)
    right = net(images).argmax(1) == labels
    assert (radius[~right] == 0).all() and (radius[right] > 0).all()
    for eps in (float(radius.median()), 20 * float(radius.median())):
        survived = attack(net, images, labels, eps, norm=norm).survived
        assert survived[radius > eps].all()


# --- the attacks --------------------------------------------------------------------------------


@NORMS
def test_the_attack_stays_in_the_ball_and_finds_what_it_says(trained, digits, norm):
    net, (images, labels) = trained[0], digits[1]
    last = 1.0
    for eps in (0.0, 0.25, 1.0) if norm == 1 else (0.0, 0.05, 0.2):
        found = attack(net, images, labels, eps, norm=norm)
        apart = (found.adversarial - images).flatten(1).norm(norm, dim=1)
        assert apart.max() <= eps * (1 + 1e-5)
        assert found.adversarial.min() >= 0 and found.adversarial.max() <= 1
        assert ((net(found.adversarial).argmax(1) == labels) == found.survived).all()
        share = float(found.survived.float().mean())
        assert share < last
        last = share
    assert last < 0.75


def test_the_l1_attack_is_exact_on_a_linear_function():
    """The steepest pixel goes up until it is at 1, then the next."""
    slopes = torch.tensor([3.0, 1.0, 2.0])

    def function(x):
        score = x.flatten(1) @ slopes
        return torch.stack([score - 5.2, 5.2 - score], 1)

    images, labels = torch.full((1, 3), 0.5), torch.tensor([1])
    assert attack(function, images, labels, 0.8, norm=1).survived.all()  # 3 + 1.5 + 0.6
    found = attack(function, images, labels, 0.9, norm=1)
    assert not found.survived.any()
    moved = (found.adversarial - images)[0]
    assert moved[0] == 0.5 and moved[1] == 0 and 0 < moved[2] < 0.4


def test_one_pixel_is_tried_everywhere():
    images, labels = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])

    def function(x):  # class 1 if the last pixel is white
        white = (x.flatten(1)[:, 3] > 0.9).float()
        return torch.stack([0.5 - white, white - 0.5], 1)

    assert survives_one_pixel(function, images, labels).tolist() == [False, False]
    assert survives_one_pixel(lambda x: function(0.8 * x), images, labels * 0).all()


def test_an_attack_beats_no_certificate_of_an_linf_net():
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=(12,), identity_value=None)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=[0.5], std=0.5).eval()
    images = torch.rand(64, 1, 4, 4)
    labels = net(images).argmax(1)
    radius = margin_radius(net, images, labels)
    for norm in (1, math.inf):  # within eps in l_1 is within eps in l_inf
        survived = attack(net, images, labels, 0.05, norm=norm).survived
        assert survived[radius > 0.0501].all() and not survived.all()


# --- errors -------------------------------------------------------------------------------------


def test_what_is_refused(trained, digits):
    net, (images, labels) = trained[0], digits[1]
    with pytest.raises(ValueError, match=r"adder_net: widths must be at least 2.*got \(4,\)"):
        adder_net((4,))
    for call in (lipschitz_bound, lambda net, q: certified_radius(net, images, labels, q)):
        with pytest.raises(ValueError, match="norm must be 1 or inf; got 2"):
            call(net, 2)
        with pytest.raises(ValueError, match=r"net must be an adder_net.*got 0 of the first and 2"):
            call(seeded(conventional_net), 1)
    with pytest.raises(ValueError, match="attack: norm must be 1 or inf; got 2"):
        attack(net, images, labels, 1.0, norm=2)
    with pytest.raises(ValueError, match=r"attack: eps must be at least 0.*got -1.0"):
        attack(net, images, labels, -1.0, norm=1)
