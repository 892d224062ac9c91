"""The l_p decay by its formula, Adam by torch's, and the groups that decay differently."""

import math
from copy import deepcopy

import pytest
import torch

from linfdist.nn import LpDistConv2d, NetConfig, build_net
from linfdist.optim import LpAdamW, lp_decay_, param_groups, set_p


def decayed(weight, p, rate=0.25):
    result = weight.clone()
    lp_decay_(result, p, rate)
    return result


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.7, 8.0, 60.0])
def test_decay_is_equation_6_row_by_row(p):
    weight = torch.randn(5, 7, dtype=torch.float64)
    weight[0, 3] = 0
    rows = []
    for row in weight:
        norm = torch.linalg.vector_norm(row, p)
        factor = (row.abs() / norm) ** (p - 2)
        rows.append(row - 0.25 * torch.where(row == 0, row, factor * row))
    torch.testing.assert_close(decayed(weight, p), torch.stack(rows))


def test_decay_at_2_is_plain():
    weight = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(decayed(weight, 2.0), 0.75 * weight)


def test_decay_is_the_gradient_of_half_the_squared_norm():
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    norm = torch.linalg.vector_norm(weight, 5.0, dim=1)
    (gradient,) = torch.autograd.grad((norm**2 / 2).sum(), weight)
    torch.testing.assert_close(decayed(weight.detach(), 5.0), weight.detach() - 0.25 * gradient)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("p", [1.0, 1000.0, math.inf])
def test_decay_is_finite_at_any_p_and_scale(p, scale):
    weight = torch.randn(20, 50) * scale
    weight[:, 0] = 0
    weight[7] = 0
    result = decayed(weight, p)
    assert result.isfinite().all()
    assert torch.equal(result[7], torch.zeros(50)) and torch.equal(result[:, 0], weight[:, 0])
    assert (result.abs() <= weight.abs()).all() or p == 1


def test_decay_at_1000_is_that_of_float64():
    weight = torch.randn(20, 50)
    weight[:, 4] = weight[:, 9] * 1.0005  # close rivals, where the power matters
    expected = decayed(weight.double(), 1000.0)
    torch.testing.assert_close(decayed(weight, 1000.0).double(), expected, atol=2e-5, rtol=1e-4)


def test_decay_at_infinity_touches_the_largest_entry_alone_and_the_first_at_a_tie():
    weight = torch.tensor([[1.0, -4.0, 2.0], [3.0, -3.0, 3.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.0, -3.0, 2.0], [2.25, -3.0, 3.0], [0.0, 0.0, 0.0]])
    assert torch.equal(decayed(weight, math.inf), expected)


def test_decay_at_1000_is_close_to_that_at_infinity():
    weight = torch.randn(20, 50, dtype=torch.float64)
    top = weight.abs().topk(2, 1).values
    clear = top[:, 1] < 0.97 * top[:, 0]
    torch.testing.assert_close(decayed(weight, 1000.0)[clear], decayed(weight, math.inf)[clear])


@pytest.mark.parametrize("p", [3.0, math.inf])
def test_a_convolution_s_row_is_its_whole_kernel(p):
    weight = torch.randn(4, 3, 2, 2)
    assert torch.equal(decayed(weight, p), decayed(weight.flatten(1), p).view_as(weight))


@pytest.mark.parametrize("p", [3.0, math.inf])
def test_a_weight_decays_equally_whatever_its_strides(p):
    weight = torch.randn(4, 3, 2, 2)
    channels_last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(decayed(channels_last, p), decayed(weight, p))
    assert decayed(channels_last, p).is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(decayed(channels_last, p), weight)
    matrix = weight.flatten(1)
    assert torch.equal(decayed(matrix.t().contiguous().t(), p), decayed(matrix, p))


def test_a_channels_last_convolution_is_trained_alike():
    weight = torch.randn(4, 3, 2, 2)
    params = [
        torch.nn.Parameter(weight.clone(memory_format=layout))
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    for param in params:
        optimizer = LpAdamW([param], weight_decay=0.5, p=3.0)
        for _ in range(3):
            optimizer.zero_grad()
            (param**2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(*params)


@pytest.mark.parametrize("p", [3.0, math.inf])
def test_a_bias_is_rows_of_one_entry(p):
    bias = torch.tensor([1.0, -2.0, 0.0])
    assert torch.equal(decayed(bias, p), 0.75 * bias)
    torch.testing.assert_close(decayed(bias[:, None], p)[:, 0], 0.75 * bias)


@pytest.mark.parametrize("p", [3.0, math.inf])
def test_decay_of_an_empty_tensor(p):
    assert decayed(torch.empty(0, 3), p).shape == (0, 3)


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(6, 5)), torch.nn.Parameter(torch.randn(6))]


def steps(optimizer, params, n=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()


def test_without_decay_it_is_adam():
    ours, theirs = parameters(), parameters()
    steps(LpAdamW(ours, decay="none"), ours)
    adam = torch.optim.Adam(theirs, lr=0.02, betas=(0.9, 0.99), eps=1e-10, fused=True)
    steps(adam, theirs)
    torch.testing.assert_close(ours, theirs, rtol=5e-7, atol=1e-7)


def test_with_l2_decay_it_is_adamw():
    ours, theirs = parameters(), parameters()
    steps(LpAdamW(ours, decay="l2", weight_decay=0.1), ours)
    adamw = torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.99), eps=1e-10, weight_decay=0.1)
    steps(adamw, theirs)
    torch.testing.assert_close(ours, theirs)


def test_lp_decay_comes_before_the_adam_step_times_lr():
    ours, theirs = parameters(), parameters()
    optimizer = LpAdamW(ours, lr=0.5, weight_decay=0.1)
    set_p(optimizer, 4.0)
    steps(optimizer, ours, n=1)
    for param in theirs:
        lp_decay_(param.data, 4.0, 0.05)
    steps(LpAdamW(theirs, lr=0.5, decay="none"), theirs, n=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_parameter_without_gradient_is_left_alone():
    params = parameters()
    before = params[1].detach().clone()
    optimizer = LpAdamW(params)
    params[0].grad = torch.ones_like(params[0])
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    assert torch.equal(params[1], before)


def test_state_survives_its_dictionary_exactly():
    whole, halves = parameters(), parameters()
    steps(LpAdamW(whole), whole, n=2)
    first = LpAdamW(halves)
    steps(first, halves, n=2)
    one, other = LpAdamW(whole), LpAdamW(halves)
    for optimizer in (one, other):
        optimizer.load_state_dict(deepcopy(first.state_dict()))
    for params, optimizer in ((whole, one), (halves, other)):
        steps(optimizer, params, n=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))
    assert one.state[whole[0]]["step"].item() == 5


def net_of(kind):
    mlp = None if kind == "net" else 6
    channels = ((3, 1),) if kind == "conv_net_mlp" else ()
    config = NetConfig(kind=kind, hidden=(5, 5), mlp_hidden=mlp, channels=channels)
    return build_net(config, input_shape=(1, 3, 3), num_classes=3, mean=(0.5,), std=1.0)


@pytest.mark.parametrize("kind", ["net", "net_mlp", "conv_net_mlp"])
def test_groups_hold_every_parameter_once(kind):
    net = net_of(kind)
    groups = param_groups(net)
    grouped = [param for group in groups for param in group["params"]]
    assert {id(param) for param in grouped} == {id(param) for param in net.parameters()}
    assert len(grouped) == len(list(net.parameters()))
    assert [group["decay"] for group in groups] == ["lp", "l2"][: len(groups)]
    assert [group["decay"] for group in param_groups(net, "none")] == ["none"] * len(groups)
    names = {id(param): name for name, param in net.named_parameters()}
    head = [names[id(param)] for group in groups[1:] for param in group["params"]]
    assert head == ([] if kind == "net" else ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"])


def test_a_convolution_is_trained_with_lp_decay():
    layer = LpDistConv2d(1, 2, 3)
    assert param_groups(torch.nn.Sequential(layer))[0]["params"] == [layer.weight]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": "l3"}, "decay must be one of lp, l2, none; got 'l3'"),
        ({"lr": -1.0}, "lr must be at least 0; got -1.0"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0; got nan"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\); got \(0.9, 1.0\)"),
        ({"p": 0.5}, r"p must be in \[1, inf\]; got 0.5"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        LpAdamW(parameters(), **settings)


def test_set_p_refuses_what_is_no_norm():
    optimizer = LpAdamW(parameters())
    set_p(optimizer, 8)
    assert optimizer.param_groups[0]["p"] == 8
    for p in (0.99, math.nan):
        with pytest.raises(ValueError, match=f"got {p}"):
            set_p(optimizer, p)
