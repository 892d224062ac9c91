"""Guided PGD, Square attack, the ensemble: in the ball, really wrong, and never a certificate."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist.nn import LogSumExp, NetConfig, build_net, reestimate_mean_shift
from linfdist.robust import guided_pgd, interval_certified, pgd, square_attack, strongest
from linfdist.robust.attacks.ensemble import CONVENTIONAL, GUIDED, AttackSetting
from linfdist.robust.attacks.guided import _checkpoints, _Climb, _halve
from linfdist.robust.attacks.margins import margins, verdict
from linfdist.robust.attacks.square import _side, _square
from linfdist.robust.boxes import attack_box

NET = NetConfig(kind="net", hidden=(16, 16))
MLP = NetConfig(kind="net_mlp", hidden=(16, 16), mlp_hidden=8)
BOTH = pytest.mark.parametrize("config", [NET, MLP], ids=lambda config: config.kind)
QUICK = {
    "pgd_5": AttackSetting("pgd", {"num_steps": 5}),
    "guided_100": AttackSetting("guided_pgd", {"guide": 100.0, "num_steps": 6}),
    "guided_lse": AttackSetting("guided_pgd", {"guide": LogSumExp(30.0), "num_steps": 6}),
    "square": AttackSetting("square_attack", {"num_queries": 20}),
}
ATTACKS = {
    "guided": lambda *args, **more: guided_pgd(*args, num_steps=6, num_restarts=2, **more),
    "cross entropy": lambda *args, **more: guided_pgd(
        *args, loss="cross_entropy", num_steps=6, **more
    ),
    "inf": lambda *args, **more: guided_pgd(*args, guide=math.inf, num_steps=9, **more),
    "lse": lambda *args, **more: guided_pgd(*args, guide=LogSumExp(30.0), num_steps=5, **more),
    "square": lambda *args, **more: square_attack(*args, num_queries=30, **more),
    "strongest": lambda *args, **more: strongest(*args, attacks=QUICK, **more),
}
ALL = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def small(config, seed=1):
    torch.manual_seed(seed)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.3)
    reestimate_mean_shift(net, [torch.rand(256, 1, 4, 4)])
    return net


def data(net, n=32, seed=2):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        labels = net.eval()(x).argmax(1)
    labels[::8] = (labels[::8] + 1) % 3
    return x, labels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@ALL
@BOTH
def test_adversarial_images_are_in_the_ball_and_beat_the_network(config, attack):
    net = small(config)
    x, labels = data(net)
    found = attack(net, x, labels, Fraction(1, 20), generator=generator())
    lower, upper = attack_box(x, 0.05)
    moved = found.adversarial
    assert ((lower <= moved) & (moved <= upper)).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    assert torch.equal(net(moved).argmax(1) != labels, ~found.survived)
    clean = net(x).argmax(1) == labels
    assert (found.survived < clean).any() and found.survived.any()
    assert torch.equal(moved[::8], x[::8])  # misclassified images are their own adversaries
    again = attack(net, x, labels, Fraction(1, 20), generator=generator())
    assert torch.equal(again.adversarial, moved)
    other = attack(net, x, labels, Fraction(1, 20), generator=generator(1))
    assert not torch.equal(other.adversarial, moved)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    eps=st.fractions(Fraction(1, 1000), Fraction(1, 5), max_denominator=1000),
    mlp=st.booleans(),
    hidden=st.lists(st.integers(2, 12), min_size=1, max_size=3),
)
def test_no_attack_beats_a_certified_image(seed, eps, mlp, hidden):
    net = small(replace(MLP if mlp else NET, hidden=tuple(hidden)), seed)
    x, labels = data(net, 16, seed)
    survived = strongest(net, x, labels, eps, attacks=QUICK, generator=generator(seed)).survived
    certified = interval_certified(net, x, labels, eps)
    assert (certified <= survived).all()


def test_the_strongest_is_at_least_as_strong_as_each():
    net = small(MLP)
    x, labels = data(net, 128)
    all_of_them = strongest(net, x, labels, 0.05, attacks=QUICK, generator=generator())
    kept = {}
    for name, attack in QUICK.items():
        kept[name] = attack(net, x, labels, 0.05, generator()).survived.sum()
    assert all_of_them.survived.sum() <= min(kept.values())
    assert kept["guided_100"] < kept["pgd_5"]
    for survived, by in zip(all_of_them.survived, all_of_them.beaten_by, strict=True):
        assert survived == (by is None)
    assert {by for by in all_of_them.beaten_by} >= {None, "clean", "pgd_5", "guided_100"}


def masked():
    """A net at whose image all 64 pixels must move, and whose gradient has two of them at p = ∞.

    Hidden neuron i is 10 + pixel i. The image is 0.5 everywhere and eps 0.1: logit 0 is less the
    distance to a point 0.12 to the side of one pixel, logit 1 to a point 0.3 above in all.
    """
    config = NetConfig(kind="net", hidden=(64,))
    net = build_net(config, input_shape=(1, 8, 8), num_classes=2, mean=(0.0,), std=1.0).eval()
    with torch.no_grad():
        net.features.layers[1].weight.copy_(-10 * torch.eye(64))
        net.last.weight[0] = 10.5
        net.last.weight[0, 0] -= 0.12
        net.last.weight[1] = 10.8
    return net, torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)


def test_a_gradient_of_one_path_is_a_mask():
    net, x, labels = masked()
    pixels = {}
    for p in (math.inf, 8.0):
        at = (x[:1] + 0.01 * torch.rand(x[:1].shape)).requires_grad_(True)
        logits = net(at, p)[0]
        (logits[1] - logits[0]).backward()
        pixels[p] = int((at.grad != 0).sum())
    assert pixels == {math.inf: 2, 8.0: 64}
    assert not interval_certified(net, x, labels, 0.1).any()
    for num_steps in (20, 100):
        assert pgd(net, x, labels, 0.1, num_steps=num_steps, generator=generator()).survived.all()
    for guide in (8.0, 30.0, LogSumExp(30.0)):
        found = guided_pgd(net, x, labels, 0.1, guide=guide, generator=generator())
        assert not found.survived.any(), guide
    by = strongest(net, x, labels, 0.1, attacks=GUIDED, generator=generator()).beaten_by
    assert {*by} == {"guided_lse"}


class Steps(torch.nn.Module):
    """Right until near the brightest or darkest corner of the ball; its gradient is 0."""

    input_shape, num_classes = (2, 4, 4), 2

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x, p=math.inf):
        steps = ((0.5 + self.sign * (x.flatten(1).mean(1) - 0.5)) * 256).floor() / 256
        return torch.stack((0.55 - steps, torch.zeros_like(steps)), 1) + 0 * x.sum()


@pytest.mark.parametrize("sign", [-1, 1])
def test_square_attack_needs_no_gradient(sign):
    net = Steps(sign)
    x, labels = torch.full((6, 2, 4, 4), 0.5), torch.zeros(6, dtype=torch.int64)
    assert pgd(net, x, labels, 0.1, num_steps=40, generator=generator()).survived.all()
    assert guided_pgd(net, x, labels, 0.1, guide=math.inf, generator=generator()).survived.all()
    assert not square_attack(net, x, labels, 0.1, generator=generator()).survived.any()


def test_the_square_lies_in_the_image_and_shrinks():
    corners = torch.tensor([[[0.0], [0.0]], [[0.999999], [0.5]], [[1.0], [1.0]]])
    inside = _square(corners, 3, 8, 6)
    assert inside.shape == (3, 1, 8, 6) and inside.flatten(1).sum(1).tolist() == [9, 9, 9]
    assert inside[0, 0, :3, :3].all() and inside[2, 0, 5:, 3:].all()
    sides = [_side(progress, 0.8, 28, 28) for progress in (0.0, 0.002, 0.01, 0.03, 0.3, 0.9)]
    assert sides == sorted(sides, reverse=True) and sides[0] == 25 and sides[-1] == 1


def test_every_iterate_is_judged_at_infinity(monkeypatch):
    net, x, labels = masked()
    seen, forward = [], type(net).forward

    def watched(self, x, p=math.inf):
        seen.append(p)
        return forward(self, x, p)

    monkeypatch.setattr(type(net), "forward", watched)
    found = guided_pgd(net, x, labels, 0.001, guide=8.0, num_steps=5, generator=generator())
    assert found.survived.all()
    assert seen == [math.inf, math.inf, *[8.0, math.inf] * 5, math.inf]


def test_a_step_is_halved_from_the_best_iterate_where_it_does_not_pay():
    state = _Climb(x=torch.tensor([[1.0], [2.0], [3.0]]), margin=torch.tensor([-3.0, -3.0, -3.0]))
    state.step += 1.0
    state.best, state.best_margin = state.best + 10, torch.tensor([-1.0, -1.0, -3.0])
    state.rises = torch.tensor([8.0, 7.0, 9.0])  # of 10: pays; too seldom; never above the best
    _halve(state, 10)
    assert state.step.tolist() == [1.0, 0.5, 0.5]
    assert state.x.flatten().tolist() == [1.0, 12.0, 13.0]
    assert state.before[1:].equal(state.best[1:]) and state.margin[1:].tolist() == [-1.0, -3.0]
    assert state.rises.tolist() == [0, 0, 0] and state.halved.tolist() == [False, True, True]


def test_steps_are_looked_at_ever_more_often():
    checks = sorted(_checkpoints(100))
    assert checks == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("guide", [math.inf, 100.0], ids=str)
def test_more_steps_and_restarts_beat_more_images(guide):
    net = small(MLP)
    x, labels = data(net, 128)
    left = [
        guided_pgd(
            *(net, x, labels, 0.04),
            guide=guide,
            num_steps=num_steps,
            num_restarts=restarts,
            generator=generator(3),
        ).survived.sum()
        for num_steps, restarts in ((0, 1), (0, 4), (1, 1), (10, 1), (10, 3))
    ]
    assert left[0] > left[1] > left[3] and left[0] > left[2] >= left[3] >= left[4]


@ALL
def test_the_network_is_left_as_it_was(attack):
    net = small(MLP)
    x, labels = data(net)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attack(net, x, labels, 0.05)
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@ALL
def test_eps_zero_and_no_images(attack):
    net = small(NET)
    x, labels = data(net)
    found = attack(net, x, labels, 0)
    assert torch.equal(found.adversarial, x)
    assert torch.equal(found.survived, net(x).argmax(1) == labels)
    empty = attack(net, x[:0], labels[:0], 0.1)
    assert empty.adversarial.shape == (0, 1, 4, 4) and empty.survived.shape == (0,)


def test_a_tie_is_the_label_s_where_argmax_says_so():
    net = small(NET)
    x, _ = data(net, 2)
    with torch.no_grad():
        net.last.weight[1] = net.last.weight[0]
        net.last.bias[:2] = -100.0
    tied = margins(net, x, torch.tensor([0, 1]))
    assert -1e-30 < tied[0] < 0 and tied[1] == 0


def test_an_image_outside_of_the_ball_is_a_bug():
    net = small(NET)
    x, labels = data(net, 2)
    for wrong in (x + 0.1, x * math.nan):
        with pytest.raises(AssertionError, match="outside of the ball"):
            verdict(net, wrong, labels, (x, x))


@ALL
def test_bad_input_is_refused_by_name(attack):
    net = small(NET)
    x, labels = data(net, 8)
    name = r"(guided_pgd|square_attack|strongest): "
    with pytest.raises(ValueError, match=name + "images must be finite"):
        attack(net, x * math.nan, labels, 0.1)
    with pytest.raises(ValueError, match=name + "eps must be at least 0"):
        attack(net, x, labels, -0.1)
    net.last.bias.data[0] = math.inf
    with pytest.raises(ValueError, match=name + r"weights must be finite; last\.bias"):
        attack(net, x, labels, 0.1)


def test_bad_settings_are_refused_by_name():
    net = small(NET)
    x, _ = data(net, 2)
    right = net(x).argmax(1)
    for attack, bad, message in (
        (guided_pgd, {"num_steps": -1}, "guided_pgd: num_steps must be at least 0; got -1"),
        (guided_pgd, {"num_restarts": 0}, "guided_pgd: num_restarts must be at least 1; got 0"),
        (guided_pgd, {"loss": "dlr"}, "loss must be one of margin, cross_entropy; got 'dlr'"),
        (guided_pgd, {"guide": 0.5}, r"p must be in \[1, inf\]"),
        (square_attack, {"num_queries": 0}, "num_queries must be at least 1; got 0"),
        (square_attack, {"p_init": 0.0}, r"p_init must be in \(0, 1\]; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(net, x, right, 0.1, **bad)


def test_conventional_networks_have_no_guide_but_their_own():
    guides = [attack.arguments.get("guide", math.inf) for attack in CONVENTIONAL.values()]
    assert guides == [math.inf] * len(guides)
    assert {*CONVENTIONAL} < {*GUIDED}
