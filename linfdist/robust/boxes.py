"""Boxes of pixels around an image, each with the rounding that its purpose allows.

All are [x − eps, x + eps] cut to [0, 1]. They differ in how the ends are rounded, and a proof holds
for one of them only: no function here can stand for another.

- ``rounded_box``: to nearest, in the pixels' precision. Nothing is proved with it.
- ``attack_box``: to nearest, once. An attack's images should lie in the ball, not around it.
- ``pixel_box``: outward. What is certified on it covers every float32 image of the ball.
- ``exact_box`` and ``sound_pixel_box``: outward, around the exact rational pixel k / 255 of a uint8
  image and the float32 number next to it. They cover the ball of real numbers too.
"""

import math

import torch
from torch import Tensor

from linfdist.data import to_pixels


def rounded_box(pixels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The box in the pixels' own precision, for losses and for accuracies between epochs.

    eps itself is rounded to that precision first, so an end may lie inside the ball by a rounding.
    Training does not prove anything, and the last test of a run uses ``pixel_box``.
    """
    return (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)


def attack_box(images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """The box of an attack: computed in float64, then rounded to nearest.

    ``pixel_box`` contains it, so an attack never leaves the box that a certificate is about. eps
    broadcasts against the images.
    """
    exact = images.double()
    return (exact - eps).to(images.dtype).clamp(0, 1), (exact + eps).to(images.dtype).clamp(0, 1)


def pixel_box(images: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The box of a certificate: computed in float64, rounded outward to the images' precision.

    Rounding to nearest errs by less than the step outward, so the box contains every number of
    that precision within eps. ``eps``, float64, is a single radius or one radius per image.
    """
    eps = eps.view(-1, *[1] * (images.ndim - 1))
    exact = images.double()
    lower, upper = outward((exact - eps).to(images.dtype), (exact + eps).to(images.dtype))
    return lower.clamp(0, 1), upper.clamp(0, 1)


def exact_box(levels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds in float64 of the pixels within eps of uint8 ``levels``; eps and levels broadcast.

    k / 255 is no float64 number, so it takes a step outward of its own before eps is added.
    """
    nearest, given = levels.double() / 255, to_pixels(levels).double()
    lower, upper = outward(nearest, nearest)
    lower, upper = outward(torch.minimum(lower, given) - eps, torch.maximum(upper, given) + eps)
    return lower.clamp(0, 1), upper.clamp(0, 1)


def sound_pixel_box(images: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds in float32 of the balls around uint8 images; ``pixel_box`` lies within them.

    They are those of ``exact_box`` with a step outward for the rounding to float32. For each eps
    the bounds of all 256 levels are computed once and then looked up.
    """
    levels = torch.arange(256, dtype=torch.uint8, device=images.device)
    bounds = outward(*(end.float() for end in exact_box(levels, eps.view(-1, 1))))
    index = images.flatten(1).long()
    lower, upper = (
        end.clamp(0, 1).expand(len(images), -1).gather(1, index).view(images.shape)
        for end in bounds
    )
    return lower, upper


def outward(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The next number below and the next above; rounding to nearest changes a number by less."""
    return next_below(lower), next_above(upper)


def next_below(x: Tensor) -> Tensor:
    """The largest number of x's precision below x."""
    return _step(x, -math.inf)


def next_above(x: Tensor) -> Tensor:
    """The smallest number of x's precision above x."""
    return _step(x, math.inf)


def _step(x: Tensor, towards: float) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, towards))
