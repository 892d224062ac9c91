"""The paper's networks: counts, Lipschitz constants, interval bounds, errors."""

import math
from dataclasses import replace

import pytest
import torch

from linfdist.nn import (
    BoundedLinear,
    BoundedTanh,
    LinfDistNet,
    LinfDistNetMLP,
    LpDist,
    NetConfig,
    Normalize,
    build_net,
    flop_count,
    frozen,
    parameter_count,
)

NET = NetConfig(kind="net", hidden=(12, 8))
MLP = NetConfig(kind="net_mlp", hidden=(12, 8), mlp_hidden=7)
CONV = NetConfig(kind="conv_net_mlp", hidden=(8,), mlp_hidden=7, channels=((4, 1), (6, 2)))
CONFIGS = pytest.mark.parametrize("config", [NET, MLP, CONV], ids=lambda config: config.kind)


def small(config: NetConfig, std: float = 0.3):
    torch.manual_seed(0)
    net = build_net(config, input_shape=(2, 5, 5), num_classes=4, mean=(0.4, 0.6), std=std)
    net.train()
    net(torch.rand(32, 2, 5, 5))  # running means that are not 0
    return net.eval()


MNIST, CIFAR, TINY = (1, 28, 28), (3, 32, 32), (3, 56, 56)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("kind", "layers", "input_shape", "classes", "count"),
    [
        ("net", 4, MNIST, 10, 82_708_480),
        ("net_mlp", 4, MNIST, 10, 85_283_840),
        ("net", 5, CIFAR, 10, 120_637_440),
        ("net_mlp", 5, CIFAR, 10, 123_212_800),
        ("net_mlp", 5, TINY, 200, 155_750_400),
    ],
)
def test_counts_of_table_5(kind, layers, input_shape, classes, count):
    config = NetConfig(
        kind=kind, hidden=(5120,) * layers, mlp_hidden=None if kind == "net" else 512
    )
    mean = (0.5,) * input_shape[0]
    with torch.device("meta"):
        net = build_net(config, input_shape=input_shape, num_classes=classes, mean=mean, std=0.5)
    assert flop_count(net, input_shape) == count
    assert parameter_count(net) == count


def test_counts_of_table_8():
    channels = ((128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
    config = NetConfig(kind="conv_net_mlp", hidden=(512,), mlp_hidden=512, channels=channels)
    with torch.device("meta"):
        net = build_net(config, input_shape=CIFAR, num_classes=10, mean=(0.5,) * 3, std=0.5)
    assert flop_count(net, CIFAR) == 565_842_944
    assert parameter_count(net) < flop_count(net, CIFAR)


def test_counts_leave_out_biases():
    net = small(MLP)
    everything = sum(parameter.numel() for parameter in net.parameters())
    assert parameter_count(net) == everything - 7 - 4 == 50 * 12 + 12 * 8 + 8 * 7 + 7 * 4


@pytest.mark.quick
def test_net_is_made_as_the_paper_says():
    net = small(NET)
    hidden = [layer for layer in net.features.layers if isinstance(layer, LpDist)]
    assert all(layer.bias is None for layer in hidden)
    assert net.last.bias is not None and not (net.last.weight == -10).any()
    assert (hidden[0].weight != -10).all()  # 50 to 12: no identity
    gaussian = small(replace(NET, hidden=(60,), identity_value=None))
    assert not (gaussian.features.layers[1].weight == -10).any()
    assert (small(replace(NET, hidden=(60,))).features.layers[1].weight == -10).sum() == 60


@pytest.mark.quick
def test_logits_are_minus_the_last_distances():
    net = small(NET)
    x = torch.rand(3, 2, 5, 5)
    features = net.features(x, 4.0)
    assert torch.equal(net(x, 4.0), -net.last(features, 4.0))
    mlp = small(MLP)
    assert torch.equal(mlp(x, 4.0), mlp.head(mlp.features(x, 4.0)))


@CONFIGS
def test_p_defaults_to_infinity(config):
    net, x = small(config), torch.rand(3, 2, 5, 5)
    assert torch.equal(net(x), net(x, math.inf))
    assert not torch.equal(net(x), net(x, 3.0))


@pytest.mark.quick
@CONFIGS
def test_lipschitz_constant_is_one_over_std(config):
    net = small(config, std=0.25)
    assert net.features.lipschitz == 4.0
    x, y = torch.rand(64, 2, 5, 5), torch.rand(64, 2, 5, 5)
    distance = (x - y).flatten(1).abs().amax(1)
    moved = (net.features(x) - net.features(y)).abs().amax(1)
    assert (moved <= 4 * distance + 1e-5).all()
    if config is NET:
        assert net.lipschitz == 4.0
        assert ((net(x) - net(y)).abs().amax(1) <= 4 * distance + 1e-5).all()
    else:
        assert net.feature_lipschitz == 4.0


@pytest.mark.quick
@CONFIGS
def test_worst_case_margins_bound_every_image_in_the_box(config):
    net = small(config)
    x = torch.rand(16, 2, 5, 5)
    labels = torch.arange(16) % 4
    lower, upper = (x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1)
    bounds = net.worst_case_margins_on_box(lower, upper, labels)
    assert bounds.shape == (16, 4)
    assert torch.equal(bounds.gather(1, labels[:, None]), torch.zeros(16, 1))
    slack = 0 if config is NET else 1e-5  # the head's products round, the distances do not
    for _ in range(50):
        logits = net(torch.lerp(lower, upper, torch.rand_like(x)).clamp(lower, upper))
        margins = logits - logits.gather(1, labels[:, None])
        assert (margins <= bounds + slack).all()


@pytest.mark.quick
def test_intervals_contain_the_values_exactly():
    net = small(NET)
    x = torch.rand(16, 2, 5, 5)
    lower, upper = net.interval(x - 0.05, x + 0.05)
    feature_lower, feature_upper = small(MLP).feature_interval(x - 0.05, x + 0.05)
    assert (feature_lower <= feature_upper).all()
    for _ in range(20):
        logits = net((x + 0.1 * torch.rand_like(x) - 0.05).clamp(x - 0.05, x + 0.05))
        assert (lower <= logits).all() and (logits <= upper).all()


@pytest.mark.quick
@pytest.mark.parametrize("config", [MLP, CONV], ids=lambda config: config.kind)
def test_margins_are_those_of_equation_21(config):
    """Against the merged last layer written out image by image, in float64."""
    net = small(config).double()
    middle = torch.randn(6, 8, dtype=torch.float64)
    radius = torch.rand(6, 8, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    bounds = net.worst_case_margins(middle - radius, middle + radius, labels)
    weight, bias = net.fc1.weight / math.sqrt(8), net.fc1.bias
    for image, label in enumerate(labels.tolist()):
        centre = weight @ middle[image] + bias
        spread = weight.abs() @ radius[image]
        low, high = torch.tanh(centre - spread), torch.tanh(centre + spread)
        merged = (net.fc2.weight - net.fc2.weight[label]) / math.sqrt(7)
        expected = merged @ (low + high) / 2 + merged.abs() @ (high - low) / 2
        expected += net.fc2.bias - net.fc2.bias[label]
        torch.testing.assert_close(bounds[image], expected)


def test_merged_margins_are_tighter_than_the_difference_of_the_bounds():
    head = BoundedLinear(9, 4)
    x, labels = torch.randn(5, 9), torch.tensor([0, 1, 2, 3, 0])
    lower, upper = head.interval(x - 0.3, x + 0.3)
    loose = upper - lower.gather(1, labels[:, None])
    tight = head.worst_case_margins(x - 0.3, x + 0.3, labels)
    others = torch.ones(5, 4, dtype=torch.bool).scatter(1, labels[:, None], False)
    assert (tight[others] < loose[others]).all()


@pytest.mark.quick
def test_training_s_margins_are_the_general_ones_on_a_ball():
    net = small(MLP).double()
    features = torch.randn(5, 8, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    logits, margins = net.logits_and_ball_margins(features, 0.3, labels)
    torch.testing.assert_close(logits, net.head(features))
    expected = net.worst_case_margins(features - 0.3, features + 0.3, labels)
    torch.testing.assert_close(margins, expected)


def test_head_starts_as_the_authors_do():
    torch.manual_seed(0)
    layer = BoundedLinear(400, 300)
    assert torch.equal(layer.bias, torch.zeros(300))
    assert abs(layer.weight.std().item() - 1) < 0.02
    x = torch.randn(3, 400)
    torch.testing.assert_close(layer(x), x @ layer.weight.T / 20)
    lower, upper = BoundedTanh().interval(x, x + 1)
    assert torch.equal(lower, x.tanh()) and torch.equal(upper, (x + 1).tanh())


def test_normalisation_and_its_interval():
    layer = Normalize((0.25, 0.5), 0.5)
    x = torch.full((1, 2, 1, 1), 0.75)
    assert layer(x).flatten().tolist() == [1.0, 0.5] and layer.lipschitz == 2
    lower, upper = layer.interval(x, x + 1)
    assert torch.equal(lower, layer(x)) and torch.equal(upper, layer(x + 1))
    assert "std=0.5" in repr(layer)
    with pytest.raises(ValueError, match="std must be positive; got 0"):
        Normalize((0.5,), 0)


@CONFIGS
def test_empty_batch(config):
    net = small(config)
    x, labels = torch.empty(0, 2, 5, 5), torch.empty(0, dtype=torch.int64)
    assert net(x).shape == (0, 4)
    assert net.worst_case_margins_on_box(x, x, labels).shape == (0, 4)


def test_frozen_keeps_modes_and_gradients():
    net = small(MLP).train()
    net.fc1.eval()
    net.fc2.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="inside"), frozen(net) as still:
        assert not any(module.training for module in still.modules())
        assert not any(parameter.requires_grad for parameter in still.parameters())
        raise RuntimeError("inside")
    assert net.training and not net.fc1.training and net.fc2.training
    assert net.fc1.bias.requires_grad and not net.fc2.bias.requires_grad


def test_kinds():
    assert isinstance(small(NET), LinfDistNet)
    assert isinstance(small(MLP), LinfDistNetMLP) and isinstance(small(CONV), LinfDistNetMLP)


def test_errors_name_the_value_and_the_fix():
    net = small(NET)
    with pytest.raises(TypeError, match=r"got torch.uint8\. Convert images with"):
        net(torch.zeros(1, 2, 5, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"shape \(batch, 2, 5, 5\); got \(1, 2, 6, 6\)"):
        net(torch.zeros(1, 2, 6, 6))
    with pytest.raises(ValueError, match=r"got \(50,\)"):
        net(torch.zeros(50))
    with pytest.raises(ValueError, match=r"\(batch, in_features=9\); got \(2, 3\)"):
        BoundedLinear(9, 4)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="num_classes must be at least 2; got 1"):
        build_net(NET, input_shape=(1, 5, 5), num_classes=1, mean=(0.5,), std=1.0)
    with pytest.raises(ValueError, match="one value for each of the 3 channels"):
        build_net(NET, input_shape=(3, 5, 5), num_classes=3, mean=(0.5,), std=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mlp"}, "kind must be one of net, net_mlp, conv_net_mlp; got 'mlp'"),
        ({"hidden": ()}, r"at least one positive width; got \(\)"),
        ({"hidden": (5, 0)}, r"at least one positive width; got \(5, 0\)"),
        ({"mlp_hidden": 5}, "None for 'net'; got 5"),
        ({"kind": "net_mlp"}, "got None for 'net_mlp'"),
        ({"channels": ((4, 1),)}, "for 'conv_net_mlp' and for no other kind"),
        ({"kind": "conv_net_mlp", "mlp_hidden": 5}, "channels must be given"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(NET, **changes)


@CONFIGS
@pytest.mark.parametrize("p", [8.0, math.inf])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_compiles_without_a_graph_break(config, p, training):
    torch.compiler.reset()  # each p is compiled for: another one is not to be taken for a variable
    x = torch.rand(6, 2, 5, 5)
    results = []
    for compiled in (False, True):
        net = small(config).train(training)
        call = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        call(x, p).square().sum().backward()
        gradients = {name: value.grad for name, value in net.named_parameters()}
        results.append((gradients, net.state_dict()))
    torch.testing.assert_close(*results)
