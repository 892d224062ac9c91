"""Proposition A.2's maps, each a neuron; and what a wrong sign does to them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linfdist.ops import lp_dist
from linfdist.theory import units

BOUND = 5.0  # C: of all inputs, and of what is selected
values = st.integers(-64, 64).map(lambda n: n * BOUND / 64)  # exact in binary, so equality holds


def neuron(v: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return lp_dist(v, weight[None])[:, 0] + bias


@st.composite
def inputs(draw, least: int) -> torch.Tensor:
    n = draw(st.integers(least, 6))
    rows = draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=1, max_size=4))
    return torch.tensor(rows, dtype=torch.float64)


@given(inputs(1), st.data(), values)
def test_projection_and_negation(v, data, constant):
    j = data.draw(st.integers(0, v.shape[1] - 1))
    given_ = {"offset": 2 * BOUND, "constant": constant}
    assert torch.equal(neuron(v, *units.projection(v.shape[1], j, **given_)), v[:, j] + constant)
    assert torch.equal(neuron(v, *units.negation(v.shape[1], j, **given_)), -v[:, j] + constant)


@given(inputs(2), st.data(), values, st.sampled_from((1, -1)), st.floats(0, 1))
def test_maximum(v, data, constant, sign, share):
    j, k = data.draw(st.permutations(range(v.shape[1])))[:2]
    # Any shift that leaves every selected value within the bound.
    room = BOUND - v[:, j].abs().max().item()
    shift = round(share * room * 64) / 64
    weight, bias = units.maximum(
        v.shape[1], j, k, offset=2 * BOUND, sign=sign, shift=shift, constant=constant
    )
    want = torch.maximum(sign * v[:, j] + shift, v[:, k]) + constant
    assert torch.equal(neuron(v, weight, bias), want)


@given(inputs(1), st.data())
def test_one_neuron_takes_the_maximum_of_any_selection(v, data):
    n = v.shape[1]
    chosen = data.draw(st.lists(st.sampled_from((-1, 0, 1)), min_size=n, max_size=n))
    signs = torch.tensor(chosen, dtype=torch.float64)
    signs[data.draw(st.integers(0, n - 1))] = 1
    weight = units.selected(signs, torch.zeros_like(signs), 2 * BOUND)
    want = (signs * v)[:, signs != 0].amax(1)
    assert torch.equal(neuron(v, weight, torch.tensor(-2 * BOUND)), want)


def test_the_bound_is_needed():
    """At three times C, another input can reach the selected one: offset / 2 is no slack."""
    v = torch.tensor([[-BOUND, BOUND]], dtype=torch.float64)
    assert neuron(v, *units.projection(2, 0, offset=2 * BOUND)) == -BOUND
    assert neuron(v, *units.projection(2, 0, offset=1.9 * BOUND)) > -BOUND


@pytest.mark.parametrize("name", ["projection", "negation", "maximum"])
def test_a_wrong_sign_is_found(monkeypatch, name):
    right = units.selected
    monkeypatch.setattr(units, "selected", lambda s, shift, offset: -right(s, shift, offset))
    v = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    arguments = (2, 0, 1) if name == "maximum" else (2, 0)
    got = neuron(v, *getattr(units, name)(*arguments, offset=10.0))
    want = {"projection": 1.0, "negation": -1.0, "maximum": 1.0}[name]
    assert got != want


def test_errors():
    with pytest.raises(
        ValueError, match=r"projection: an input must be in 0 … in_features - 1 = 1; got 2"
    ):
        units.projection(2, 2, offset=1.0)
    with pytest.raises(ValueError, match=r"negation: offset must be positive.*got 0"):
        units.negation(2, 0, offset=0.0)
    with pytest.raises(ValueError, match=r"maximum: sign must be 1 or -1; got 2"):
        units.maximum(2, 0, 1, offset=1.0, sign=2)
    with pytest.raises(ValueError, match=r"maximum: j and k must be two inputs; got 1 twice"):
        units.maximum(2, 1, 1, offset=1.0)
