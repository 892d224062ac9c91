"""COLT's zonotope holds every true output, and its attack stays in it and climbs."""

import pytest
import torch
import torch.nn.functional as F
from helpers.small_baselines import ascent, ball, batch, margins_at, points_in, small
from torch import nn

from linfdist.baselines import (
    instability,
    interval_trace,
    latent_attack,
    prefix_length,
    zonotope_point,
)
from linfdist.baselines.cap import polytope
from linfdist.baselines.crown import chord, upper_bounds
from linfdist.baselines.ibp import merged

SLACK = 1e-9


def relus(steps):
    return [step for step in steps if isinstance(step.layer, nn.ReLU)]


def errors_of(steps, lower, upper, x):
    """The errors at which the zonotope's point is the true output of ``steps`` for x."""
    errors = [(x - (lower + upper) / 2) / ((upper - lower) / 2)]
    for step in steps:
        if isinstance(step.layer, nn.ReLU):
            slope, offset = chord(step.lower, step.upper)
            free = offset > 0
            wanted = (step.layer(x) - slope * x - offset / 2) / (offset / 2).where(free, 1.0)
            errors.append(wanted.where(free, 0.0))
        x = step.layer(x)
    return errors, x


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("eps", [0.01, 0.2])
def test_every_true_output_is_a_point_of_the_zonotope(depth, eps):
    net, (x, _) = small("colt"), batch()
    lower, upper = ball(x, eps)
    layers = net.features[: prefix_length(net.features, depth)]
    with torch.no_grad():
        steps = interval_trace(layers, lower, upper).steps
        unstable = [((s.lower < 0) & (s.upper > 0)).any().item() for s in relus(steps)]
        for inside in points_in(lower, upper):
            errors, output = errors_of(steps, lower, upper, inside)
            assert all(error.abs().max() <= 1 + SLACK for error in errors)
            found = zonotope_point(steps, lower, upper, errors)
            assert torch.allclose(found, output, atol=SLACK) and torch.allclose(
                output, layers(inside), atol=SLACK
            )
    assert all(unstable) and len(unstable) == depth  # or nothing was relaxed


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_attack_stays_inside_and_raises_the_loss(depth):
    net, (x, labels) = small("colt"), batch()
    lower, upper = ball(x, 0.1)
    begin = prefix_length(net.features, depth)
    steps = interval_trace(net.features[:begin], lower, upper).steps

    def loss(point):
        for layer in net.features[begin:]:
            point = layer(point)
        return F.cross_entropy(net.last(point), labels)

    def attack(number):
        return latent_attack(
            net.features, net.last, depth, lower, upper, labels, steps=number, step_size=0.25
        )

    with torch.no_grad():
        zeros = [torch.zeros_like(lower), *(torch.zeros_like(s.lower) for s in relus(steps))]
        centre = zonotope_point(steps, lower, upper, zeros)
    assert torch.equal(attack(0), centre)
    found = attack(8)
    assert loss(found) > loss(attack(2)) > loss(centre)
    assert not found.requires_grad and all(p.grad is None for p in net.parameters())
    # Inside: the extremes of each output over all errors are those of a row of the polytope.
    reach = sum(
        torch.autograd.functional.jacobian(
            lambda *moved: zonotope_point(steps, lower, upper, moved).flatten(1).sum(0),
            tuple(zeros),
        )[index]
        .abs()
        .flatten(2)
        .sum(2)
        for index in range(len(zeros))
    ).T
    assert ((found - centre).flatten(1).abs() <= reach + SLACK).all()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_step_moves_every_error_by_the_sign_of_its_gradient(depth):
    net, (x, labels) = small("colt"), batch()
    lower, upper = ball(x, 0.1)
    begin = prefix_length(net.features, depth)
    steps = interval_trace(net.features[:begin], lower, upper).steps
    errors = [torch.zeros_like(lower), *(torch.zeros_like(s.lower) for s in relus(steps))]

    def expected(number):
        moved = [error.clone().requires_grad_() for error in errors]
        for _ in range(number):
            point = zonotope_point(steps, lower, upper, moved)
            loss = F.cross_entropy(net.last(net.features[begin:](point)), labels)
            signs = [gradient.sign() for gradient in torch.autograd.grad(loss, moved)]
            assert all(sign.any() for sign in signs)
            pairs = zip(moved, signs, strict=True)
            moved = [(e + 0.3 * s).detach().clamp(-1, 1).requires_grad_() for e, s in pairs]
        return zonotope_point(steps, lower, upper, moved)

    for number in (1, 4):  # at the fourth the errors are clamped
        found = latent_attack(
            net.features, net.last, depth, lower, upper, labels, steps=number, step_size=0.3
        )
        assert torch.allclose(found, expected(number), atol=SLACK)


def test_an_attack_on_the_pixels_stays_in_the_box():
    net, (x, labels) = small("colt"), batch()
    lower, upper = ball(x, 0.1)
    found = latent_attack(net.features, net.last, 0, lower, upper, labels, steps=8, step_size=0.25)
    assert (found >= lower - SLACK).all() and (found <= upper + SLACK).all()


def test_instability_is_of_the_first_relu_and_0_without_unstable_neurons():
    net, (x, _) = small("colt"), batch()
    lower, upper = ball(x, 0.1)
    for depth in (0, 1, 2):
        begin = prefix_length(net.features, depth)
        front = interval_trace(net.features[:begin], lower, upper)
        found = instability(net.features[begin:], front.lower, front.upper)
        step = relus(interval_trace(net.features, lower, upper).steps)[depth]
        crossing = (step.lower < 0) & (step.upper > 0)
        expected = torch.where(crossing, -step.lower * step.upper, 0.0).sum() / len(x)
        assert torch.allclose(found, expected) and found > 0
    assert instability(net.features, x, x) == 0


def test_layers_that_have_no_zonotope_are_named():
    net, (x, _) = small("cnn7_bn").eval(), batch()
    steps = interval_trace(net.features, x, x).steps
    with pytest.raises(TypeError, match=r"got BatchNorm2d\. Train it on intervals"):
        zonotope_point(steps, x, x, [torch.zeros_like(x)] * 9)
    with pytest.raises(ValueError, match="relus must be at most 3, the number of ReLUs; got 4"):
        prefix_length(small("colt").features, 4)


@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_dual_bounds_of_the_dense_layers_hold_and_tighten_the_certificate(eps):
    net, (x, labels) = small("colt"), batch()
    lower, upper = ball(x, eps)
    with torch.no_grad():
        plain, dense = (
            net.trace(lower, upper),
            polytope(net.features, lower, upper, dense_only=True),
        )
        for old, new in zip(plain.steps, dense.steps, strict=True):
            assert (new.lower >= old.lower - SLACK).all() and (new.upper <= old.upper + SLACK).all()
            if new.lower.dim() == 4:
                assert torch.equal(new.lower, old.lower) and torch.equal(new.upper, old.upper)
        assert (dense.upper < plain.upper - SLACK).any()
        bounds = net.worst_case_margins_on_box(lower, upper, labels)
        lines = upper_bounds(dense, *merged(net.last, labels))
        assert torch.allclose(bounds, torch.minimum(lines, net.margins(dense, labels)), atol=SLACK)
        assert (bounds < net.margins(plain, labels) - SLACK).any()
        for inside in points_in(lower, upper):
            assert (margins_at(net, inside, labels) <= bounds + SLACK).all()
            features = net.features(inside)
            assert (features >= dense.lower - SLACK).all()
            assert (features <= dense.upper + SLACK).all()
    worst = ascent(net, lambda net, x: margins_at(net, x, labels).amax(1), lower, upper)
    assert (margins_at(net, worst, labels) <= bounds + SLACK).all()
    exact = net.worst_case_margins_on_box(x, x, labels)
    assert torch.allclose(exact, margins_at(net, x, labels), atol=1e-9)
