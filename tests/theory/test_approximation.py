"""Theorem 4.1: the networks, their error, size and rounding; planted faults are found."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from theory.lipschitz_functions import boxes, check, check_lipschitz, functions, points_of

from linfdist.nn import LinfDistNet
from linfdist.robust import interval_certified, margin_radius
from linfdist.theory import approximation, targets
from linfdist.theory import max_of_pyramids as grid
from linfdist.theory.approximation import SHAPES, approximate, paper_bound
from linfdist.theory.max_of_pyramids import Box

EPS = {1: (0.3, 0.02), 2: (0.5, 0.2), 3: (0.6,), 4: (1.0,)}
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("d", EPS)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_theorem(d, data):
    """Every shape, layout and precision: within eps on the box, and 1-Lipschitz everywhere."""
    box, function = data.draw(boxes(d)), data.draw(functions(d))
    eps = data.draw(st.sampled_from(EPS[d]))
    shape, layout = (
        data.draw(st.sampled_from(SHAPES)),
        data.draw(st.sampled_from(("paper", "centred"))),
    )
    net = approximate(
        function, box, eps, shape=shape, layout=layout, dtype=data.draw(st.sampled_from(DTYPES))
    )
    check(function, net, eps)
    check_lipschitz(net)
    assert isinstance(net.net, LinfDistNet)
    if shape != "wide":
        assert net.width == d + 2 and set(net.net.config.hidden) == {d + 2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_computes_its_pyramids(shape, dtype):
    function = targets.example("islands", 2)
    net = approximate(function, Box.unit(2), 0.1, shape=shape, dtype=dtype)
    x = points_of(Box.unit(2), net.pyramids.points)
    assert (net(x) - net.pyramids(x)).abs().max() <= net.rounding
    assert net.rounding <= 20 * torch.finfo(dtype).eps
    logits = net.net(x.to(dtype)[:, None, None])
    assert torch.equal(logits[:, 0], -logits[:, 1]) and torch.equal(logits[:, 1], net(x))


def test_after_the_first_layer_float32_is_exact():
    """On inputs of the lattice, float32 computes what float64 does, bit by bit, layers deep."""
    function, box = targets.example("ripples", 2), Box.unit(2)
    single = approximate(function, box, 0.05, dtype=torch.float32)
    quantum = single.offset * torch.finfo(torch.float32).eps
    x = (box.points(500) / quantum).round() * quantum
    double = single.net.double()(x[:, None, None])[:, 1]
    net = approximate(function, box, 0.05, dtype=torch.float32)
    assert single.depth > 200 and torch.equal(net(x).double(), double.float().double())


def test_the_paper_s_constant_is_enough():
    """C = 2 C_1 + C_2, unrounded; a tenth of it is not."""
    function, box = targets.example("islands", 2), Box((-2.0, 1.0), (-1.0, 2.0))
    values = grid.pyramids(function, box, 0.2).values
    constant = paper_bound(box, values)
    assert constant >= 2 * 2 and constant == pytest.approx(4 + values.abs().max().item())
    given_ = {"shape": "paper", "layout": "paper", "dtype": torch.float64}
    check(function, approximate(function, box, 0.2, offset=2 * constant, **given_), 0.2)
    with pytest.raises(AssertionError):
        check(function, approximate(function, box, 0.2, offset=0.2 * constant, **given_), 0.2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_size_is_as_the_formula_says(d, shape):
    net = approximate(targets.affine(torch.zeros(d)), Box.unit(d), 0.5, shape=shape, layout="paper")
    m = 5**d
    assert len(net.pyramids) == m
    assert net.depth == approximation.depth(d, m, shape)
    assert net.depth == {"paper": 2 * d * m + 3, "deep": 2 * m + 3, "wide": 3}[shape]
    assert net.num_weights == approximation.num_weights(d, m, shape)
    assert net.width == (m if shape == "wide" else d + 2)


def test_one_pyramid():
    for shape in SHAPES:
        net = approximate(
            targets.affine(torch.tensor([0.5, -0.5]), 7.0), Box.unit(2), 0.6, shape=shape
        )
        assert len(net.pyramids) == 1
        check(targets.affine(torch.tensor([0.5, -0.5]), 7.0), net, 0.6)


@pytest.mark.parametrize("shape", SHAPES)
def test_large_values_are_within_eps_too(shape):
    """Where float32's numbers are 1e-3 apart: rounding has its share of eps, and no more."""
    function = targets.affine(torch.tensor([0.5, -0.5]), 12345.678)
    net = approximate(function, Box.unit(2), 0.05, shape=shape)
    check(function, net, 0.05)
    x = points_of(Box.unit(2), net.pyramids.points)
    assert (net(x).double() - net.pyramids(x)).abs().max() <= net.rounding < 0.005


def test_its_certificates():
    """g is within eps of the signed distance, so the certified radius is the true one up to eps."""
    function, eps = targets.example("lemniscate", 2), 0.05
    net = approximate(function, Box.unit(2), eps)
    x = Box.unit(2).points(400).float()
    images, labels = x[:, None, None], (function(x.double()) > 0).long()
    radius = margin_radius(net.net, images, labels)
    right = (net(x) > 0) == (labels == 1)
    assert torch.allclose(radius[right], net(x).double().abs()[right], atol=1e-6)
    assert (radius[right] - function(x.double()).abs()[right]).abs().max() <= eps + 1e-6
    assert interval_certified(net.net, images, labels, 0.01)[radius > 0.02].all()


def test_it_leaves_torch_s_generator_alone():
    before = torch.random.get_rng_state()
    approximate(targets.example("islands", 2), Box.unit(2), 0.3)
    assert torch.equal(before, torch.random.get_rng_state())


# --- planted faults ---------------------------------------------------------------------------


def found(eps: float = 0.1, **given_) -> None:
    """The check of the theorem fails for a function that has every slope."""
    function = targets.example("islands", 2)
    with pytest.raises(AssertionError):
        check(function, approximate(function, Box.unit(2), eps, **given_), eps)


@pytest.mark.parametrize("shape", ["deep", "paper"])
@pytest.mark.parametrize("piece", [0, 1])
def test_a_wrong_sign_of_a_piece_is_found(monkeypatch, shape, piece):
    pieces = approximation._pieces

    def mutated(d: int, shape: str) -> torch.Tensor:
        signs = pieces(d, shape)
        signs[piece] *= -1
        return signs

    monkeypatch.setattr(approximation, "_pieces", mutated)
    found(shape=shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fault", ["sign", "shift"])
def test_a_wrong_map_is_found(monkeypatch, shape, fault):
    right = approximation.selected
    wrong = {
        "sign": lambda signs, shifts, offset: signs * (offset + shifts),
        "shift": lambda signs, shifts, offset: right(signs, -shifts, offset),
    }[fault]
    monkeypatch.setattr(approximation, "selected", wrong)
    if shape == "wide" and fault == "shift":  # it has no shifts
        check(
            targets.example("islands", 2),
            approximate(targets.example("islands", 2), Box.unit(2), 0.1, shape="wide"),
            0.1,
        )
    else:
        found(shape=shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["paper", "centred"])
def test_a_grid_spaced_too_wide_is_found(monkeypatch, shape, layout):
    axes = getattr(grid, f"{layout}_axes")
    monkeypatch.setattr(grid, f"{layout}_axes", lambda box, size: axes(box, 3 * size))
    points = grid.pyramids(targets.affine(torch.zeros(2)), Box.unit(2), 0.2, layout=layout).points
    worst = targets.distance_to(points)
    with pytest.raises(AssertionError, match=r"above 0\.2"):
        check(worst, approximate(worst, Box.unit(2), 0.2, shape=shape, layout=layout), 0.2)


def test_a_lost_pyramid_is_found(monkeypatch):
    deep = approximation._deep_layers
    monkeypatch.setattr(
        approximation,
        "_deep_layers",
        lambda c, points, heights, *rest: deep(c, points[:-1], heights[:-1], *rest),
    )
    found()


# --- errors -----------------------------------------------------------------------------------


def test_errors():
    flat = targets.affine(torch.zeros(1))
    with pytest.raises(ValueError, match=r"shape must be one of deep, paper, wide; got 'tall'"):
        approximate(flat, Box.unit(1), 0.1, shape="tall")
    with pytest.raises(ValueError, match=r"depth: shape must be one of"):
        approximation.depth(1, 1, "tall")
    with pytest.raises(ValueError, match=r"eps must be above .*torch.float32.*dtype=torch.float64"):
        approximate(flat, Box.unit(1), 1e-7)
    far = Box((1e6,), (1e6 + 1,))
    with pytest.raises(ValueError, match=r"dtype=torch.float64"):
        approximate(flat, far, 0.05)
    check(flat, approximate(flat, far, 0.05, dtype=torch.float64), 0.05)
    with pytest.raises(grid.NotLipschitz):
        approximate(lambda x: 2 * x[:, 0], Box.unit(1), 0.1)
