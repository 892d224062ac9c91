"""Lemma A.1: the maximum of pyramids, from below, within eps; and functions that are too steep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from theory.lipschitz_functions import ROUNDING, boxes, functions, points_of

from linfdist.theory import max_of_pyramids, targets
from linfdist.theory.max_of_pyramids import Box, NotLipschitz, pyramids

EPS = {1: (0.3, 0.07, 0.01), 2: (0.5, 0.2, 0.08), 3: (0.6, 0.3), 4: (1.0, 0.6)}


@pytest.mark.parametrize("d", EPS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_lemma(d, data):
    box, function = data.draw(boxes(d)), data.draw(functions(d))
    eps = data.draw(st.sampled_from(EPS[d]))
    tops = pyramids(function, box, eps)
    x = points_of(box, tops.points)
    error = function(x) - tops(x)
    assert -ROUNDING <= error.min() and error.max() <= eps + ROUNDING
    fewer = pyramids(function, box, eps, layout="centred")
    assert (function(x) - fewer(x)).abs().max() <= eps + ROUNDING
    assert len(fewer) <= len(tops)


def test_the_formula():
    """Against numpy, point by point; blocks do not change it."""
    function, box = targets.example("islands", 2), Box((-1, 0), (1, 3))
    tops = pyramids(function, box, 0.4)
    x = box.points(50)
    want = [
        max(
            v - np.abs(np.array(point) - p).max()
            for p, v in zip(tops.points.tolist(), tops.values.tolist(), strict=True)
        )
        for point in x.tolist()
    ]
    assert np.allclose(tops(x), want, rtol=0, atol=1e-15)


def test_every_point_of_the_box_is_near_a_pyramid():
    box = Box((0, -1), (1, 0.55))
    for layout in ("paper", "centred"):
        tops = pyramids(targets.affine(torch.zeros(2)), box, 0.2, layout=layout)
        assert targets.distance_to(tops.points)(box.grid(57)).max() <= tops.radius + 1e-12
        inside = tops.points
        assert (inside >= torch.tensor(box.lower)).all() and (
            inside <= torch.tensor(box.upper)
        ).all()


def test_the_paper_s_grid():
    tops = pyramids(targets.affine(torch.zeros(2)), Box.unit(2), 0.25)
    assert len(tops) == 9**2  # multiples of eps / 2 = 1 / 8 on each axis, both ends among them
    assert tops.lift == 0 and torch.equal(
        tops.points[:2], torch.tensor([[0, 0], [0, 0.125]]).double()
    )


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_bound_is_attained(d):
    """By the distance to the points themselves, so the fewest cells are no fewer than needed."""
    eps, box = 0.125, Box.unit(d)
    points = pyramids(targets.affine(torch.zeros(d)), box, eps, layout="centred").points
    assert len(points) == 4**d
    worst = targets.distance_to(points)
    tops = pyramids(worst, box, eps, layout="centred")
    assert (worst(box.grid(9)) - tops(box.grid(9))).abs().max() == eps


@pytest.mark.parametrize("layout", ["paper", "centred"])
def test_a_grid_that_is_too_wide_is_found(monkeypatch, layout):
    axes = getattr(max_of_pyramids, f"{layout}_axes")
    # The paper's points are within eps / 4 of all x but near the upper ends: twice too many.
    monkeypatch.setattr(
        max_of_pyramids,
        f"{layout}_axes",
        lambda box, size: axes(box, size * (2.5 if layout == "paper" else 1.5)),
    )
    tops = pyramids(targets.affine(torch.zeros(2)), Box.unit(2), 0.2, layout=layout)
    worst = targets.distance_to(tops.points)
    tops = pyramids(worst, Box.unit(2), 0.2, layout=layout)
    x = points_of(Box.unit(2), tops.points)
    assert (worst(x) - tops(x)).abs().max() > 0.2 + ROUNDING


# --- functions that are too steep -------------------------------------------------------------


def test_the_offending_pair_is_in_the_error():
    with pytest.raises(
        NotLipschitz, match=r"must be 1-Lipschitz.*at a distance of.*Divide"
    ) as error:
        pyramids(lambda x: 1.5 * x[:, 0], Box.unit(2), 0.25)
    first, second, values = error.value.first, error.value.second, error.value.values
    assert abs(values[0] - values[1]) > (first - second).abs().max()
    assert values == (1.5 * first[0].item(), 1.5 * second[0].item())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(1),  # 2-Lipschitz, along the diagonal alone
        lambda x: x[:, 0] - x[:, 1],  # along the other diagonal
        lambda x: (x[:, 0] > 0.5).double(),  # a jump
        lambda x: torch.sin(40 * x[:, 0]) / 20,  # steep between the points of the grid
    ],
)
def test_steep_functions_are_found(function):
    with pytest.raises(NotLipschitz):
        pyramids(function, Box.unit(2), 0.5)


def test_neighbours_alone_find_a_diagonal():
    with pytest.raises(NotLipschitz):
        pyramids(lambda x: x[:, 0] - x[:, 1], Box.unit(2), 0.5, samples=0)
    pyramids(lambda x: torch.sin(40 * x[:, 0]) / 20, Box.unit(2), 0.5, samples=0)  # not seen


def test_rounding_is_no_violation():
    slope = torch.full((3,), 1 / 3, dtype=torch.float64)
    pyramids(lambda x: 1000 + x.float() @ slope.float(), Box.unit(3), 0.5, samples=5000)
    pyramids(targets.affine(slope, 1e6), Box.unit(3), 0.5, samples=5000)


def test_errors():
    flat = targets.affine(torch.zeros(2))
    with pytest.raises(ValueError, match=r"pyramids: eps must be positive; got 0"):
        pyramids(flat, Box.unit(2), 0)
    with pytest.raises(ValueError, match=r"layout must be 'paper' or 'centred'; got 'hex'"):
        pyramids(flat, Box.unit(2), 0.1, layout="hex")
    with pytest.raises(
        ValueError, match=r"function: must map \(n, d\) to \(n,\); it mapped \(9, 2\) to \(9, 2\)"
    ):
        pyramids(lambda x: x, Box.unit(2), 1)
    with pytest.raises(ValueError, match=r"must be finite on the box; it is not at 0, 0\.5"):
        pyramids(lambda x: torch.where(x[:, 1] == 0.5, torch.nan, 0.0), Box.unit(2), 1)
    with pytest.raises(
        ValueError, match=r"Box: lower must be below upper.*got \(0\.0,\) and \(0\.0,\)"
    ):
        Box((0,), (0,))
    with pytest.raises(ValueError, match=r"same number of coordinates.*got 1 and 2"):
        Box((0,), (1, 1))
    with pytest.raises(ValueError, match=r"Box: must be bounded"):
        Box((0,), (float("inf"),))


def test_targets_are_lipschitz_and_refuse_what_is_not():
    for name in targets.EXAMPLES:
        for d in (2, 3):
            max_of_pyramids.check_pairs(targets.example(name, d), Box.unit(d), 20_000)
    with pytest.raises(ValueError, match=r"affine: the l_1 norm of slope must be at most 1; got 2"):
        targets.affine(torch.ones(2))
    with pytest.raises(ValueError, match=r"Unknown function 'island'.*Did you mean 'islands'"):
        targets.example("island", 2)
    with pytest.raises(ValueError, match=r"lemniscate needs d of at least 2; got 1"):
        targets.example("lemniscate", 1)
