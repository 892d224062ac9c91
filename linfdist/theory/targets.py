"""1-Lipschitz functions in l_inf to approximate, from R^d, shape (n, d), to R, shape (n,)."""

from collections.abc import Callable

import torch
from torch import Tensor

from linfdist.ops import lp_dist
from linfdist.system.inputs import check_function, finite, float_tensor
from linfdist.system.names import unknown
from linfdist.system.values import shown, whole

Function = Callable[[Tensor], Tensor]


def distance_to(points: Tensor) -> Function:
    """x ↦ min_i ‖x − points_i‖_∞; points of shape (m, d)."""
    points = float_tensor(points, "distance_to", "points", 2)
    return lambda x: lp_dist(x, points.to(x.dtype)).amin(1)


def affine(slope: Tensor, constant: float = 0.0) -> Function:
    """x ↦ slope · x + constant, for ‖slope‖₁ ≤ 1: the dual norm is the Lipschitz constant."""
    slope = float_tensor(slope, "affine", "slope", 1)
    constant = finite(constant, "affine", "constant")
    size = slope.abs().sum().item()
    if size > 1 + 1e-12:
        raise ValueError(f"affine: the l_1 norm of slope must be at most 1; got {size:g}.")
    return lambda x: x @ slope.to(x.dtype) + constant


def maximum(*functions: Function) -> Function:
    """x ↦ max_i functions_i(x)."""
    _check_all(functions, "maximum")
    return lambda x: torch.stack([function(x) for function in functions]).amax(0)


def minimum(*functions: Function) -> Function:
    """x ↦ min_i functions_i(x)."""
    _check_all(functions, "minimum")
    return lambda x: torch.stack([function(x) for function in functions]).amin(0)


def _check_all(functions: tuple[Function, ...], caller: str) -> None:
    for each in functions:
        check_function(each, caller, "each of functions")
    if not functions:
        raise ValueError(f"{caller}: functions must hold at least one function; got none.")


def clipped(function: Function, low: float, high: float) -> Function:
    """x ↦ function(x), cut to [low, high]."""
    check_function(function, "clipped")
    low, high = finite(low, "clipped", "low"), finite(high, "clipped", "high")
    if low > high:
        raise ValueError(f"clipped: low must be at most high={high}; got {low}.")
    return lambda x: function(x).clamp(low, high)


def _ripples(x: Tensor) -> Tensor:
    return torch.sin(10 * x).mean(1) / 10


def _islands(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (7, x.shape[1])
    points = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return distance_to(points.to(x.device))(x) - 0.12


def _lemniscate(x: Tensor) -> Tensor:
    """``example``'s lemniscate; uses the first two of at least two coordinates."""
    angle = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)[:-1]
    scale = 0.42 / (1 + angle.sin() ** 2)
    curve = torch.stack([angle.cos() * scale, 1.4 * angle.sin() * angle.cos() * scale], 1) + 0.5
    return 0.08 - distance_to(curve)(x[:, :2])


EXAMPLES = {"ripples": _ripples, "islands": _islands, "lemniscate": _lemniscate}


def example(name: str, d: int) -> Function:
    """An example of a 1-Lipschitz function on [0, 1]^d, by name.

    - ``ripples``: the mean of sin(10 x_i) / 10; smooth.
    - ``islands``: the distance to the nearest of seven random points, minus 0.12; negative on seven
      squares.
    - ``lemniscate``: 0.08 minus the distance to a curve in the shape of the sign ∞ in the first two
      coordinates; positive along a broad pen stroke. d must be at least 2.
    """
    if not isinstance(name, str):
        raise TypeError(f"example: name must be one of {', '.join(EXAMPLES)}; got {shown(name)}.")
    if name not in EXAMPLES:
        raise ValueError(unknown("function", name, EXAMPLES))
    if whole(d, "example: d", least=None) < 1 + (name == "lemniscate"):
        raise ValueError(
            f"example: {name} needs d of at least {1 + (name == 'lemniscate')}; got {d}."
        )
    return EXAMPLES[name]
