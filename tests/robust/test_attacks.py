"""PGD stays in the ball, beats what can be beaten, and never a certificate."""

import math
from fractions import Fraction

import pytest
import torch

from linfdist.nn import NetConfig, build_net, reestimate_mean_shift
from linfdist.robust import interval_certified, pgd

NET = NetConfig(kind="net", hidden=(16, 16))
MLP = NetConfig(kind="net_mlp", hidden=(16, 16), mlp_hidden=8)
BOTH = pytest.mark.parametrize("config", [NET, MLP], ids=lambda config: config.kind)


def small(config):
    torch.manual_seed(1)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.3)
    reestimate_mean_shift(net, [torch.rand(256, 1, 4, 4)])
    return net


def data(net, n=128):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = net.eval()(x).argmax(1)
    labels[::8] = (labels[::8] + 1) % 3
    return x, labels


@BOTH
@pytest.mark.parametrize("eps", [Fraction(1, 100), Fraction(1, 20)])
def test_certified_at_most_pgd_at_most_clean(config, eps):
    net = small(config)
    x, labels = data(net)
    survived = pgd(net, x, labels, eps, generator=torch.Generator().manual_seed(0)).survived
    certified = interval_certified(net, x, labels, eps)
    clean = net(x).argmax(1) == labels
    assert (certified <= survived).all() and (survived <= clean).all()
    assert certified.any() and (survived < clean).any()


@BOTH
def test_adversarial_images_are_in_the_ball_and_beat_the_network(config):
    net = small(config)
    x, labels = data(net)
    attack = pgd(net, x, labels, 0.05)
    moved = attack.adversarial
    assert ((moved.double() - x.double()).abs() <= 0.05 + 1e-7).all()
    assert (moved >= 0).all() and (moved <= 1).all()
    wrong = net(moved).argmax(1) != labels
    assert torch.equal(wrong, ~attack.survived)


def test_misclassified_images_are_their_own_adversaries():
    net = small(NET)
    x, labels = data(net)
    attack = pgd(net, x, labels, 0.01)
    assert not attack.survived[::8].any() and torch.equal(attack.adversarial[::8], x[::8])


def test_eps_zero_leaves_the_clean_verdict():
    net = small(NET)
    x, labels = data(net)
    attack = pgd(net, x, labels, 0)
    assert torch.equal(attack.adversarial, x)
    assert torch.equal(attack.survived, net(x).argmax(1) == labels)


def test_more_steps_beat_more_images():
    net = small(MLP)
    x, labels = data(net)
    left = []
    for num_steps in (0, 5, 40):
        generator = torch.Generator().manual_seed(3)
        attack = pgd(net, x, labels, 0.05, num_steps=num_steps, generator=generator)
        left.append(attack.survived.sum().item())
    assert left[0] > left[1] >= left[2]


def test_the_start_is_the_generator_s_and_uniform_in_the_ball():
    net = small(NET)
    x = torch.full((400, 1, 4, 4), 0.5)
    labels = net.eval()(x).argmax(1)
    starts = [
        pgd(net, x, labels, 0.001, num_steps=0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(starts[0].adversarial, starts[1].adversarial)
    assert not torch.equal(starts[0].adversarial, starts[2].adversarial)
    spread = (starts[0].adversarial - x) / 0.001
    assert abs(spread.mean()) < 0.03 and abs(spread.std() - 1 / math.sqrt(3)) < 0.02


def test_step_size_is_a_quarter_of_eps_by_default():
    net = small(MLP)
    x, labels = data(net, 16)
    attacks = [
        pgd(net, x, labels, 0.04, step_size=size, generator=torch.Generator().manual_seed(0))
        for size in (None, 0.01, 0.002)
    ]
    assert torch.equal(attacks[0].adversarial, attacks[1].adversarial)
    assert not torch.equal(attacks[0].adversarial, attacks[2].adversarial)


def test_gradients_of_another_p():
    net = small(NET)
    x, labels = data(net)
    dense = pgd(net, x, labels, 0.05, p=8.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(dense.adversarial, 8.0).argmax(1) == labels, dense.survived)


def test_the_network_is_left_as_it_was():
    net = small(MLP).train()
    x, labels = data(net)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pgd(net, x, labels, 0.05)
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_empty_batch():
    attack = pgd(small(NET), torch.empty(0, 1, 4, 4), torch.empty(0, dtype=torch.int64), 0.1)
    assert attack.adversarial.shape == (0, 1, 4, 4) and attack.survived.shape == (0,)


def test_bad_input_is_refused_by_name():
    net = small(NET)
    x, labels = data(net, 8)
    with pytest.raises(ValueError, match="pgd: images must be finite"):
        pgd(net, x * math.nan, labels, 0.1)
    with pytest.raises(ValueError, match="pgd: eps must be at least 0"):
        pgd(net, x, labels, -0.1)
    net.last.bias.data[0] = math.inf
    with pytest.raises(ValueError, match=r"pgd: weights must be finite; last\.bias"):
        pgd(net, x, labels, 0.1)
