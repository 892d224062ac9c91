"""Arguments of the constructors of networks, and labels of their bounds."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import small_baselines
from helpers.arguments import parameters_of, refusal, same

from linfdist import baselines
from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.data import DatasetInfo, ImageSet
from linfdist.nn import (
    BoundedLinear,
    LogSumExp,
    LpDist,
    MeanShift,
    NetConfig,
    build_net,
    flop_count,
    reestimate_mean_shift,
)
from linfdist.robust import sound

MEAN, STD = (0.25, 0.5), 0.25
NET = NetConfig(kind="net", hidden=(5,))
CAP = BaselineConfig(kind="cap", width=1 / 8)
GIVEN = {"input_shape": (2, 8, 8), "num_classes": 4, "mean": MEAN, "std": STD}
INFO = {**GIVEN, "name": "noise", "title": "Noise", "eps": Fraction(1, 10)}
IMAGES, LABELS = torch.zeros(6, 2, 8, 8, dtype=torch.uint8), torch.arange(6) % 4
CALLS = {
    "build_net": (build_net, {"config": NET, **GIVEN}),
    "build_baseline": (build_baseline, {"config": CAP, **GIVEN}),
    "DatasetInfo": (DatasetInfo, INFO),
    "ImageSet": (
        ImageSet,
        {"images": IMAGES, "labels": LABELS, "info": DatasetInfo(**INFO), "validation": False},
    ),
    "LpDist": (LpDist, {"in_features": 3, "out_features": 2, "identity_value": -10.0}),
    "BoundedLinear": (BoundedLinear, {"in_features": 3, "out_features": 2}),
    "MeanShift": (MeanShift, {"num_features": 3, "momentum": 0.1}),
    "LogSumExp": (LogSumExp, {"t": 3.0}),
}
NO_WIDTHS = (None, "3", 3.0, True, 0, -1, [3], (3,), math.nan, Fraction(3), np.float64(3))
NO_NUMBERS = (None, "1", True, 1j, (1.0,), Decimal("0.1"), math.nan, math.inf)
BAD = {
    "config": (None, "net", CAP.kind, NET.hidden, {}),
    "input_shape": (
        *(None, 784, "abc", (784,), (2, 8), (2, 8, 8, 1), (2, 8, 0), (2, -8, 8), (2.0, 8, 8)),
        *((2, 8, "8"), (True, 8, 8), torch.tensor(2), {2: 8}),
    ),
    "num_classes": (None, "10", 10.0, True, 1, 0, -3, [4], math.nan, np.float64(4)),
    "mean": (
        *(None, 0.5, "ab", (0.5,), (0.5, 0.5, 0.5), (0.5, None), (0.5, "0.5"), (0.5, True)),
        *((0.5, math.nan), (math.inf, 0.5), np.array(0.5), torch.rand(2, 1, 1), np.zeros((2, 1))),
        *((0.5, 1j), torch.tensor(0.5), {0.5, 0.25}),
    ),
    "std": (
        *(*NO_NUMBERS, (0.25, 0.25), [0.25], np.array([0.25]), torch.tensor([0.25, 0.25])),
        *(0, 0.0, -0.25, -math.inf, np.float64(math.nan)),
    ),
    "eps": (*NO_NUMBERS, -0.1, 8, Fraction(8), 1.5),
    "images": (None, IMAGES.numpy(), IMAGES.float(), IMAGES[0], IMAGES.long(), [IMAGES]),
    "labels": (
        None,
        LABELS.numpy(),
        LABELS.tolist(),
        LABELS.float(),
        LABELS[:2],
        LABELS.to("meta"),
    ),
    "validation": (None, 0, 1, "False", np.True_),
    "info": (None, "noise", INFO),
    "in_features": NO_WIDTHS,
    "out_features": NO_WIDTHS,
    "num_features": NO_WIDTHS,
    "identity_value": (*NO_NUMBERS[1:], [-10.0]),
    "momentum": (*NO_NUMBERS, -0.1, 1.1),
    "t": (*NO_NUMBERS, 0, -1.0),
}
FREE = {"name", "title", "bias", "device", "dtype", "sync", "matched"}
WALK = [(name, parameter) for name in CALLS for parameter in CALLS[name][1] if parameter in BAD]


def call(name, **changes):
    function, given = CALLS[name]
    torch.manual_seed(0)
    return function(**{**given, **changes})


def test_every_parameter_is_in_the_table():
    for name, (function, given) in CALLS.items():
        assert {*parameters_of(function)} - FREE == {*given} - FREE, name
        assert {*given} - FREE <= {*BAD}, name


@pytest.mark.parametrize(("name", "parameter"), WALK, ids=map(".".join, WALK))
def test_what_an_argument_must_not_be_is_refused_by_name(name, parameter):
    wrong = {}
    for index, bad in enumerate(BAD[parameter]):
        found = refusal(lambda bad=bad: call(name, **{parameter: bad}), f"{name}: ")
        if found is not None:
            wrong[f"{index}: {bad!r}"] = found
    assert not wrong


@pytest.mark.parametrize("build", ["build_net", "build_baseline"])
def test_numbers_of_numpy_and_tensors_build_the_same_network(build):
    expected = call(build).state_dict()
    buffers = [value for _, value in call(build).named_buffers()]
    for changes in (
        {"mean": np.array(MEAN)},
        {"mean": np.array(MEAN, dtype=np.float32)},
        {"mean": tuple(np.array(MEAN))},
        {"mean": torch.tensor(MEAN)},
        {"mean": torch.tensor(MEAN).double()},
        {"mean": [*MEAN]},
        {"mean": [Fraction(1, 4), Fraction(1, 2)]},
        {"std": np.float64(STD)},
        {"std": np.float32(STD)},
        {"std": torch.tensor(STD)},
        {"std": Fraction(1, 4)},
        {"num_classes": np.int64(4)},
        {"input_shape": [2, 8, 8]},
        {"input_shape": torch.Size((2, 8, 8))},
        {"input_shape": tuple(np.array((2, 8, 8)))},
    ):
        net = call(build, **changes)
        assert same(net.state_dict(), expected)
        assert same([value for _, value in net.named_buffers()], buffers)
        assert net(torch.zeros(2, 2, 8, 8)).dtype == torch.float32
        assert net.input_shape == (2, 8, 8) and type(net.num_classes) is int


def test_a_whole_mean_is_one_of_floats():
    net = build_net(NET, input_shape=(2, 8, 8), num_classes=4, mean=(0, 1), std=1)
    assert net.features.normalize.mean.dtype == torch.float32
    assert call("DatasetInfo", mean=[0, 1], std=1).mean == (0.0, 1.0)


def test_a_data_set_of_numpys_numbers_is_equal_to_one_of_pythons():
    info = call(
        "DatasetInfo", mean=tuple(np.array(MEAN)), std=np.float64(STD), num_classes=np.int64(4)
    )
    assert info == DatasetInfo(**INFO)
    kinds = [type(value) for value in (*info.mean, info.std, info.num_classes)]
    assert kinds == [float, float, float, int]


def test_operations_are_counted_for_a_shape():
    net = call("build_net")
    assert flop_count(net) == flop_count(net, None) == flop_count(net, net.input_shape) > 0
    for bad in BAD["input_shape"]:
        if bad is not None:
            with pytest.raises((TypeError, ValueError), match=r"flop_count: .*input_shape must"):
                flop_count(net, bad)


def test_batches_that_are_no_tensors_are_refused():
    net = call("build_net")
    for batches in (torch.rand(4, 2, 8, 8), None, 3):
        with pytest.raises(
            TypeError, match="reestimate_mean_shift: batches must be an iterable of"
        ):
            reestimate_mean_shift(net, batches)
    with torch.inference_mode():
        other = call("build_net")
        reestimate_mean_shift(other, [torch.rand(4, 2, 8, 8)])
    with pytest.raises(ValueError, match="reestimate_mean_shift: net must not hold inference te"):
        reestimate_mean_shift(other, [torch.rand(4, 2, 8, 8)])
    with pytest.raises(TypeError, match="reestimate_mean_shift: net must be a network"):
        reestimate_mean_shift(None, [torch.rand(4, 2, 8, 8)])


def test_a_network_without_p_refuses_minus_infinity():
    net = call("build_baseline").eval()
    for p in (-math.inf, "inf", None, torch.tensor(math.inf)):
        with pytest.raises(ValueError, match="net: p must be inf"):
            net(torch.rand(1, 2, 8, 8), p)


def test_pixels_that_are_no_tensor_are_refused():
    for net in (call("build_net"), call("build_baseline")):
        with pytest.raises(TypeError, match=r"net: pixels must be floating point.*array of shape"):
            net(np.zeros((1, 2, 8, 8)))


# --- labels of bounds ---------------------------------------------------------------------------


def bounds():
    """Every function of networks and of the compared methods that takes labels."""
    lower = torch.zeros(6, 2, 8, 8)
    torch.manual_seed(0)
    dist = build_net(
        NetConfig(kind="net_mlp", hidden=(5,), mlp_hidden=4), **{**GIVEN, "num_classes": 4}
    )
    net, width = call("build_net"), torch.rand(6, 5)
    for own in (net, dist):
        yield lambda labels, own=own: own.worst_case_margins_on_box(lower, lower + 0.01, labels)
        yield lambda labels, own=own: sound.sound_margins_on_box(own, lower, lower + 0.01, labels)
    yield lambda labels: dist.worst_case_margins(width, width + 0.01, labels)
    yield lambda labels: dist.logits_and_ball_margins(width, 0.1, labels)
    yield lambda labels: dist.fc2.worst_case_margins(width[:, :4], width[:, :4] + 1, labels)
    for kind in small_baselines.WIDTHS:
        other = small_baselines.small(kind).float().eval()
        yield lambda labels, own=other: own.worst_case_margins_on_box(lower, lower + 0.01, labels)
    cap = small_baselines.small("cap").float().eval()
    trace = cap.trace(lower, lower + 0.01)
    yield lambda labels: cap.margins(trace, labels, 0.5)
    yield lambda labels: cap.loss_bound(trace, labels)
    yield lambda labels: baselines.margin_bounds(cap.last, trace.lower, trace.upper, labels)
    yield lambda labels: baselines.latent_attack(
        cap.features, cap.last, 1, lower, lower + 0.01, labels, steps=1, step_size=0.1
    )
    pvt = small_baselines.small("pvt").float().eval()
    passed = pvt.trace(lower, lower + 0.01)
    yield lambda labels: pvt.proven_margins(passed, labels)


@pytest.mark.parametrize("index", range(len([*bounds()])))
def test_bounds_take_the_labels_that_certificates_take(index):
    bound = [*bounds()][index]
    expected = bound(LABELS)
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert same(bound(LABELS.to(kind)), expected)
    assert same(bound(LABELS.numpy().astype(np.uint8)), expected)
    for wrong in (LABELS.float(), LABELS == 1, LABELS.tolist(), LABELS.numpy().astype(float)):
        with pytest.raises(TypeError, match=r"\w: labels must be"):
            bound(wrong)
