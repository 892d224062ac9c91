"""GroupSort: the projection is the nearest point, and the network is 1-Lipschitz."""

from fractions import Fraction

import pytest
import torch
from helpers.small_baselines import ball, batch, small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linfdist.baselines import groupsort
from linfdist.baselines.groupsort import project_rows, unit_linear
from linfdist.nn import frozen
from linfdist.robust import interval_certified, interval_radius, margin_radius


def by_bisection(row):
    """[|w| − θ]_+ with the θ that bisection finds for norm 1."""
    if row.abs().sum() <= 1:
        return row
    low, high = 0.0, row.abs().max().item()
    for _ in range(200):
        middle = (low + high) / 2
        inside = (row.abs() - middle).clamp_min(0).sum() <= 1
        low, high = (low, middle) if inside else (middle, high)
    return row.sign() * (row.abs() - high).clamp_min(0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.01, 10))
def test_the_projection_is_bisection_s(seed, width, scale):
    torch.manual_seed(seed)
    weight = scale * torch.randn(5, width, dtype=torch.float64)
    expected = torch.stack([by_bisection(row) for row in weight])
    torch.testing.assert_close(project_rows(weight), expected)


def test_shapes_need_no_values():
    assert project_rows(torch.empty(3, 5, device="meta")).shape == (3, 5)


def test_no_point_of_the_ball_is_nearer():
    torch.manual_seed(0)
    weight = torch.randn(1, 3, dtype=torch.float64) * 2
    projected = project_rows(weight)
    assert projected.abs().sum() == pytest.approx(1)
    others = torch.randn(20000, 3, dtype=torch.float64)
    others = others / others.abs().sum(1, keepdim=True)  # the nearest is on the boundary
    nearest = (others - weight).norm(dim=1).min()
    assert (projected - weight).norm() <= nearest
    assert (projected - weight).norm() > nearest - 0.05


def test_rows_of_the_ball_and_ties_stay():
    inside = torch.tensor([[0.5, -0.5], [0.25, 0.0], [0.0, 0.0]])
    assert torch.equal(project_rows(inside), inside)
    assert project_rows(torch.tensor([[3.0, -3.0]])).tolist() == [[0.5, -0.5]]
    assert project_rows(torch.tensor([[3.0, 1.0]])).tolist() == [[1.0, 0.0]]


def test_the_projection_s_gradient_is_that_of_differences():
    weight = (torch.randn(3, 6, dtype=torch.float64) * 2).requires_grad_(True)
    assert torch.autograd.gradcheck(project_rows, (weight,))


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e5])
def test_rows_are_not_above_norm_1_by_the_rounding_of_theta(scale):
    """θ is rounded in units of the entries: beside them a norm of 1 is small."""
    torch.manual_seed(0)
    weight = scale * torch.randn(40, 30)
    weight[20:] = weight[20:, :1] + scale * 1e-6 * torch.randn(20, 30)  # many entries remain
    rows = [sum(map(Fraction, row)) for row in project_rows(weight).abs().tolist()]
    assert max(rows) <= 1 + Fraction(30, 2**24)
    assert min(rows) > Fraction(1, 4)


def test_a_unit_linear_stays_in_the_ball_under_any_optimiser():
    torch.manual_seed(0)
    layer = unit_linear(8, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    for _ in range(5):
        (-layer(torch.randn(16, 8)).square().sum()).backward()
        optimizer.step()
        assert (layer.weight.abs().sum(1) <= 1 + 1e-6).all()  # θ alone is off by 1e-4 here
    assert isinstance(layer, nn.Linear)
    assert (layer.parametrizations.weight.original.abs().sum(1) > 1).any()


def test_a_frozen_network_projects_once_and_its_weights_are_its_own_again(monkeypatch):
    net = small("groupsort")
    x, _ = batch()
    projected = []
    rows = groupsort.project_rows
    monkeypatch.setattr(groupsort, "project_rows", lambda w: projected.append(len(w)) or rows(w))
    with frozen(net) as still, torch.no_grad():
        logits = [still(x) for _ in range(3)]
    layers = sum(isinstance(module, nn.Linear) for module in net.modules())
    assert len(projected) == layers > 1
    assert torch.equal(logits[0], logits[2])
    with torch.no_grad():
        net.features[2].parametrizations.weight.original.mul_(-1)
    assert not torch.equal(net(x), logits[0])


def test_the_network_is_lipschitz():
    net = small("groupsort").eval()
    with torch.no_grad():  # far outside of the ball, where only the projection helps
        for name, parameter in net.named_parameters():
            if name.endswith("original"):
                parameter.mul_(50)
    assert net.lipschitz == pytest.approx(1 / 0.3)
    torch.manual_seed(1)
    ratios = []
    for scale in (1e-4, 0.01, 0.3):
        x = torch.rand(400, 2, 8, 8, dtype=torch.float64)
        step = scale * torch.randn_like(x)
        distance = step.abs().flatten(1).amax(1)
        ratios.append(((net(x + step) - net(x)).abs().amax(1) / distance / net.lipschitz).max())
    assert max(ratios) <= 1 + 1e-9
    assert max(ratios) > 0.05  # the constant is not idle


def test_intervals_are_at_least_as_tight_as_the_constant():
    net = small("groupsort").eval()
    x, _ = batch()
    for eps in (0.01, 0.1):
        lower, upper = ball(x, eps)
        trace = net.trace(lower, upper)
        widest = (upper - lower).flatten(1).amax(1)
        assert (trace.upper - trace.lower <= (widest * net.lipschitz)[:, None] * (1 + 1e-9)).all()


def test_its_margin_is_a_certificate():
    net = small("groupsort").float().eval()
    x = batch(32)[0].float()
    labels = net(x).argmax(1)
    radius = margin_radius(net, x, labels)
    logits = net(x).double().sort(1, descending=True).values
    torch.testing.assert_close(radius, (logits[:, 0] - logits[:, 1]) / 2 * 0.3)
    assert interval_certified(net, x, labels, (radius - 2e-6).clamp_min(0)).all()
    by_interval = interval_radius(net, x, labels, 0.5)
    assert (by_interval >= (radius - 2e-6).clamp(0, 0.5)).all()
    wrong = (labels + 1) % 4
    assert (margin_radius(net, x, wrong) == 0).all()
