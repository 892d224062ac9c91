"""Certified radii of a network at p = ∞: from its margin, and from bounds on the pixel box."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from linfdist.nn import LARGEST, frozen
from linfdist.robust.boxes import pixel_box
from linfdist.robust.checks import (
    Classifier,
    Lipschitz,
    check_finite,
    check_images,
    check_net,
    checked_lipschitz,
    radius,
)
from linfdist.system.values import whole

BOUNDS = ("worst_case_margins_on_box",)  # what a network must have besides logits
ROUNDING = 2e-6  # pixels: the most that rounding of float32 logits and of the box can cost a margin


def margin_radius(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """(logit_y − max_{k≠y} logit_k) / 2 / net.lipschitz, 0 where that is negative  [Fact 3.6].

    The radius is also 0 where a logit is NaN or above ``LARGEST`` in size. ``images`` are pixels in
    [0, 1], shape (batch, *input_shape). The radii, shape (batch,), are in pixels and in float64.

    By the theorem an image is certified at every eps *below* its radius. However, the margin is
    computed from float32 logits, rounded to nearest, and is off by about 1e-6 pixels. The tables
    count the verdict of ``interval_certified``.

    Raises:
        TypeError: the network is not a ``Classifier`` or not ``Lipschitz``, images are not pixels
            in its precision, or labels are not integers.
        ValueError: shapes, devices, values or weights are invalid.
    """
    check_net(net, "margin_radius")
    if not isinstance(net, Lipschitz):
        raise TypeError(
            "margin_radius: net must be a LinfDistNet or another network with Lipschitz logits; "
            f"got {type(net).__name__}. Use interval_radius."
        )
    images, labels = check_images(net, images, labels, "margin_radius")
    lipschitz = checked_lipschitz(net, "margin_radius")
    check_finite(net, "margin_radius")
    with frozen(net) as net, torch.no_grad():
        logits = net(images, math.inf).double()
    column = labels.unsqueeze(1)
    own = logits.gather(1, column).squeeze(1)
    rival = logits.scatter(1, column, -math.inf).amax(1)
    radius = ((own - rival) / 2 / lipschitz).clamp_min(0)
    return torch.where(logits.abs().amax(1) <= LARGEST, radius, 0.0)


def proven(margins: Tensor, labels: Tensor) -> Tensor:
    """Whether bounds of logit_k − logit_y prove label y: all are below 0 and finite, except y's.

    A bound that overflowed, even to −∞, proves nothing: the overflow caused NaN elsewhere, or could
    have.
    """
    rivals = margins.scatter(1, labels.unsqueeze(1), -1.0)
    return ((rivals < 0) & rivals.isfinite()).all(1)


def _certified(net: Classifier, images: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """The interval verdict for checked inputs in a frozen network."""
    return proven(net.worst_case_margins_on_box(*pixel_box(images, eps), labels), labels)


def interval_certified(
    net: Classifier, images: Tensor, labels: Tensor, eps: Fraction | float | Tensor
) -> Tensor:
    """Whether every image within eps has label y, by the net's bounds on the box cut to [0, 1].

    The bounds are interval bounds, except linear relaxations for some compared methods' networks.

    An image is certified if the upper bounds of logit_k − logit_y at p = ∞ are below 0 for all
    k ≠ y, and none overflows. A certified image is therefore classified correctly. The computation
    uses IEEE 754 float32, or float64 for a float64 net, whatever autocast and torch's precision
    settings say. ``images`` are pixels, shape (batch, *input_shape). eps is in pixels, a
    ``Fraction`` or a tensor with one radius per image. Returns bools, (batch,).

    Raises:
        TypeError: the network is not a ``Classifier``, images are not pixels in its precision,
            labels are not integers, or eps is not a number.
        ValueError: shapes, devices, values or weights are invalid, or eps is not in [0, 1].
    """
    images, labels = check_images(net, images, labels, "interval_certified", *BOUNDS)
    check_finite(net, "interval_certified")
    eps = radius(eps, images, "interval_certified")
    with frozen(net) as net, torch.no_grad():
        return _certified(net, images, labels, eps)


def interval_radius(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    max_radius: Fraction | float | Tensor,
    num_steps: int = 12,
    *,
    eps: Fraction | float | Tensor | None = None,
) -> Tensor:
    """The largest radius up to ``max_radius`` at which ``interval_certified`` was seen to hold.

    The function bisects for all images at once. It probes, in this order:

    - the radii ``max_radius`` and 0;
    - ``eps``, if it is not None: an image then has a radius of at least eps if and only if it is
      certified at eps itself;
    - for Lipschitz logits, ``margin_radius`` less 2e-6 for rounding;
    - the middles of ``num_steps`` halvings.

    The result is at most max_radius / 2^num_steps below the largest certified radius. Both this and
    the statement about eps assume bounds that certify every box inside a certified box, as
    intervals do. A relaxation can fail to (``ColtNet``); its radius was still seen to hold.

    Cost: num_steps + 2 to 4 passes.

    Args:
        net: the network.
        images: pixels in [0, 1], shape (batch, *input_shape).
        labels: one class per image.
        max_radius: the largest radius to probe, in pixels, one number or one per image.
        num_steps: number of halvings.
        eps: a radius to probe first, in pixels, one number or one per image.

    Returns:
        Radii in pixels, float64, shape (batch,); 0 where the image is misclassified.

    Raises:
        TypeError: as ``interval_certified``, or ``num_steps`` is not an integer.
        ValueError: as ``interval_certified``, ``max_radius`` is below eps, or ``num_steps`` is
            negative.
    """
    num_steps = whole(num_steps, "interval_radius: num_steps", least=0)
    images, labels = check_images(net, images, labels, "interval_radius", *BOUNDS)
    check_finite(net, "interval_radius")
    high = radius(max_radius, images, "interval_radius", "max_radius")
    high = high.expand(len(images)).clone()
    low = torch.zeros_like(high)
    first = [] if eps is None else [radius(eps, images, "interval_radius").expand_as(high)]
    if first and bool((above := first[0] > high).any()):
        raise ValueError(
            f"interval_radius: max_radius must be at least eps={float(first[0][above][0]):g}; got "
            f"{float(high[above][0]):g}."
        )
    if isinstance(net, Lipschitz):
        first.append(margin_radius(net, images, labels) - ROUNDING)

    with frozen(net) as net, torch.no_grad():
        # Images certified at max_radius or misclassified have low = high and stay there.
        low = torch.where(_certified(net, images, labels, high), high, low)
        high = torch.where(_certified(net, images, labels, torch.zeros_like(high)), high, low)
        for step in range(num_steps + len(first)):
            probe = first[step].clamp(low, high) if step < len(first) else (low + high) / 2
            holds = _certified(net, images, labels, probe)
            low, high = torch.where(holds, probe, low), torch.where(holds, high, probe)
    return low
