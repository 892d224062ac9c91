"""Strategies of 1-Lipschitz functions and boxes, and the theorem as a check of one of each."""

import torch
from hypothesis import strategies as st

from linfdist.nn import NetConfig, build_net
from linfdist.theory import targets
from linfdist.theory.approximation import Approximation
from linfdist.theory.max_of_pyramids import Box
from linfdist.theory.targets import Function

ROUNDING = 1e-12  # of the functions themselves, in float64


def random_function(d: int, seed: int, kind: str) -> Function:
    """A 1-Lipschitz function on R^d of this kind."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    if kind == "distance":
        return targets.distance_to(uniform(4, d))
    if kind == "linear":
        slope = uniform(d)
        return targets.clipped(targets.affine(slope / slope.abs().sum(), 0.3), -0.4, 0.6)
    if kind == "max-min":
        parts = []
        for _ in range(3):
            cone, slope = targets.distance_to(uniform(2, d)), uniform(d)
            plane = targets.affine(slope / slope.abs().sum(), uniform(1).item())
            parts.append(targets.minimum(cone, plane))
        return targets.maximum(*parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = NetConfig(kind="net", hidden=(8, 8))
        net = build_net(config, input_shape=(1, 1, d), num_classes=2, mean=(0.5,), std=1.0)
    net = net.double().eval()
    return lambda x: net(x[:, None, None, :])[:, 0]


KINDS = ("distance", "linear", "max-min", "net")


@st.composite
def functions(draw, d: int) -> Function:
    return random_function(d, draw(st.integers(0, 10**6)), draw(st.sampled_from(KINDS)))


def boxes(d: int) -> st.SearchStrategy[Box]:
    """Of unequal sides from 0.3 to 1, not at the origin."""
    sides = st.lists(st.integers(3, 10), min_size=d, max_size=d)
    corners = st.lists(st.integers(-20, 20), min_size=d, max_size=d)
    return st.builds(
        lambda low, side: Box(
            tuple(x / 10 for x in low),
            tuple(x / 10 + s / 10 for x, s in zip(low, side, strict=True)),
        ),
        corners,
        sides,
    )


def points_of(box: Box, near: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Random points, a grid that fits no other, the given points and the middles between them."""
    generator = torch.Generator().manual_seed(seed)
    random = box.points(1000, generator)
    per_axis = max(2, int(2000 ** (1 / box.d)))
    middles = (near[:-1] + near[1:]) / 2
    return torch.cat([random, box.grid(per_axis), near, middles])


def check(function: Function, net: Approximation, eps: float) -> None:
    """Theorem 4.1 at many points: |net − function| ≤ eps; with lift 0, also never above it."""
    x = points_of(net.pyramids.box, net.pyramids.points)
    error = function(x) - net(x).double()
    assert error.abs().max() <= eps + ROUNDING, f"{error.abs().max():g} above {eps:g}"
    if net.pyramids.lift == 0:
        assert error.min() >= -net.rounding, f"{-error.min():g} above the function"


def check_lipschitz(net: Approximation) -> None:
    """|net(x) − net(y)| ≤ ‖x − y‖_∞, in the box and out of it."""
    generator = torch.Generator().manual_seed(1)
    box = net.pyramids.box
    low, sides = torch.tensor(box.lower).double(), torch.tensor(box.sides).double()
    first, second = (
        low + sides * (4 * torch.rand(500, box.d, generator=generator, dtype=torch.float64) - 1.5)
        for _ in range(2)
    )
    near = first + (second - first) * 10 ** (-4 * torch.rand(500, 1, generator=generator).double())
    for other in (second, near):
        rise, distance = (net(first) - net(other)).abs(), (first - other).abs().amax(1)
        assert (rise <= distance + net.rounding + ROUNDING).all()
