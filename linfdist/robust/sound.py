"""Certificates that rounding cannot break: bounds that hold for real numbers and for float32.

For a uint8 image k the ball of radius eps is the part of [0, 1]^d within eps of k / 255 or of the
float32 number next to it, which is the pixel that networks receive. A certificate states that

(R) the network of real numbers has the single largest logit at label y at every point of the ball;
    it uses the stored float32 weights, running means, mean and std, and for a head the float32
    number next to 1/√n;
(F) the float32 network of ``forward`` does so too, at every float32 image in the ball, for every
    order of summation in a matrix product, with or without fused operations.

**Dist layers.** If a box holds the outputs of one layer in R and in F, the next layer's box holds
its outputs after one step of ``outward``. Float32 operations round the exact result to the nearest
number; this rounding, RN, is monotone.

- For F monotonicity is enough: RN(l_i − w_i) ≤ RN(x_i − w_i) ≤ RN(u_i − w_i). Negation and maximum
  are exact, so ``linf_interval`` bounds ``lp_dist`` without a step.
- For R, the largest of the rounded differences is the rounded largest difference,
  max_i RN(a_i) = RN(max_i a_i). Each bound is therefore off by one rounding, and the exact bound
  lies no farther away than the float32 neighbour.

The same holds for each subtraction or division of the normalisation and the mean shift, for the
last bias and for the difference of logits.

**Head.** ``_affine`` computes in float64 on the box of features, with slack for F and for float64
itself.

**Overflow.** Where a float32 number of ``forward`` or of its bounds could overflow, nothing is
certified: bounds of logits and of a head's inputs must be below ``LARGEST``.

Rounding is IEEE 754's, to nearest with gradual underflow, on every thread. ``check_float_mode``
refuses flushing of denormals. A ``forward`` in TF32 or bfloat16, or under autocast, is another
network, to which (F) does not apply. [Higham2002, Sec. 3.1], [Jin2022].
"""

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from linfdist.data import to_pixels
from linfdist.nn import (
    LARGEST,
    BoundedLinear,
    DistFeatures,
    LinfDistNet,
    LinfDistNetMLP,
    LpDist,
    LpDistConv2d,
    MeanShift,
    frozen,
    refuse_wrapped,
)
from linfdist.ops import linf_interval
from linfdist.ops.float_mode import check_float_mode
from linfdist.robust.boxes import next_above, next_below, outward, sound_pixel_box
from linfdist.robust.certificates import proven
from linfdist.robust.checks import check_finite, check_images, radius
from linfdist.system.inputs import integer_labels
from linfdist.system.values import shown

SOUND = (LinfDistNet, LinfDistNetMLP)  # the networks that have a sound certificate
UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53  # half a step between numbers, relative to the number
ROUNDINGS = 8  # more roundings than a term of a linear layer has besides those of its sum
TANH_ERROR = 2.0**-21  # relative: four steps of float32; every library's tanh is closer
TINY = 2.0**-100  # more than all underflows of a layer: each is below n · 2^-149


def sound_certified(
    net: LinfDistNet | LinfDistNetMLP,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float | Tensor,
) -> Tensor:
    """Whether (R) and (F) hold at eps: no image of the ball has another largest logit.

    ``images`` are uint8, shape (batch, *input_shape). eps is in pixels: a ``Fraction``, a number or
    a tensor with one radius per image. eps is exact: 8/255 means that rational number. Returns
    bools, (batch,). Every image certified here is certified by ``interval_certified`` too; the cost
    is 1.0 to 1.3 times that of ``interval_certified``.

    Raises:
        TypeError: the network is not an l_inf-dist net in float32, or the images are not uint8.
        ValueError: ``interval_certified`` would refuse the shapes, labels, radii or weights, or
            denormals are flushed.
    """
    images, labels = _check(net, images, labels, "sound_certified")
    eps = radius(eps, images, "sound_certified", up=True)
    with frozen(net) as net, torch.no_grad():
        return _certified(net, images, labels, eps)


def sound_radius(
    net: LinfDistNet | LinfDistNetMLP, images: Tensor, labels: Tensor, radii: Tensor
) -> Tensor:
    """The first of r, r − 10^-6, r − 4·10^-6, r − 16·10^-6, … at which ``sound_certified`` holds.

    ``radii``, one r per image, come from ``interval_radius``: a radius that is certified to the
    last bit is some millionths smaller. The result is 0 where nothing was certified; it is in
    pixels, float64, (batch,). Cost: one or two passes, then more passes for the few images left.

    Raises:
        TypeError: as ``sound_certified``.
        ValueError: as ``sound_certified``.
    """
    images, labels = _check(net, images, labels, "sound_radius")
    radii = _radii(radii, images, "sound_radius")
    largest = torch.zeros_like(radii)
    pending, lower_by = (radii > 0).nonzero().squeeze(1), 0.0
    with frozen(net) as net, torch.no_grad():
        while len(pending):
            probe = (radii[pending] - lower_by).clamp_min(0)
            holds = _certified(net, images[pending], labels[pending], probe)
            largest[pending[holds]] = probe[holds]
            pending = pending[~holds & (probe > 0)]
            lower_by = max(1e-6, 4 * lower_by)
    return largest


def sound_certificates(
    net: LinfDistNet | LinfDistNetMLP,
    images: Tensor,
    labels: Tensor,
    eps: Fraction,
    radii: Tensor,
) -> tuple[Tensor, Tensor]:
    """``sound_certified`` at eps, and radii of ``sound_radius`` that agree with it.

    An image has a radius of at least eps > 0 if and only if it is certified at eps.

    Args:
        net: an l_inf-dist net in float32.
        images: uint8, shape (batch, *input_shape).
        labels: one class per image.
        eps: the radius of the verdict, in pixels.
        radii: radii of ``interval_radius``, one per image.
    """
    images, labels = _check(net, images, labels, "sound_certificates")
    least = radius(eps, images, "sound_certificates", up=True)
    radii = _radii(radii, images, "sound_certificates")
    certified = sound_certified(net, images, labels, least)
    below = next_below(least).clamp_min(0)
    radii = torch.where(certified, radii.maximum(least), radii.minimum(below))
    sound = sound_radius(net, images, labels, radii)
    # A search that starts above eps may step past eps, although eps is certified.
    return certified, torch.where(certified, sound.maximum(least), sound)


def _radii(radii: Tensor, images: Tensor, caller: str) -> Tensor:
    """One radius per image, in float64."""
    radii = radius(radii, images, caller, "radii", up=True)
    if radii.shape != images.shape[:1]:
        raise ValueError(
            f"{caller}: radii must have shape ({len(images)},), one for each image; got "
            f"{tuple(radii.shape)}. Take those of interval_radius."
        )
    return radii


def _certified(
    net: LinfDistNet | LinfDistNetMLP, images: Tensor, labels: Tensor, eps: Tensor
) -> Tensor:
    return proven(sound_margins_on_box(net, *sound_pixel_box(images, eps), labels), labels)


def _check(
    net: LinfDistNet | LinfDistNetMLP, images: Tensor, labels: Tensor, caller: str
) -> tuple[Tensor, Tensor]:
    refuse_wrapped(net, caller)
    dtypes = {value.dtype for value in net.parameters()} if isinstance(net, nn.Module) else set()
    if not isinstance(net, SOUND) or dtypes != {torch.float32}:
        raise TypeError(
            f"{caller}: net must be a LinfDistNet or a LinfDistNetMLP in float32; got "
            f"{', '.join([type(net).__name__, *sorted(map(str, dtypes))])}. For other networks use "
            "interval_certified, which does not account for rounding."
        )
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(
            f"{caller}: images must be uint8, 0 to 255, so that the ball is exact; got "
            f"{images.dtype if isinstance(images, Tensor) else shown(images)}. Pass the images "
            "themselves, not the result of linfdist.data.to_pixels."
        )
    _, labels = check_images(net, to_pixels(images), labels, caller)
    check_finite(net, caller)
    check_float_mode(caller, images.device)
    return images, labels


def sound_margins_on_box(
    net: LinfDistNet | LinfDistNetMLP, lower: Tensor, upper: Tensor, labels: Tensor
) -> Tensor:
    """Upper bounds of logit_k − logit_y on a box of float32 pixels in R and F, 0 at k = y.

    The result has shape (batch, num_classes) and is NaN where float32 numbers could overflow. The
    bounds are never below those of ``worst_case_margins_on_box``, because each of its operations is
    widened by more than its error.
    """
    labels = integer_labels(labels, lower, "sound_margins_on_box")
    lower, upper = sound_features(net.features, lower, upper)
    column = labels.unsqueeze(1)
    if isinstance(net, LinfDistNetMLP):
        held = net.head_holds(lower, upper)
        lower, upper = _tanh(*_linear(net.fc1, lower.double(), upper.double()))
        margins = _merged_margins(net.fc2, lower, upper, labels)
    else:
        lower, upper = _through(net.last, lower, upper)  # minus the logits
        held = (torch.maximum(lower.abs(), upper.abs()) <= LARGEST).all(1)
        margins = next_above(upper.gather(1, column) - lower)
    return margins.masked_fill(~held.unsqueeze(1), math.nan).scatter(1, column, 0.0)


def sound_features(features: DistFeatures, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the features on a box of float32 pixels in R and F; each rounding adds a step."""
    normalize = features.normalize
    lower, upper = outward(lower - normalize.mean, upper - normalize.mean)
    lower, upper = outward(lower / normalize.divisor, upper / normalize.divisor)
    for layer in features.layers:
        lower, upper = _through(layer, lower, upper)
    return lower, upper


def _through(layer: nn.Module, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    match layer:
        case LpDist():
            low, high = outward(*linf_interval(lower, upper, layer.weight))
            low = low.clamp_min(0)
            return (
                (low, high) if layer.bias is None else outward(low + layer.bias, high + layer.bias)
            )
        case LpDistConv2d():
            low, high = outward(*layer.interval(lower, upper))  # padding is an exact 0
            return low.clamp_min(0), high
        case MeanShift():
            return outward(*layer.interval(lower, upper))
        case nn.Flatten():
            return layer(lower), layer(upper)
    raise TypeError(f"sound certificates have no rule for {type(layer).__name__}: write one here.")


def gamma(n: int, unit: float) -> float:
    """γ_n = n u / (1 − n u): what n roundings of relative size u can add up to  [Higham2002]."""
    return n * unit / (1 - n * unit) if n * unit < 1 / 2 else math.inf


def _affine(
    layer: BoundedLinear, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """In float64: W m s + b of the middle m, its slack, the half widths r, W, and s.

    The box is |x − m| ≤ r. In any order of summation a float32 or float64 result is off by at most
    γ_(n + c) a, a = s |W| (|m| + r) + |b|, where c counts the roundings of a term besides those of
    its sum. c is at most ROUNDINGS in the float32 forward, in its float32 bounds, and here. The
    slack takes γ of float32, plus twice γ of float64: for these float64 operations and for the
    operations on the slack itself.
    """
    weight, bias = layer.weight.double(), layer.bias.double()
    scale = float(torch.tensor(layer.scale, dtype=torch.float32, device="cpu"))
    middle = (lower + upper) / 2
    half = next_above(torch.maximum(upper - middle, middle - lower))
    terms = layer.in_features + ROUNDINGS
    error = gamma(terms, UNIT_32) + 2 * gamma(terms, UNIT_64)
    size = (middle.abs() + half) @ weight.abs().T
    slack = error * (size * scale + bias.abs()) + TINY
    return middle @ weight.T * scale + bias, slack, half, weight, scale


def _linear(layer: BoundedLinear, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    centre, slack, half, weight, scale = _affine(layer, lower, upper)
    spread = half @ weight.abs().T * scale + slack
    return centre - spread, centre + spread


def _merged_margins(layer: BoundedLinear, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    """[Zhang2021, Eq. 21] plus the slack of both logits, as float32 computes each separately."""
    centre, slack, half, weight, scale = _affine(layer, lower, upper)
    spread = torch.empty_like(centre)
    for label in labels.unique().tolist():
        rows = labels == label
        spread[rows] = half[rows] @ (weight - weight[label]).abs().T
    column = labels.unsqueeze(1)
    margins = centre - centre.gather(1, column) + spread * scale
    return margins + (slack + slack.gather(1, column))


def _tanh(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """tanh is increasing; here and in float32 its error is below TANH_ERROR |tanh| + TINY."""
    lower, upper = lower.tanh(), upper.tanh()
    return (
        lower - (TANH_ERROR * lower.abs() + TINY),
        upper + (TANH_ERROR * upper.abs() + TINY),
    )
