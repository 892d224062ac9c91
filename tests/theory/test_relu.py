"""Lemma A.7: a distance as a ReLU network; Lemma A.8: a whole net as one."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linfdist.nn import NetConfig, build_net
from linfdist.ops import linf_interval, lp_dist
from linfdist.theory.relu import linf_relu, relu_interval, relu_size, to_relu

BOTH = pytest.mark.parametrize("lean", [False, True], ids=["paper", "lean"])
EPS = torch.finfo(torch.float64).eps


def linears(net):
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def widths_of(net):
    first, *rest = linears(net)
    return (first.in_features, *(layer.out_features for layer in (first, *rest)))


def edges_of(net):
    return tuple(int((layer.weight != 0).sum()) for layer in linears(net))


def bound(x, weight, net):
    """What rounding may cost: 20 eps a layer of the largest number at hand."""
    return 20 * EPS * (1 + len(linears(net))) * (x.abs().max() + weight.abs().max())


def small_net(hidden=(5, 3), classes=3, std=0.25):
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=hidden, identity_value=None)
    net = build_net(config, input_shape=(2, 2, 2), num_classes=classes, mean=(0.5, 0.3), std=std)
    for layer in net.features.layers:
        if hasattr(layer, "running_mean"):
            layer.running_mean.normal_()
    nn.init.normal_(net.last.bias)
    return net.double().eval()


# --- one distance -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("d", range(1, 34))
def test_the_network_is_the_distance(d, lean):
    generator = torch.Generator().manual_seed(d)
    weight = torch.randn(2, d, generator=generator, dtype=torch.float64)
    x = torch.randn(64, d, generator=generator, dtype=torch.float64)
    net = linf_relu(weight, lean=lean)
    assert (net(x) - lp_dist(x, weight)).abs().max() <= bound(x, weight, net)


@BOTH
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 33])
def test_exact_on_integers_with_all_their_ties(d, lean):
    generator = torch.Generator().manual_seed(d)
    weight = torch.randint(-3, 4, (4, d), generator=generator).double()
    x = torch.randint(-3, 4, (256, d), generator=generator).double()
    x[:4] = weight  # a distance of 0
    assert torch.equal(linf_relu(weight, lean=lean)(x), lp_dist(x, weight))


@given(data=st.data(), lean=st.booleans(), d=st.integers(1, 12))
def test_the_network_is_the_distance_for_any_numbers(data, lean, d):
    numbers = st.lists(st.floats(-1e6, 1e6), min_size=d, max_size=d)
    x = torch.tensor([data.draw(numbers)], dtype=torch.float64)
    weight = torch.tensor([data.draw(numbers)], dtype=torch.float64)
    net = linf_relu(weight, lean=lean)
    assert (net(x) - lp_dist(x, weight)).abs().max() <= bound(x, weight, net)


@BOTH
def test_a_planted_fault_is_seen(lean):
    """One sign turned, in any layer, and the network is no distance any more."""
    torch.manual_seed(0)
    weight, x = torch.randn(1, 6, dtype=torch.float64), 3 * torch.randn(256, 6).double()
    for index in range(len(linears(linf_relu(weight, lean=lean)))):
        net = linf_relu(weight, lean=lean)
        layer = linears(net)[index].weight
        row, column = layer.nonzero()[0]
        layer[row, column] *= -1
        assert (net(x) - lp_dist(x, weight)).abs().max() > 0.1


# --- sizes ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("widths", [(1, 1), (2, 1), (3, 2), (8, 1), (9, 4), (33, 1)])
def test_the_size_is_that_of_the_network(widths, lean):
    net = linf_relu(torch.randn(widths[1], widths[0], dtype=torch.float64), lean=lean)
    size = relu_size(widths, lean=lean)
    assert size.widths == widths_of(net) and size.edges == edges_of(net)
    assert size.parameters == sum(p.numel() for p in net.parameters())
    assert size.depth == sum(isinstance(layer, nn.ReLU) for layer in net)


@pytest.mark.parametrize("exponent", range(11))
def test_closed_formulas_for_powers_of_two(exponent):
    d = 2**exponent
    paper, lean = relu_size((d, 1)), relu_size((d, 1), lean=True)
    assert paper.depth == lean.depth == 1 + exponent
    assert (paper.width, lean.width) == (3 * d, 2 * d)
    assert (paper.neurons, lean.neurons) == (6 * d - 3, 4 * d - 2)
    assert paper.parameters == 9 * d**2 + 6 * d - 5
    assert lean.parameters * 3 == 14 * d**2 + 12 * d - 5


@BOTH
@given(d=st.integers(1, 5000))
def test_depth_and_width_for_any_d(lean, d):
    size = relu_size((d, 1), lean=lean)
    assert size.depth == 1 + math.ceil(math.log2(d)) and size.width == (2 if lean else 3) * d
    assert size.neurons <= (4 if lean else 6) * d + 2 * size.depth


@BOTH
@given(widths=st.lists(st.integers(1, 300), min_size=2, max_size=6))
def test_a_net_is_of_the_size_that_lemma_a8_says(lean, widths):
    size, widest = relu_size(widths, lean=lean), max(widths)
    layers = len(widths) - 1
    assert size.width <= (2 if lean else 3) * widest**2
    assert size.depth <= layers * (1 + math.ceil(math.log2(widest)))
    assert size.depth == sum(1 + math.ceil(math.log2(d)) for d in widths[:-1])


def test_sparse_parameters_are_edges_and_biases():
    size = relu_size((4, 3, 2))
    assert sum(size.sparse_layer_parameters) == sum(size.edges) + sum(size.widths[1:])
    assert size.parameters == sum(out * (i + 1) for i, out in pairwise(size.widths))


# --- whole nets -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("hidden", [(1,), (5, 3), (4, 4, 4)])
def test_a_net_as_one_relu_network(hidden, lean):
    net = small_net(hidden)
    relu = to_relu(net, lean=lean)
    x = torch.rand(128, 2, 2, 2, dtype=torch.float64)
    size = 4 + sum(float(p.abs().max()) for p in net.state_dict().values())
    assert (relu(x) - net(x)).abs().max() <= 20 * EPS * len(linears(relu)) * size
    expected = relu_size((8, *hidden, 3), lean=lean)
    assert widths_of(relu) == expected.widths and edges_of(relu) == expected.edges


@BOTH
def test_a_mean_shift_or_a_bias_left_out_is_seen(lean):
    net = small_net()
    x = torch.rand(16, 2, 2, 2, dtype=torch.float64)
    relu = to_relu(net, lean=lean)
    net.last.bias.data += 0.1
    assert (relu(x) - net(x)).abs().max() > 0.09
    net.last.bias.data -= 0.1
    net.features.layers[2].running_mean += 0.1
    assert (relu(x) - net(x)).abs().max() > 0.01


@BOTH
def test_intervals_through_the_relu_network_hold_and_are_looser(lean):
    torch.manual_seed(0)
    weight = torch.randn(8, 16, dtype=torch.float64)
    x = torch.randn(32, 16, dtype=torch.float64)
    own = linf_interval(x - 0.1, x + 0.1, weight)
    lower, upper = relu_interval(linf_relu(weight, lean=lean), x - 0.1, x + 0.1)
    assert (lower <= own[0] + 1e-12).all() and (upper >= own[1] - 1e-12).all()
    assert (upper - lower).mean() > 2 * (own[1] - own[0]).mean()


# --- what is refused --------------------------------------------------------------------------


def test_refusals():
    with pytest.raises(ValueError, match=r"weight must have shape .*got \(3,\).*unsqueeze"):
        linf_relu(torch.zeros(3))
    with pytest.raises(ValueError, match=r"both at least 1; got \(2, 0\)"):
        linf_relu(torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"relu_size: widths must be .*got \(3,\).*\(784, 1\)"):
        relu_size((3,))
    with pytest.raises(ValueError, match=r"each at least 1; got \(3, 0\)"):
        relu_size((3, 0))
    mlp = NetConfig(kind="net_mlp", hidden=(4,), mlp_hidden=4)
    mlp = build_net(mlp, input_shape=(1, 2, 2), num_classes=2, mean=(0.5,), std=1.0)
    with pytest.raises(TypeError, match=r"must be a LinfDistNet; got LinfDistNetMLP.*relu_size"):
        to_relu(mlp)
