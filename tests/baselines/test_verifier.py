"""PVT's verifier: whatever it proposes is sound, and training it tightens the bound."""

import pytest
import torch
from helpers.small_baselines import ascent, ball, batch, margins_at, points_in, small
from torch import nn

from linfdist.baselines import PvtNet, crown_ibp_margins
from linfdist.baselines.pvt import Verifier

SLACK = 1e-9


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("eps", [0.01, 0.2])
def test_the_bound_holds_whatever_is_proposed(spread, eps):
    net, (x, labels) = small("pvt"), batch()
    assert isinstance(net, PvtNet)
    for weight in net.verifier.parameters():
        nn.init.normal_(weight, 0, spread)
    lower, upper = ball(x, eps)
    with torch.no_grad():
        trace = net.trace(lower, upper)
        proven = net.proven_margins(trace, labels)
        bounds = net.worst_case_margins_on_box(lower, upper, labels)
        assert (bounds <= proven).all() and (bounds <= net.margins(trace, labels)).all()
        for inside in points_in(lower, upper):
            assert (margins_at(net, inside, labels) <= bounds + SLACK).all()
    worst = ascent(net, lambda net, x: margins_at(net, x, labels).amax(1), lower, upper)
    assert (margins_at(net, worst, labels) <= bounds + SLACK).all()
    assert torch.equal(proven.gather(1, labels[:, None]), torch.zeros(len(x), 1).double())


def test_a_steep_verifier_proposes_crown_s_lines():
    net, (x, labels) = small("pvt"), batch()
    for weight in net.verifier.scale:
        nn.init.constant_(weight, 1e9)
    trace = net.trace(*ball(x, 0.1))
    crown = crown_ibp_margins(trace, net.last, labels, 1.0)
    assert torch.allclose(net.proven_margins(trace, labels), crown, atol=1e-9)


def test_slopes_are_feasible_and_a_stable_neuron_s_own():
    lower = torch.tensor([-1.0, -3.0, 0.0, 2.0, -4.0, -1.0, 0.0])
    upper = torch.tensor([1.0, 1.0, 0.0, 3.0, -2.0, 0.0, 5.0])
    scale, shift = torch.full((7,), 4.0), torch.full((7,), 0.5)
    slopes = Verifier.slopes(scale, shift, lower, upper)
    first, second = torch.sigmoid(torch.tensor([0.5, -1.5])).tolist()
    assert slopes.tolist() == pytest.approx([first, second, 1, 1, 0, 0, 1])


def test_a_neuron_of_width_0_has_a_gradient_of_0():
    bounds = torch.tensor([3.0, -5.0, 0.0, 1e30], requires_grad=True)
    scale, shift = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    Verifier.slopes(scale, shift, bounds, bounds + 0.0).sum().backward()
    for found in (bounds.grad, scale.grad, shift.grad):
        assert torch.equal(found, torch.zeros(4))


def test_there_is_a_weight_for_every_neuron():
    net = small("pvt")
    outputs, x = [], batch()[0]
    for layer in net.features:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            outputs.append(x.shape[1:])
    assert [weight.shape for weight in net.verifier.scale] == outputs
    assert [weight.shape for weight in net.verifier.shift] == outputs


def test_training_the_verifier_alone_tightens_the_bound():
    net, (x, labels) = small("pvt"), batch()
    box = ball(x, 0.1)
    optimizer = torch.optim.Adam(net.verifier.parameters(), lr=0.1)
    bounds = []
    for _ in range(40):
        bound = net.proven_margins(net.trace(*box), labels).sum()
        bounds.append(bound.item())
        optimizer.zero_grad()
        bound.backward()
        optimizer.step()
    crown = crown_ibp_margins(net.trace(*box), net.last, labels, 1.0).sum()
    assert bounds[-1] < bounds[0] - 0.01 and bounds[-1] < crown
