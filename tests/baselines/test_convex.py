"""The convex outer polytope's bound: against a linear program, and sound."""

import itertools

import pytest
import torch
from helpers.small_baselines import ascent, ball, batch, margins_at, points_in, small
from torch import nn

from linfdist.baselines import cap_margins, crown_ibp_margins, interval_trace
from linfdist.baselines.cap import polytope

SLACK = 1e-9


def mlp(seed, sizes):
    torch.manual_seed(seed)
    layers = []
    for wide, narrow in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers).double(), nn.Linear(*sizes[-2:]).double()


def upper_by_program(trace, objective, constant):
    """The largest objective · features on the polytope that the bounds of ``trace`` leave.

    Variables: the inputs, then z and relu(z) of each layer; z = W x + b, and relu(z) in the
    triangle of its bounds. For the dual of [WongKolter2018] the polytope's lower face is not
    max(0, z) but the line u z / (u − l), parallel to the upper.
    """
    optimize = pytest.importorskip("scipy.optimize")
    sizes = [step.lower.shape[1] for step in trace.steps]
    sizes.append(trace.lower.shape[1])
    starts = [0, *itertools.accumulate(sizes)]
    width = starts[-1]
    equal, equal_to, below, below_to = [], [], [], []
    first = trace.steps[0]
    limits = list(zip(first.lower[0].tolist(), first.upper[0].tolist(), strict=True))
    limits += [(None, None)] * (width - len(limits))
    for index, step in enumerate(trace.steps):
        source, target = starts[index], starts[index + 1]
        if isinstance(step.layer, nn.Linear):
            for row in range(sizes[index + 1]):
                line = torch.zeros(width, dtype=torch.float64)
                line[source : source + sizes[index]] = step.layer.weight[row].detach()
                line[target + row] = -1
                equal.append(line)
                equal_to.append(-step.layer.bias[row].item())
            continue
        for row in range(sizes[index]):
            low, high = step.lower[0, row].item(), step.upper[0, row].item()
            slope = 1.0 if low >= 0 else 0.0 if high <= 0 else high / (high - low)
            offset = -slope * min(low, 0)
            for sign, bound in ((1, offset), (-1, 0.0)):
                line = torch.zeros(width, dtype=torch.float64)
                line[target + row], line[source + row] = sign, -sign * slope
                below.append(line)
                below_to.append(bound)
    cost = torch.zeros(width, dtype=torch.float64)
    cost[starts[-2] :] = -objective
    solved = optimize.linprog(
        cost.numpy(),
        A_ub=torch.stack(below).numpy(),
        b_ub=below_to,
        A_eq=torch.stack(equal).numpy(),
        b_eq=equal_to,
        bounds=limits,
    )
    return -solved.fun + constant


@pytest.mark.parametrize("seed", range(4))
def test_the_dual_bound_is_the_linear_program_s_value(seed):
    layers, last = mlp(seed, (3, 6, 5, 3))
    x, labels = torch.randn(1, 3).double(), torch.tensor([1])
    lower, upper = x - 0.8, x + 0.8
    with torch.no_grad():
        bounds = cap_margins(layers, last, lower, upper, labels)
        trace = polytope(layers, lower, upper)
    unstable = sum(
        int(((s.lower < 0) & (s.upper > 0)).sum())
        for s in trace.steps
        if isinstance(s.layer, nn.ReLU)
    )
    assert unstable >= 2
    for k in (0, 2):
        objective = (last.weight[k] - last.weight[1]).detach()
        constant = (last.bias[k] - last.bias[1]).item()
        assert bounds[0, k].item() == pytest.approx(upper_by_program(trace, objective, constant))


def test_the_neurons_bounds_are_linear_programs_values_too():
    layers, _ = mlp(0, (3, 6, 5, 3))
    x = torch.randn(1, 3).double()
    with torch.no_grad():
        trace = polytope(layers, x - 0.4, x + 0.4)
        before = polytope(layers[:2], x - 0.4, x + 0.4)
    for neuron in range(5):
        row, bias = layers[2].weight[neuron].detach(), layers[2].bias[neuron].item()
        high = upper_by_program(before, row, bias)
        low = -upper_by_program(before, -row, -bias)
        assert trace.steps[3].upper[0, neuron].item() == pytest.approx(high)
        assert trace.steps[3].lower[0, neuron].item() == pytest.approx(low)


@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_bounds_hold_for_random_and_attacked_points(eps):
    net = small("cap").eval()
    x, labels = batch(10)
    lower, upper = ball(x, eps)
    with torch.no_grad():
        bounds = net.worst_case_margins_on_box(lower, upper, labels)
        trace = polytope(net.features, lower, upper)
    for point in points_in(lower, upper):
        assert (margins_at(net, point, labels) <= bounds + SLACK).all()
        for step in trace.steps:
            assert (step.lower - SLACK <= point).all() and (point <= step.upper + SLACK).all()
            point = step.layer(point)
    for k in range(4):
        found = ascent(net, lambda net, x, k=k: margins_at(net, x, labels)[:, k], lower, upper)
        assert (margins_at(net, found, labels) <= bounds + SLACK).all()


def test_its_neurons_are_bounded_tighter_than_by_intervals():
    net = small("cap").eval()
    x, labels = batch(10)
    box = ball(x, 0.05)
    dual, plain = polytope(net.features, *box), interval_trace(net.features, *box)
    index = next(i for i, s in enumerate(dual.steps) if isinstance(s.layer, nn.ReLU)) + 2
    widths = [(t.steps[index].upper - t.steps[index].lower).mean() for t in (dual, plain)]
    assert isinstance(dual.steps[index].layer, nn.ReLU) and widths[0] < 0.9 * widths[1]
    by_ibp = crown_ibp_margins(plain, net.last, labels, 0.0)
    by_cap = cap_margins(net.features, net.last, *box, labels)
    assert by_cap.sum() < by_ibp.sum()


def test_images_do_not_see_each_other_and_gradients_flow():
    net = small("cap")
    x, labels = batch(10)  # more than are bounded at once
    whole = net.worst_case_margins_on_box(*ball(x, 0.05), labels)
    assert whole.shape == (10, 4)
    alone = net.worst_case_margins_on_box(*ball(x[9:], 0.05), labels[9:])
    torch.testing.assert_close(whole[9:], alone)
    whole.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert net.features[1].weight.grad.any()


def test_errors():
    net = small("resnet_tiny")
    x, labels = batch()
    with pytest.raises(TypeError, match=r"got Residual\. Bound it with crown_ibp_margins"):
        cap_margins(net.features, net.last, x, x, labels)
