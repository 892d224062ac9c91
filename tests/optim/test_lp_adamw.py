"""The l_p decay by its formula, Adam by torch's, and the groups that decay differently."""

import math
import pickle
import warnings
from copy import deepcopy

import pytest
import torch
from torch.nn.utils import prune

from linfdist.nn import LpDist, LpDistConv2d, NetConfig, build_net
from linfdist.ops import native
from linfdist.optim import LpAdamW, lp_decay_, param_groups, set_p

pytestmark = pytest.mark.quick


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


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_every_p_from_1_on_is_taken(p):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = LpAdamW([weight], lr=0.1, p=p)
    set_p(optimizer, p)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert (weight < 1).all()


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


def test_the_head_decays_plainly_unless_nothing_decays():
    for decay, of_head in (("lp", "l2"), ("l2", "l2"), ("none", "none")):
        groups = param_groups(net_of("net_mlp"), decay)
        assert [group["decay"] for group in groups] == [decay, of_head]


def test_defaults_are_the_paper_s():
    (group,) = LpAdamW(parameters()).param_groups
    expected = {
        "lr": 0.02,
        "betas": (0.9, 0.99),
        "eps": 1e-10,
        "weight_decay": 0.005,
        "decay": "lp",
        "p": math.inf,
    }
    assert {name: group[name] for name in expected} == expected


def test_set_p_is_of_every_group():
    optimizer = LpAdamW([{"params": [param]} for param in parameters()])
    set_p(optimizer, 8.0)
    assert [group["p"] for group in optimizer.param_groups] == [8.0, 8.0]


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


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"decay": "L2"}, ValueError, "decay must be one of lp, l2, none; got 'L2'"),
        ({"lr": -1}, ValueError, "lr must be at least 0; got -1"),
        ({"lr": math.inf}, ValueError, "lr must be finite; got inf"),
        ({"lr": "0.1"}, TypeError, "lr must be a number; got str"),
        ({"lr": torch.tensor(0.1)}, TypeError, "lr must be a number; got Tensor"),
        ({"eps": -1e-9}, ValueError, "eps must be at least 0"),
        ({"weight_decay": None}, TypeError, "weight_decay must be a number; got NoneType"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas must be in \[0, 1\)"),
        ({"betas": (0.9,)}, TypeError, r"betas must be two numbers; got \(0.9,\)"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers; got 0.9"),
        ({"betas": ("a", 0.9)}, TypeError, "each of betas must be a number; got str"),
        ({"p": 0.5}, ValueError, r"p must be in \[1, inf\]; got 0.5"),
        ({"p": torch.tensor(8.0)}, TypeError, "p must be a number; got Tensor"),
    ],
)
@pytest.mark.parametrize("how", ["constructor", "group", "added", "set", "loaded"])
def test_a_setting_is_checked_however_it_comes(how, settings, error, message):
    params = parameters()
    with pytest.raises(error, match=message):
        if how == "constructor":
            LpAdamW(params, **settings)
        elif how == "group":
            LpAdamW([{"params": params, **settings}])
        elif how == "added":
            LpAdamW(params[:1]).add_param_group({"params": params[1:], **settings})
        elif how == "set":
            optimizer = LpAdamW(params)
            optimizer.param_groups[0].update(settings)
            steps(optimizer, params, n=1)
        else:
            optimizer = LpAdamW(params)
            state = deepcopy(optimizer.state_dict())
            state["param_groups"][0].update(settings)
            optimizer.load_state_dict(state)


def test_a_group_that_is_refused_is_not_added():
    params = parameters()
    optimizer = LpAdamW(params[:1])
    with pytest.raises(ValueError, match="decay must be"):
        optimizer.add_param_group({"params": params[1:], "decay": "l3"})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": params[1:], "decay": "l2"})
    assert [group["decay"] for group in optimizer.param_groups] == ["lp", "l2"]


def trained_state(shapes=((6, 5), (6,))):
    """The state of an optimizer after two steps, and new parameters that it fits."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = LpAdamW(params)
    steps(optimizer, params, n=2)
    return deepcopy(optimizer.state_dict()), [
        torch.nn.Parameter(p.detach().clone()) for p in params
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(6, 4)), r"exp_avg must have the shape"),
        (lambda s: s["state"][0].update(exp_avg_sq=torch.zeros(5, 6)), r"exp_avg_sq must have the"),
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(30)), r"\(6, 5\); got \(30,\)"),
        (lambda s: s["state"].update({0: s["state"][1], 1: s["state"][0]}), "must have the shape"),
        (
            lambda s: s["param_groups"][0].update(params=[1, 0]),
            r"in order, 0, 1, 2, …; got \[1, 0\]",
        ),
        (lambda s: s["param_groups"][0].update(params=[0, 0]), r"in order.*got \[0, 0\]"),
        (lambda s: s["param_groups"][0].update(params=[0]), r"for its 1 parameters.*\[1\]"),
        (lambda s: s["state"].update({7: s["state"][0]}), r"for its 2 parameters.*\[7\]"),
        (lambda s: s["state"][0].pop("exp_avg"), "must have exp_avg, exp_avg_sq, step; got"),
        (
            lambda s: s["state"][0].update(max_exp_avg_sq=torch.zeros(6, 5)),
            "must have exp_avg, exp",
        ),
        (lambda s: s["state"][0].update(step=torch.tensor(-1.0)), "step must be a tensor with"),
        (lambda s: s["state"][0].update(step=torch.tensor(0.0)), "step must be a tensor with"),
        (lambda s: s["state"][0].update(step=torch.tensor(2.5)), "step must be a tensor with"),
        (lambda s: s["state"][0].update(step=torch.tensor(math.nan)), "step must be a tensor with"),
        (lambda s: s["state"][0].update(step=torch.tensor(math.inf)), "step must be a tensor with"),
        (lambda s: s["state"][0].update(step=torch.ones(2)), "step must be a tensor with"),
        (lambda s: s["state"][0].update(step=None), "step must be a tensor with"),
        (lambda s: s["param_groups"][0].pop("decay"), "got one without decay"),
        (lambda s: s.pop("state"), "must have state and param_groups; got param_groups"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    state, params = trained_state()
    optimizer = LpAdamW(params, lr=0.5)
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.5


def test_moments_that_are_no_tensors_are_refused():
    state, params = trained_state()
    state["state"][0]["exp_avg"] = [0.0] * 30
    with pytest.raises(TypeError, match=r"exp_avg must be a tensor like its parameter.*got list"):
        LpAdamW(params).load_state_dict(state)


@pytest.mark.parametrize("native_too", [True, False])
@pytest.mark.parametrize(
    ("shape", "other"),
    [((48, 2), (48, 4096)), ((48, 4096), (48, 2)), ((5,), (7,)), ((2, 6), (6, 2))],
)
def test_exchanged_data_is_refused(monkeypatch, shape, other, native_too):
    if not native_too:
        monkeypatch.setattr(native, "runs_on", lambda device: False)
    param = torch.nn.Parameter(torch.zeros(shape))
    optimizer = LpAdamW([param])
    param.grad = torch.ones_like(param)
    optimizer.step()
    param.data = torch.zeros(other)
    with pytest.raises(ValueError, match=r"grad must have the shape of its parameter.*optimizer"):
        optimizer.step()
    param.grad = torch.ones(other)
    with pytest.raises(ValueError, match=r"exp_avg must have the shape.*make a new optimizer"):
        optimizer.step()
    assert not param.any()


@pytest.mark.parametrize("native_too", [True, False])
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            torch.zeros(6, 4),
            ValueError,
            r"must have the shape of its parameter, \(6, 5\); got \(6, 4",
        ),
        (torch.zeros(30), ValueError, r"must have the shape .* got \(30,\)"),
        (torch.zeros(1, 1), ValueError, "must have the shape"),
        (
            torch.zeros(6, 5).double(),
            TypeError,
            "like its parameter, torch.float32.*got torch.float64",
        ),
        (torch.zeros(6, 5).to_sparse(), TypeError, "got torch.float32, torch.sparse_coo"),
        (
            torch.zeros(6, 5, device="meta"),
            ValueError,
            "on the device of its parameter, cpu; got me",
        ),
        (None, TypeError, "got NoneType"),
    ],
)
def test_a_moment_that_was_replaced_is_refused(
    monkeypatch, name, value, error, message, native_too
):
    if not native_too:
        monkeypatch.setattr(native, "runs_on", lambda device: False)
    params = parameters()
    optimizer = LpAdamW(params)
    steps(optimizer, params, n=1)
    optimizer.state[params[0]][name] = value
    with pytest.raises(error, match=f"{name} {message}" if "must" in message else message):
        steps(optimizer, params, n=1)


def test_a_parameter_that_is_not_real_is_refused():
    param = torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.complex64))
    param.grad = torch.ones_like(param)
    with pytest.raises(TypeError, match=r"hold real numbers; got torch\.complex64"):
        LpAdamW([param]).step()


def test_a_copy_of_an_optimizer_goes_on_alike():
    state, params = trained_state()
    optimizer = LpAdamW(params)
    optimizer.load_state_dict(state)
    copy = pickle.loads(pickle.dumps(optimizer))
    copied = copy.param_groups[0]["params"]
    steps(optimizer, params, n=2)
    steps(copy, copied, n=2)
    assert all(map(torch.equal, params, copied))


def weight_norm(layer):
    return torch.nn.utils.parametrizations.weight_norm(layer)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer)


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def bias_parametrized(layer):
    torch.nn.utils.parametrize.register_parametrization(layer, "bias", torch.nn.Identity())
    return layer


@pytest.mark.parametrize("made", [weight_norm, old_weight_norm, pruned, bias_parametrized])
def test_a_dist_layer_whose_weight_is_made_of_others_is_refused(made):
    net = torch.nn.Sequential(LpDist(5, 4), made(LpDist(4, 3, bias=True)))
    part = "bias" if made is bias_parametrized else "weight"
    with pytest.raises(ValueError, match=f"{part} of 1 must be a parameter of its own"):
        param_groups(net)
    if made is not bias_parametrized:
        with pytest.raises(ValueError, match="weight of net must be a parameter of its own"):
            param_groups(made(LpDistConv2d(1, 2, 3)))


def test_set_p_refuses_what_is_no_norm():
    optimizer = LpAdamW(parameters())
    set_p(optimizer, 8)
    assert optimizer.param_groups[0]["p"] == 8
    for p in (0.99, math.nan):
        with pytest.raises(ValueError, match=f"got {p}"):
            set_p(optimizer, p)
