"""The exact radius against brute force: grids, all linear pieces, and rational arithmetic."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import exact_nets
from scipy.optimize import linprog

from linfdist.nn import NetConfig, build_net
from linfdist.robust import (
    attacked_radius,
    exact_radius,
    guided_pgd,
    interval_radius,
    margin_radius,
    sound_radius,
)
from linfdist.robust.attacks.ensemble import GUIDED

TOLERANCE = 1e-3


def small_net(pixels, hidden, classes=2, seed=0):
    """Weights of the pixels' size, so that all of the net's pieces meet the cube."""
    torch.manual_seed(seed)
    config = NetConfig(kind="net", hidden=hidden, identity_value=None)
    shape = (1, 1, pixels)
    net = build_net(config, input_shape=shape, num_classes=classes, mean=[0.4], std=0.3)
    for name, value in net.state_dict().items():
        if "running_mean" in name:
            value.normal_().mul_(0.3)
    return net.eval().requires_grad_(False)


def some_image(net, seed):
    """A random image, and the class that the net gives it."""
    image = torch.rand(net.input_shape, generator=torch.Generator().manual_seed(seed))
    return image, int(net(image[None]).argmax())


def beaten_by(net, points, label):
    """max_k logit_k − logit_y in float64, (len(points),): at least 0 where y is beaten."""
    logits = net(points.double())
    rivals = logits.clone()
    rivals[:, label] = -math.inf
    return rivals.amax(1) - logits[:, label]


@pytest.mark.parametrize("pixels, hidden", [(1, (3,)), (2, (4, 3)), (2, (8, 8)), (3, (4,))])
@pytest.mark.parametrize("seed", range(2))
def test_a_grid_of_all_images_agrees(pixels, hidden, seed):
    """The margin of logits is 2 L-Lipschitz: a point that beats leaves a trace on the grid."""
    net = small_net(pixels, hidden, classes=3, seed=seed)
    image, label = some_image(net, seed)
    found = exact_radius(net, image, label, tolerance=TOLERANCE)
    assert found.decided
    steps = {1: 4001, 2: 201, 3: 41}[pixels]
    axis = torch.linspace(0, 1, steps, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * pixels).view(-1, *net.input_shape)
    margin = beaten_by(net.double(), points, label)
    distance = (points - image).abs().flatten(1).amax(1)
    half = 0.5 / (steps - 1)
    seen = float(distance.where(margin >= 0, math.inf).min())
    traces = float(distance.where(margin >= -2 * net.lipschitz * half, math.inf).min())
    assert found.lower <= seen
    assert found.upper >= traces - half
    if seen == math.inf == traces:
        assert found.lower == math.inf


def neuron(inputs, weight, shift, one):
    """For each (input, sign): the neuron's value if that is the farthest, and what makes it so."""
    terms = [sign * (x - w * one) for x, w in zip(inputs, weight, strict=True) for sign in (1, -1)]
    for top in terms:
        yield top - shift * one, [term - top for term in terms if term is not top]


def pieces_radius(net, image, label):
    """R by a linear program in (x, r) for each choice of what every neuron attains.

    Affine functions are rows of coefficients of x, r and 1; a constraint is one that is at most 0.
    """
    features, x = net.features, image.double().numpy().ravel()
    n = len(x)
    unit = np.eye(n + 2)
    one = unit[-1]
    constraints = [sign * (unit[i] - x[i] * one) - unit[n] for i in range(n) for sign in (1, -1)]
    mean, std = float(features.normalize.mean), float(features.normalize.divisor)
    partial = [([(unit[i] - mean * one) / std for i in range(n)], constraints)]
    distances = features.layers[1::2]
    for layer, shift in zip(distances, features.layers[2::2], strict=True):
        rows = list(zip(layer.weight.double().numpy(), shift.running_mean.tolist(), strict=True))
        partial = [
            ([value for value, _ in chosen], known + [row for _, more in chosen for row in more])
            for inputs, known in partial
            for chosen in itertools.product(*(neuron(inputs, w, m, one) for w, m in rows))
        ]
    best, weight = math.inf, net.last.weight.double().numpy()
    for (inputs, known), k in itertools.product(partial, range(net.num_classes)):
        if k == label:
            continue
        outputs = (neuron(inputs, weight[j], -float(net.last.bias[j]), one) for j in (k, label))
        for (rival, some), (own, others) in itertools.product(*outputs):
            rows = np.array([*known, *some, *others, rival - own])
            found = linprog(unit[n][:-1], rows[:, :-1], -rows[:, -1], bounds=[(0, 1)] * (n + 1))
            best = min(best, found.fun) if found.status == 0 else best
    return best


@pytest.mark.parametrize("pixels, hidden, seed", [(2, (2,), 0), (2, (2,), 5), (1, (2, 1), 1)])
def test_the_smallest_over_all_linear_pieces_agrees(pixels, hidden, seed):
    net = small_net(pixels, hidden, seed=seed)
    image, label = some_image(net, seed)
    found = exact_radius(net, image, label, tolerance=1e-5)
    real = pieces_radius(net, image, label)
    assert found.decided and (found.upper > 0)
    if math.isinf(real):
        assert found.lower == math.inf
    else:
        assert found.lower - 1e-7 <= real <= found.upper + 1e-7


def test_what_is_found_beats_the_label_in_rational_numbers():
    beaten = 0
    for seed in range(5):
        net = small_net(4, (5, 4), classes=3, seed=seed)
        image, label = some_image(net, seed)
        found = exact_radius(net, image, label, tolerance=TOLERANCE)
        assert found.decided and found.lower <= found.upper
        if found.adversarial is None:
            continue
        beaten += 1
        point, given = exact_nets.fractions(found.adversarial), exact_nets.fractions(image)
        assert ((point >= 0) & (point <= 1)).all()
        assert abs(point - given).max() <= Fraction(found.upper)
        logits = exact_nets.logits(net, exact_nets.features(net, point[None]))[0]
        assert max(np.delete(logits, label)) >= logits[label]
    assert beaten > 2


def test_nothing_within_the_lower_bound_is_beaten():
    """By 1000 random images and corners each, and by attacks; certificates stay below R."""
    for seed in range(3):
        net = small_net(6, (6, 5), classes=4, seed=seed)
        image, label = some_image(net, seed)
        image = (image * 255).to(torch.uint8)
        pixels, labels = image.float()[None] / 255, torch.tensor([label])
        found = exact_radius(net, pixels[0], label, tolerance=TOLERANCE)
        r = min(found.lower, 1.0)
        share = torch.rand(1000, *net.input_shape, dtype=torch.float64) * 2 - 1
        share[500:] = share[500:].sign()
        points = (pixels.double() + share * r).clamp(0, 1)
        held = guided_pgd(net, pixels, labels, r * (1 - 1e-5), num_steps=30, guide=30.0).survived
        assert held.all() or found.upper == 0
        assert float(margin_radius(net, pixels, labels)) <= found.upper + 2e-6
        interval = interval_radius(net, pixels, labels, 1.0)
        assert float(interval) <= found.upper + 2e-6
        assert float(sound_radius(net, image[None], labels, interval)) <= found.upper
        radii = [0.05, 0.1, 0.2, 0.4, 0.8]
        some = {name: GUIDED[name] for name in ("pgd_20",)}
        attacked = attacked_radius(net, pixels, labels, radii, attacks=some)
        assert found.lower <= float(attacked) + 2e-6
        assert (beaten_by(net.double(), points, label) < 1e-9).all() or found.upper == 0


def chain(weights):
    """One pixel x; then |x + 1/2| and |x − 3/2|, which are 1 ± (x − 1/2); then two classes."""
    config = NetConfig(kind="net", hidden=(2,), identity_value=None)
    net = build_net(config, input_shape=(1, 1, 1), num_classes=2, mean=[0.0], std=1.0)
    net.features.layers[1].weight.data = torch.tensor([[-0.5], [1.5]])
    net.last.weight.data, net.last.bias.data = (torch.tensor(value) for value in weights)
    return net.eval().requires_grad_(False)


def test_it_sees_that_what_intervals_fear_cannot_be():
    """Outputs |x − 1/2| and 0.05 + that: nothing beats class 0, but intervals stop at 0.025."""
    net = chain(([[0.0, 0.0], [-1.0, -1.0]], [-1.0, -1.95]))
    image = torch.full((1, 1, 1), 0.5)
    interval = interval_radius(net, image[None], torch.tensor([0]), 1.0, 20)
    assert float(interval) == pytest.approx(0.025, abs=1e-5)
    found = exact_radius(net, image, 0)
    assert (found.lower, found.upper) == (math.inf, math.inf) and found.decided
    assert found.adversarial is None


def test_a_misclassified_image_has_radius_0():
    net = small_net(3, (4,))
    image, label = some_image(net, 0)
    found = exact_radius(net, image, 1 - label)
    assert (found.lower, found.upper, found.decided) == (0.0, 0.0, True)
    assert torch.equal(found.adversarial, image.double())
    radius = attacked_radius(net, image[None], torch.tensor([1 - label]), [0.1])
    assert radius.tolist() == [0.0]


def test_a_spent_budget_is_not_a_result():
    """What is proven by then stands; the rest is said to be open."""
    spent = 0
    for seed in range(3):
        net = small_net(6, (8, 8), classes=4, seed=seed)
        image, label = some_image(net, seed)
        full = exact_radius(net, image, label, tolerance=1e-3)
        found = exact_radius(net, image, label, tolerance=1e-3, max_nodes=4)
        assert full.decided and found.nodes < full.nodes
        assert found.lower <= full.upper and full.lower <= found.upper
        if not found.decided:
            spent += 1
            assert found.upper - found.lower > 1e-3
    assert spent == 3


def test_what_no_attack_beats_is_infinitely_far():
    net = small_net(3, (4,))
    image, label = some_image(net, 0)
    some = {"pgd_20": GUIDED["pgd_20"]}
    found = attacked_radius(net, image[None], torch.tensor([label]), [0.0, 1e-6], attacks=some)
    assert found.tolist() == [math.inf]


def test_errors_name_the_fix():
    net = small_net(3, (4,))
    image = torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match=r"tolerance must be at least 1e-6 pixels; got 0"):
        exact_radius(net, image, 0, tolerance=0)
    with pytest.raises(ValueError, match=r"max_nodes must be at least 1; got 0"):
        exact_radius(net, image, 0, max_nodes=0)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 3\), one image without a batch"):
        exact_radius(net, image[None], 0)
    with pytest.raises(ValueError, match=r"exact_radius: labels must be in 0..1"):
        exact_radius(net, image, 2)
    config = NetConfig(kind="net_mlp", hidden=(3,), mlp_hidden=2)
    other = build_net(config, input_shape=(1, 1, 3), num_classes=2, mean=[0.0], std=1.0)
    with pytest.raises(TypeError, match=r"must be a LinfDistNet, all of whose.*LinfDistNetMLP"):
        exact_radius(other, image, 0)
