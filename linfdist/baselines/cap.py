"""CAP: the dual bound of the convex outer adversarial polytope  [WongKolter2018]."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from linfdist.baselines.crown import backward, upper_bounds
from linfdist.baselines.ibp import (
    LayerBounds,
    Trace,
    concrete,
    interval_trace,
    merged,
    unless_overflow,
)
from linfdist.nn import Normalize
from linfdist.system.inputs import integer_labels


def polytope(
    layers: Iterable[nn.Module], lower: Tensor, upper: Tensor, *, dense_only: bool = False
) -> Trace:
    """A pass whose neurons' bounds are each layer's dual bounds  [WongKolter2018, Algorithm 1].

    Layer by layer, the inputs of a ReLU are bounded by a backward pass through all before it, both
    lines of a neuron of slope u / (u − l). ``layers`` are Linear, Conv2d, ReLU, Flatten and
    Normalize, without a residual sum. Cost: for every hidden layer but the first, a backward pass
    with a row for each of its neurons; before the second linear layer intervals are exact.
    ``dense_only``: only the outputs of fully connected layers have dual bounds, where these are
    tighter than intervals; convolutions, whose neurons are many, keep intervals.
    """
    steps: list[LayerBounds] = []
    box = low, high = lower, upper
    depth = 0
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ReLU | nn.Flatten | Normalize):
            raise TypeError(
                "polytope: layers must be Linear, Conv2d, ReLU, Flatten or Normalize; got "
                f"{type(layer).__name__}. Bound it with crown_ibp_margins."
            )
        if isinstance(layer, nn.ReLU) and depth > 1 and not dense_only:
            low, high = _dual_bounds(steps, low, box)
        elif isinstance(layer, nn.ReLU) and depth > 1 and low.dim() == 2:
            least, most = _dual_bounds(steps, low, box)
            low, high = torch.maximum(low, least), torch.minimum(high, most)
        one = interval_trace([layer], low, high)
        steps.append(one.steps[0])
        low, high = one.lower, one.upper
        depth += isinstance(layer, nn.Linear | nn.Conv2d)
    return Trace(tuple(steps), low, high)


def _dual_bounds(
    steps: list[LayerBounds], like: Tensor, box: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Bounds of every output of ``steps``, of the shape of ``like``."""
    size = math.prod(like.shape[1:])
    rows = torch.eye(size, dtype=like.dtype, device=like.device).view(1, size, *like.shape[1:])
    matrix, constant = backward(steps, rows, parallel=True)
    middle, radius = concrete(matrix, *box)
    low, high = middle - radius + constant[..., 1], middle + radius + constant[..., 0]
    return low.view_as(like), high.view_as(like)


def cap_margins(
    layers: Iterable[nn.Module], last: nn.Linear, lower: Tensor, upper: Tensor, labels: Tensor
) -> Tensor:
    """Upper bounds of logit_k − logit_y on the box by the dual network, 0 at k = y.

    The result has shape (batch, num_classes) and is NaN where a float32 sum could overflow. It is
    CROWN with parallel lines and with dual bounds of the neurons in the place of intervals.

    Args:
        layers: the layers from pixels to features.
        last: the layer from features to logits.
        lower, upper: the box of pixels.
        labels: one class per image.
    """
    labels = integer_labels(labels, lower, "cap_margins")
    trace = polytope(layers, lower, upper)
    margins = upper_bounds(trace, *merged(last, labels), parallel=True)
    return unless_overflow(margins, trace, last)
