"""A 1-Lipschitz function as a maximum of pyramids  [Zhang2021, Lemma A.1]."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linfdist.ops import lp_dist
from linfdist.system.inputs import (
    check_function,
    checked_generator,
    finite,
    float_tensor,
    positive,
    real,
)
from linfdist.system.values import seed as checked_seed
from linfdist.system.values import shown, whole
from linfdist.theory.targets import Function

BLOCK = 2**24  # distances held at once when pyramids are evaluated: 128 MB


class NotLipschitz(ValueError):
    """A function rises by more than the l_inf distance between two points."""

    def __init__(self, first: Tensor, second: Tensor, values: tuple[float, float]) -> None:
        self.first, self.second, self.values = first, second, values
        rise, distance = abs(values[0] - values[1]), (first - second).abs().max().item()
        super().__init__(
            f"function: must be 1-Lipschitz in l_inf; got f({_point(first)}) = {values[0]:.6g} and "
            f"f({_point(second)}) = {values[1]:.6g}, {rise:.3g} apart at a distance of "
            f"{distance:.3g}. Divide the function by at least {rise / distance:.3g}."
        )


def _point(x: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in x.tolist())


@dataclass(frozen=True)
class Box:
    """lower <= x <= upper, coordinate by coordinate, in R^d."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _coordinates(getattr(self, name), name))
        if not self.lower or len(self.lower) != len(self.upper):
            raise ValueError(
                "Box: lower and upper must have the same number of coordinates, at least one; got "
                f"{len(self.lower)} and {len(self.upper)}."
            )
        if not all(low < high for low, high in zip(self.lower, self.upper, strict=True)):
            raise ValueError(
                f"Box: lower must be below upper in every coordinate; got {self.lower} and "
                f"{self.upper}."
            )
        if not all(map(math.isfinite, self.lower + self.upper)):
            raise ValueError(f"Box: must be bounded; got {self.lower} and {self.upper}.")

    @classmethod
    def unit(cls, d: int) -> "Box":
        """[0, 1]^d."""
        d = whole(d, "Box.unit: d", least=1)
        return cls((0.0,) * d, (1.0,) * d)

    @property
    def d(self) -> int:
        return len(self.lower)

    @property
    def sides(self) -> tuple[float, ...]:
        return tuple(high - low for low, high in zip(self.lower, self.upper, strict=True))

    def points(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n uniformly random points, float64, shape (n, d)."""
        n = whole(n, "Box.points: n", least=0)
        generator = checked_generator(generator, "Box.points")
        lower = torch.tensor(self.lower, dtype=torch.float64)
        sides = torch.tensor(self.sides, dtype=torch.float64)
        return lower + sides * _uniform((n, self.d), generator).to(lower.device)

    def grid(self, per_axis: int) -> Tensor:
        """per_axis evenly spaced points along each axis, both ends included; (per_axis^d, d)."""
        per_axis = whole(per_axis, "Box.grid: per_axis", least=1)
        axes = zip(self.lower, self.upper, strict=True)
        return _product(
            [torch.linspace(low, high, per_axis, dtype=torch.float64) for low, high in axes]
        )


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """float64 in [0, 1), on the generator's device, which need not be torch's default."""
    device = None if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)


def check_box(box: object, caller: str) -> None:
    """Raise an error if ``box`` is not a ``Box``."""
    if not isinstance(box, Box):
        raise TypeError(f"{caller}: box must be a Box; got {shown(box)}. Box.unit(d) is [0, 1]^d.")


def _coordinates(value: object, name: str) -> tuple[float, ...]:
    """The numbers of a sequence, a numpy array or a tensor."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"Box: {name} must be a sequence of coordinates; got {shown(value)}. An interval is "
            "Box((0.0,), (1.0,))."
        )
    return tuple(real(coordinate, "Box", f"each of {name}") for coordinate in value)


def _product(axes: Sequence[Tensor]) -> Tensor:
    """All points with one coordinate from each axis; the last axis runs fastest."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def paper_axes(box: Box, step: float) -> list[Tensor]:
    """The multiples of ``step`` above each lower end; every x has one within ``step``."""
    check_box(box, "paper_axes")
    step = positive(step, "paper_axes", "step")
    # A side of 10.0000001 steps has 10 of them, so the last point stays in the box.
    return [step * torch.arange(math.floor(side / step) + 1.0).double() for side in box.sides]


def centred_axes(box: Box, radius: float) -> list[Tensor]:
    """Centres of the fewest equal cells covering each side with half width at most ``radius``."""
    check_box(box, "centred_axes")
    radius = positive(radius, "centred_axes", "radius")
    counts = [max(1, math.ceil(side / (2 * radius))) for side in box.sides]
    pairs = zip(box.sides, counts, strict=True)
    return [(torch.arange(count).double() + 0.5) * (side / count) for side, count in pairs]


@dataclass(frozen=True, kw_only=True)
class Pyramids:
    """max_i (values_i − ‖x − points_i‖_∞) + lift, for x in ``box``  [Zhang2021, Eq. 7].

    ``points`` has shape (m, d). ``values``, the function's values there, has shape (m,). Both are
    float64. If every x of the box is within ``radius`` of a point and the function is 1-Lipschitz,
    then the function is between the maximum and the maximum plus 2 ``radius``. ``lift`` is 0 or
    ``radius``; the latter halves the error and makes it two-sided.
    """

    box: Box
    points: Tensor
    values: Tensor
    radius: float
    lift: float = 0.0

    def __len__(self) -> int:
        return len(self.points)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the formula in float64; x of shape (n, d) becomes (n,)."""
        blocks = x.double().split(max(1, BLOCK // len(self)))
        tops = [(self.values - lp_dist(block, self.points)).amax(1) for block in blocks]
        return torch.cat(tops) + self.lift


def pyramids(
    function: Function,
    box: Box,
    eps: float,
    *,
    layout: str = "paper",
    quantum: float = 0.0,
    samples: int = 1000,
) -> Pyramids:
    """Pyramids whose maximum is within ``eps`` of ``function`` everywhere on ``box``.

    The layouts:

    - "paper": the points are multiples of eps / 2. The maximum is from 0 to eps below the function.
    - "centred": the points are the centres of cells of half width eps, and the maximum is lifted by
      the half width. It is at most eps above or below the function. The layout needs about 4^d
      times fewer pyramids.

    Args:
        function: takes points, float64 of shape (n, d), to values, (n,); 1-Lipschitz in l_inf.
        box: the box on which the maximum approximates the function.
        eps: the largest error.
        layout: "paper" or "centred".
        quantum: if not 0, the points' distances from the lower corner are rounded to its multiples,
            which adds at most quantum / 2 to the radius.
        samples: the number of random pairs of points to check.

    Raises:
        NotLipschitz: two grid points, or a random pair, violate the Lipschitz condition. If no pair
            does, this proves nothing.
        TypeError: an argument is of another type.
        ValueError: a number is out of its range.
    """
    check_function(function, "pyramids")
    check_box(box, "pyramids")
    eps = positive(eps, "pyramids", "eps")
    quantum = finite(quantum, "pyramids", "quantum")
    if quantum < 0:
        raise ValueError(f"pyramids: quantum must be at least 0; got {quantum}.")
    samples = whole(samples, "pyramids: samples", least=0)
    if layout not in ("paper", "centred"):
        raise ValueError(f"pyramids: layout must be 'paper' or 'centred'; got {layout!r}.")
    if layout == "paper":
        radius, lift = eps / 2, 0.0
        axes = paper_axes(box, radius)
    else:
        axes = centred_axes(box, eps)
        sides = zip(box.sides, axes, strict=True)
        radius = lift = max(side / len(axis) for side, axis in sides) / 2
    if quantum:
        axes = [(axis / quantum).round() * quantum for axis in axes]
    lower = torch.tensor(box.lower, dtype=torch.float64)
    points = lower + _product(axes)
    values = evaluate(function, points)
    _check_neighbours(points, values, [len(axis) for axis in axes])
    check_pairs(function, box, samples)
    return Pyramids(box=box, points=points, values=values, radius=radius + quantum / 2, lift=lift)


def evaluate(function: Function, points: Tensor) -> Tensor:
    """The function's values in float64; raises for a wrong shape or a value that is not finite."""
    check_function(function, "evaluate")
    points = float_tensor(points, "evaluate", "points", 2)
    with torch.no_grad():
        values = function(points)
    if not isinstance(values, Tensor):
        raise TypeError(
            f"function: must map a tensor (n, d) to a tensor (n,); it returned {shown(values)}."
        )
    if values.shape != points.shape[:1]:
        raise ValueError(
            f"function: must map (n, d) to (n,); it mapped {tuple(points.shape)} to "
            f"{tuple(values.shape)}."
        )
    if not values.isfinite().all():
        where = points[int((~values.isfinite()).nonzero()[0])]
        raise ValueError(f"function: must be finite on the box; it is not at {_point(where)}.")
    return values.double()


def check_pairs(function: Function, box: Box, n: int, seed: int = 0) -> None:
    """Raise NotLipschitz if one of n random pairs, at distances of all magnitudes, violates it."""
    check_function(function, "check_pairs")
    check_box(box, "check_pairs")
    n = whole(n, "check_pairs: n", least=0)
    generator = torch.Generator().manual_seed(checked_seed(seed, "check_pairs"))
    first, far = box.points(n, generator), box.points(n, generator)
    share = 10 ** (-5 * _uniform((n, 1), generator).to(first.device))
    second = first + share * (far - first)  # the box is convex
    with torch.no_grad():
        dtype = function(first[:1]).dtype if n else torch.float64
    _check(first, second, evaluate(function, first), evaluate(function, second), dtype)


def _check_neighbours(points: Tensor, values: Tensor, counts: list[int]) -> None:
    """Compare each point of a grid with its neighbours, including the diagonal ones."""
    points, values = points.unflatten(0, counts), values.unflatten(0, counts)
    for move in itertools.product((-1, 0, 1), repeat=len(counts)):
        if move <= (0,) * len(counts):  # each pair once
            continue
        here = tuple(slice(max(0, -step), min(0, -step) or None) for step in move)
        there = tuple(slice(max(0, step), min(0, step) or None) for step in move)
        first, second = (part.flatten(0, len(counts) - 1) for part in (points[here], points[there]))
        _check(first, second, values[here].flatten(), values[there].flatten(), torch.float64)


def _check(first: Tensor, second: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> None:
    """Raise NotLipschitz for the pair with the largest violation beyond the values' rounding."""
    rise, distance = (low - high).abs(), (first - second).abs().amax(-1)
    rounding = 16 * torch.finfo(dtype).eps * torch.maximum(low.abs(), high.abs()).clamp_min(1)
    excess = rise - distance - rounding
    if excess.numel() and excess.max() > 0:
        worst = int(excess.argmax())
        raise NotLipschitz(first[worst], second[worst], (low[worst].item(), high[worst].item()))
