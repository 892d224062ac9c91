"""Arguments of the theory's public functions: every one refuses by name what it cannot take."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.arguments import functions_of, parameters_of, refusal, same
from torch import nn

from linfdist.theory import (
    addernet,
    approximation,
    generalization,
    max_of_pyramids,
    plots,
    relu,
    stretch,
    targets,
    units,
)
from linfdist.theory.max_of_pyramids import Box

MODULES = (
    *(addernet, approximation, generalization, max_of_pyramids, plots, relu),
    *(stretch, targets, units),
)
torch.manual_seed(0)
NET = stretch.counter_example((4, 3, 2), 2.0).net.float()
ADDER = addernet.adder_net((4, 3)).eval()
PIXELS, LABELS = torch.rand(6, 1, 1, 4), torch.tensor([0, 1, 0, 1, 1, 0])
BOX, POINTS = Box((0.0, 0.0), (1.0, 1.0)), torch.rand(5, 2).double()
WEIGHT = torch.rand(2, 3)


def distance(x):
    return (x - 0.5).abs().amax(1)


MARGINS = torch.linspace(-1, 1, 9)
ATTACKED = {"function": ADDER, "images": PIXELS, "labels": LABELS}
APPROXIMATED = {"shape": "deep", "layout": "centred", "offset": 8.0, "dtype": torch.float32}
# Functions by module and name, with arguments that they take.
CALLS = {
    "addernet.adder_net": {"widths": (4, 3)},
    "addernet.conventional_net": {"widths": (4, 3)},
    "addernet.train": {
        **{"net": nn.Linear(4, 3), "images": PIXELS.flatten(1), "labels": LABELS, "epochs": 1},
        **{"batch_size": 3, "lr": 0.1, "seed": 1},
    },
    "addernet.lipschitz_bound": {"net": ADDER, "norm": 1},
    "addernet.certified_radius": {"net": ADDER, "images": PIXELS, "labels": LABELS, "norm": 1},
    "addernet.attack": {**ATTACKED, "eps": 0.1, "norm": 1, "num_steps": 2},
    "addernet.survives_one_pixel": ATTACKED,
    "approximation.depth": {"d": 2, "num_pyramids": 3, "shape": "deep"},
    "approximation.num_weights": {"d": 2, "num_pyramids": 3, "shape": "deep"},
    "approximation.paper_bound": {"box": BOX, "values": MARGINS},
    "approximation.approximate": {"function": distance, "box": BOX, "eps": 0.5, **APPROXIMATED},
    "generalization.num_parameters": {"widths": (4, 3)},
    "generalization.num_forms": {"widths": (4, 3)},
    "generalization.num_cells": {"hyperplanes": 3, "dimension": 2},
    "generalization.log2_cells": {"log2_hyperplanes": 3.0, "dimension": 2},
    "generalization.log2_growth": {"widths": (4, 3), "n": 5},
    "generalization.vc_direct": {"widths": (4, 3)},
    "generalization.vc_relu": {"size": relu.relu_size((4, 3)), "sparse": True},
    "generalization.margin_error": {"net": NET, "images": PIXELS, "labels": LABELS, "r": 0.1},
    "generalization.rademacher_eq16": {"vc": 3.0, "n": 9.0},
    "generalization.paper_bound": {"margins": MARGINS, "r": 0.1, "vc": 3.0, "n": 9, "t": 1.0},
    "generalization.direct_size": {"widths": (4, 3), "n": 9},
    "generalization.direct_bound": {
        **{"margins": MARGINS, "r": 0.1, "widths": (4, 3), "n": 9, "t": 1.0},
    },
    "generalization.smallest_n": {"size_term": lambda n: 10 / n},
    "max_of_pyramids.paper_axes": {"box": BOX, "step": 0.5},
    "max_of_pyramids.centred_axes": {"box": BOX, "radius": 0.5},
    "max_of_pyramids.pyramids": {
        **{"function": distance, "box": BOX, "eps": 0.5, "layout": "paper", "quantum": 0.0},
        **{"samples": 9},
    },
    "max_of_pyramids.check_box": {"box": BOX, "caller": "check_box"},
    "max_of_pyramids.evaluate": {"function": distance, "points": POINTS},
    "max_of_pyramids.check_pairs": {"function": distance, "box": BOX, "n": 9, "seed": 1},
    "plots.draw_network": {
        **{"ax": None, "layers": [WEIGHT], "names": [["x"] * 3, ["y"] * 2], "offset": 1.0},
        **{"shifts": True},
    },
    "relu.relu_size": {"widths": (4, 3), "lean": False},
    "relu.linf_relu": {"weight": WEIGHT, "lean": False},
    "relu.to_relu": {"net": NET, "lean": False},
    "relu.relu_interval": {
        **{"net": relu.linf_relu(WEIGHT), "lower": torch.zeros(1, 3), "upper": torch.ones(1, 3)},
    },
    "relu.check_widths": {"widths": (4, 3), "caller": "check_widths"},
    "stretch.lipschitz_constant": {"widths": (4, 3), "p": 2.0, "norm": math.inf},
    "stretch.counter_example": {"widths": (4, 3, 2), "p": 2.0},
    "stretch.local_lipschitz": {"function": ADDER, "x": PIXELS, "norm": 1},
    "targets.distance_to": {"points": POINTS},
    "targets.affine": {"slope": torch.tensor([0.5, 0.5]), "constant": 0.0},
    "targets.maximum": {"functions": (distance,)},
    "targets.minimum": {"functions": (distance,)},
    "targets.clipped": {"function": distance, "low": 0.0, "high": 1.0},
    "targets.example": {"name": "islands", "d": 2},
    "units.selected": {"signs": WEIGHT, "shifts": WEIGHT, "offset": 1.0},
    "units.projection": {"in_features": 3, "j": 1, "offset": 1.0, "constant": 0.0},
    "units.negation": {"in_features": 3, "j": 1, "offset": 1.0, "constant": 0.0},
    "units.maximum": {
        **{"in_features": 3, "j": 1, "k": 2, "offset": 1.0, "sign": 1, "shift": 0.0},
        **{"constant": 0.0},
    },
}
ANY = {"lean", "sparse", "ax", "caller"}  # true or not; not this package's
FUNCTIONS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": function
    for module in MODULES
    for name, function in functions_of(module).items()
}


def call(key, **changes):
    given = {**CALLS[key], **changes}
    several = given.pop("functions", ())
    return FUNCTIONS[key](*several, **given)


def test_every_public_function_is_in_the_table():
    assert {*FUNCTIONS} == {*CALLS}
    for name, function in FUNCTIONS.items():
        assert {*parameters_of(function)} == {*CALLS[name]}, name


NO_NUMBERS = (None, "1", True, 1j, [1.0], Decimal("0.1"), torch.tensor([1.0, 1.0]))
NO_COUNTS = (None, "3", 3.0, True, -1, [3], math.nan, Fraction(3))
NOT_FINITE = (*NO_NUMBERS, math.nan, math.inf, -math.inf)
NOT_POSITIVE = (*NOT_FINITE, 0, -1.0)
NO_WIDTHS = (None, 784, "43", (4,), (), (4, 0), (4, -3), (4.0, 3), ("4", "3"), (4, True), {4: 3})
NO_TENSORS = (None, "x", 1.0, [1.0], LABELS, LABELS > 0, PIXELS.numpy(), PIXELS.to(torch.cfloat))
NO_FUNCTIONS = (None, "sin", 1.0, POINTS, [distance])
NO_LABELS = (
    *(None, LABELS.float(), LABELS > 0, LABELS.tolist(), LABELS[:2], LABELS[None], "1"),
    *(LABELS.numpy().astype(float), LABELS.to("meta")),
)
BAD = {
    "widths": NO_WIDTHS,
    "net": (None, "net", ADDER.forward, NET.features.layers[1].weight),
    "images": NO_TENSORS,
    "x": NO_TENSORS,
    "values": (*NO_TENSORS, MARGINS[:0]),
    "margins": (*NO_TENSORS, MARGINS[:0]),
    "points": (*NO_TENSORS, POINTS[0]),
    "slope": (*NO_TENSORS, POINTS, torch.ones(2)),
    "weight": (*NO_TENSORS, WEIGHT[0], WEIGHT[:0]),
    "lower": (*NO_TENSORS, torch.zeros(1, 2)),
    "upper": (*NO_TENSORS, torch.zeros(1, 2)),
    "signs": NO_TENSORS,
    "shifts": NO_TENSORS,
    "labels": NO_LABELS,
    "epochs": (*NO_COUNTS, 0),
    "batch_size": (*NO_COUNTS, 0, 1, 7),
    "seed": (*NO_COUNTS, 2**64),
    "lr": NOT_POSITIVE,
    "eps": NOT_POSITIVE,
    "step": NOT_POSITIVE,
    "radius": NOT_POSITIVE,
    "offset": NOT_POSITIVE,
    "vc": NOT_POSITIVE,
    "quantum": (*NOT_FINITE, -1.0),
    "samples": NO_COUNTS,
    "num_steps": (*NO_COUNTS, 0),
    "num_pyramids": (*NO_COUNTS, 0),
    "hyperplanes": NO_COUNTS,
    "dimension": NO_COUNTS,
    "log2_hyperplanes": NOT_FINITE,
    "d": (*NO_COUNTS, 0),
    "n": (*NO_COUNTS, 0),
    "in_features": (*NO_COUNTS, 0),
    "j": (*NO_COUNTS, 3),
    "k": (*NO_COUNTS, 3, 1),
    "sign": (None, "1", 0, 2, math.nan, torch.tensor([1, 1])),
    "shift": NOT_FINITE,
    "constant": NOT_FINITE,
    "r": NOT_FINITE[:-3],
    "t": NOT_FINITE,
    "low": (*NOT_FINITE, 2.0),
    "high": (*NOT_FINITE, -1.0),
    "norm": (None, "inf", 0.5, 3, -math.inf, math.nan, torch.tensor([1.0, 1.0])),
    "p": (*NO_NUMBERS, 0.5, math.nan, -math.inf),
    "box": (None, (0, 1), POINTS, "box", Box),
    "function": NO_FUNCTIONS,
    "functions": ((), (None,), (distance, "sin")),
    "size_term": NO_FUNCTIONS,
    "size": (None, (4, 3), "deep", relu.ReLUSize),
    "shape": (None, "tall", 3, ["deep"]),
    "layout": (None, "hex", 3, ["paper"]),
    "dtype": (None, "float32", torch.float16, torch.int64, float),
    "layers": (None, WEIGHT, [], [None], [WEIGHT.tolist()], "layers", [WEIGHT[0]]),
    "names": (None, [], [["x"]], 3, [3, 2]),
    "name": (None, "island", 3, ["islands"]),
}
# Of other things than their names say; or with values that the parameter has here and not there.
ONLY = {
    "addernet.attack.eps": (*NOT_FINITE, -1.0),
    "approximation.approximate.offset": NOT_POSITIVE[1:],  # None is the default
    "generalization.log2_cells.dimension": (*NO_COUNTS, 0),
    "generalization.rademacher_eq16.n": NOT_POSITIVE,
    "generalization.margin_error.r": (*NO_NUMBERS[:-1], -0.1, math.nan, LABELS, -MARGINS),
    "max_of_pyramids.check_pairs.n": NO_COUNTS,
    "stretch.lipschitz_constant.norm": (*NO_NUMBERS, 1.5, math.nan),
    "units.selected.offset": NOT_FINITE,
    "plots.draw_network.shifts": (),
}
# Whose arguments are the second's.
INSIDE = {
    "generalization.margin_error": ("margin_radius: ",),
    "targets.example": ("Unknown function",),
    "approximation.approximate": ("pyramids: layout",),
    "max_of_pyramids.check_pairs": ("Box.points",),
}
WALK = [
    (name, parameter)
    for name, given in CALLS.items()
    for parameter in given
    if parameter not in ANY
]


@pytest.mark.parametrize(("name", "parameter"), WALK, ids=map(".".join, WALK))
def test_what_an_argument_must_not_be_is_refused_by_the_callers_name(name, parameter):
    prefix = (f"{name.rpartition('.')[2]}: ", *INSIDE.get(name, ()))
    wrong = {}
    for index, bad in enumerate(ONLY.get(f"{name}.{parameter}", BAD.get(parameter))):
        found = refusal(lambda bad=bad: call(name, **{parameter: bad}), prefix)
        if found is not None:
            wrong[f"{index}: {type(bad).__name__} {str(bad)[:40]}"] = found
    assert not wrong


def test_every_call_of_the_table_is_taken():
    """So that what is refused is refused for what was changed."""
    for name in {*CALLS} - {"plots.draw_network"}:
        call(name)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["addernet.attack", "stretch.local_lipschitz"])
def test_what_takes_gradients_takes_them_in_every_mode(name, mode):
    expected = call(name)
    with mode():
        assert same(call(name), expected)


def test_labels_of_any_integers_are_taken():
    names = [name for name, given in CALLS.items() if "labels" in given and "train" not in name]
    assert len(names) == 4
    for name in names:
        expected = call(name)
        for labels in (LABELS.int(), LABELS.byte(), LABELS.numpy(), LABELS.numpy().astype("u2")):
            assert same(call(name, labels=labels), expected)


def test_bad_boxes_are_refused_by_name():
    for lower in (None, 0.0, "0", [None, 0.0], ["0", "0"], [True, False], [0j, 0j], {0.0, 0.5}):
        with pytest.raises(TypeError, match="Box: "):
            Box(lower, (1.0, 1.0))
    assert Box(torch.zeros(2), np.ones(2)) == Box((0.0, 0.0), (1.0, 1.0)) == Box([0, 0], [1, 1])
    for bad in NO_COUNTS:
        for call_ in (Box.unit, BOX.points, BOX.grid):
            with pytest.raises((TypeError, ValueError), match=r"Box\.\w+: \w+ must be"):
                call_(bad)
    for generator in (0, "cpu", np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"Box\.points: generator must be"):
            BOX.points(3, generator)


def test_points_of_another_dimension_are_refused_by_the_network():
    net = call("approximation.approximate")
    for x in (POINTS[:, :1], POINTS[0], None, POINTS.tolist(), POINTS.long()):
        with pytest.raises((TypeError, ValueError), match="Approximation: x must"):
            net(x)


def test_a_function_that_gives_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"function: must map a tensor \(n, d\) to a tensor"):
        max_of_pyramids.pyramids(lambda x: 1.0, BOX, 0.5)


def test_adder_layers_have_whole_widths():
    for bad in NO_COUNTS:
        with pytest.raises((TypeError, ValueError), match="AdderLinear: in_features must be"):
            addernet.AdderLinear(bad, 3)
