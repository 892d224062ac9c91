"""Interval bounds of conventional networks  [Gowal2018].

Bounds are rounded to nearest, like the logits: they hold up to the rounding of float32 sums. They
hold for sums that cannot overflow, which ``unless_overflow`` sees to.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines.layers import MaxMin, Residual
from linfdist.nn import Normalize, sums_hold
from linfdist.system.inputs import integer_labels


@dataclass(frozen=True, eq=False)
class LayerBounds:
    """One layer of a pass with the bounds of its input; what a backward pass needs of it.

    ``affine``: scale and shift of a normalisation, by channel, broadcastable to its input;
    ``branches``: the passes through a residual sum's body and shortcut; ``below``: the slopes in
    [0, 1] of the lines through 0 below a ReLU, None for CROWN's.
    """

    layer: nn.Module
    lower: Tensor
    upper: Tensor
    affine: tuple[Tensor, Tensor] | None = None
    branches: tuple["Trace", ...] = ()
    below: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Trace:
    """A pass through layers: its steps, the bounds of the output, and the output for ``clean``."""

    steps: tuple[LayerBounds, ...]
    lower: Tensor
    upper: Tensor
    clean: Tensor | None = None


def interval_trace(
    layers: Iterable[nn.Module], lower: Tensor, upper: Tensor, clean: Tensor | None = None
) -> Trace:
    """Bounds of the output of ``layers``, one after the other, on the box lower <= x <= upper.

    A linear layer gives W μ + b ∓ |W| r with μ the middle and r the half width, an increasing one
    its values at both ends  [Gowal2018]. ``clean``, an input of the box's shape, is passed
    along; a batch normalisation in training mode takes its statistics from it, as it does in
    ``forward``, and updates its running ones. Raises TypeError for a layer without a rule.
    """
    steps = []
    for layer in layers:
        affine: tuple[Tensor, Tensor] | None = None
        branches: tuple[Trace, ...] = ()
        if isinstance(layer, Residual):
            branches = tuple(
                interval_trace(branch, lower, upper, clean)
                for branch in (layer.body, layer.shortcut)
            )
            low, high = added(b.lower for b in branches), added(b.upper for b in branches)
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            low, high = _weighted(layer, lower, upper)
        elif isinstance(layer, nn.BatchNorm2d | Normalize):
            affine = scale, shift = _affine(layer, clean)
            middle = (lower + upper) / 2 * scale + shift
            radius = (upper - lower) / 2 * scale.abs()
            low, high = middle - radius, middle + radius
        elif isinstance(layer, nn.ReLU | nn.Flatten | MaxMin):
            low, high = layer(lower), layer(upper)
        else:
            raise TypeError(
                "interval_trace: layers must be Linear, Conv2d, BatchNorm2d, Normalize, ReLU, "
                f"MaxMin, Flatten or Residual; got {type(layer).__name__}. Add its rule here."
            )
        steps.append(LayerBounds(layer, lower, upper, affine, branches))
        if clean is not None:
            if branches:
                clean = added(b.clean for b in branches if b.clean is not None)
            else:
                clean = layer(clean)
        lower, upper = low, high
    return Trace(tuple(steps), lower, upper, clean)


def added(parts: Iterable[Tensor]) -> Tensor:
    """The sum of one tensor or more, added to 0."""
    return cast(Tensor, sum(parts))  # the sum of none would be the number 0


def merged(last: nn.Linear, labels: Tensor) -> tuple[Tensor, Tensor]:
    """W_k − W_y and b_k − b_y: the last layer and the margins logit_k − logit_y as one linear map.

    Shapes (batch, num_classes, in_features) and (batch, num_classes); both 0 at k = y.
    """
    weight, bias = last.weight, last.bias
    labels = integer_labels(labels, weight, "merged", count=False)
    return weight - weight[labels].unsqueeze(1), bias - bias[labels].unsqueeze(1)


def margin_bounds(
    last: nn.Linear, lower: Tensor, upper: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of logit_k − logit_y for features in the box  [Zhang2021, Eq. 21].

    Both of shape (batch, num_classes), 0 at k = y; tighter than the difference of the bounds.
    """
    matrix, constant = merged(last, integer_labels(labels, lower, "margin_bounds"))
    middle, radius = concrete(matrix, lower, upper)
    return middle + constant - radius, middle + constant + radius


def concrete(matrix: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The middle A μ and half width |A| r of A x on the box, for A of shape (batch, rows, *x).

    In A's precision: a float64 network takes float32 pixels.
    """
    rows = matrix.flatten(2)
    lower, upper = lower.to(rows.dtype), upper.to(rows.dtype)
    middle = ((lower + upper) / 2).flatten(1).unsqueeze(2)
    radius = ((upper - lower) / 2).flatten(1).unsqueeze(2)
    return (rows @ middle).squeeze(2), (rows.abs() @ radius).squeeze(2)


def unless_overflow(margins: Tensor, trace: Trace, last: nn.Linear) -> Tensor:
    """The margins, NaN for an image whose pass or ``last`` layer could overflow in float32.

    A ReLU would hide it: −∞ before it is 0 behind it.
    """
    held = _holds(trace) & sums_hold(trace.lower, trace.upper, last.weight, last.bias)
    return margins.masked_fill(~held.unsqueeze(1), math.nan)


def _holds(trace: Trace) -> Tensor:
    """Whether no float32 number of a pass through layers can overflow, (batch,)."""
    held = torch.ones(len(trace.lower), dtype=torch.bool, device=trace.lower.device)
    for step in trace.steps:
        nothing = step.lower.new_zeros(1)
        weight, bias = nothing.unsqueeze(0), nothing
        if isinstance(step.layer, nn.Linear | nn.Conv2d):
            assert step.layer.bias is not None  # build_baseline's layers have one
            weight, bias = step.layer.weight, step.layer.bias
        elif step.affine is not None:
            weight, bias = (part.reshape(-1, 1) for part in step.affine)
        held = held & sums_hold(step.lower, step.upper, weight, bias)
        for branch in step.branches:
            held = held & _holds(branch) & sums_hold(branch.lower, branch.upper, weight, bias)
    return held


def _weighted(layer: nn.Linear | nn.Conv2d, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    weight = layer.weight.abs()
    middle, radius = layer((lower + upper) / 2), (upper - lower) / 2
    if isinstance(layer, nn.Linear):
        radius = F.linear(radius, weight)
    else:
        radius = F.conv2d(
            radius, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
    return middle - radius, middle + radius


def _affine(layer: nn.BatchNorm2d | Normalize, clean: Tensor | None) -> tuple[Tensor, Tensor]:
    if isinstance(layer, Normalize):
        scale = 1 / layer.divisor
        return scale, -layer.mean * scale
    if not layer.training:
        mean, variance = layer.running_mean, layer.running_var
    elif clean is None:
        raise ValueError(
            "interval: clean must be given in training mode, because BatchNorm2d takes its "
            "statistics from it; got None. Pass the clean images, or call net.eval()."
        )
    else:
        mean, variance = clean.mean((0, 2, 3)), clean.var((0, 2, 3), correction=0)
    assert mean is not None and variance is not None  # build_baseline's layers track both
    scale = layer.weight / (variance + layer.eps).sqrt()
    return scale.view(-1, 1, 1), (layer.bias - mean * scale).view(-1, 1, 1)
