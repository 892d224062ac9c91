"""Linear relaxation backward from the margins to the pixels: CROWN-IBP and its loss fusion."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines.ibp import LayerBounds, Trace, added, concrete, margin_bounds, merged
from linfdist.baselines.layers import Residual
from linfdist.nn import Normalize


def backward(
    steps: Sequence[LayerBounds], matrix: Tensor, *, parallel: bool = False
) -> tuple[Tensor, Tensor]:
    """A' and c with A · out <= A' · in + c, for out the output of ``steps`` and in their input.

    ``matrix`` A has shape (batch or 1, rows, *out), A' (…, rows, *in), c (…, rows, 1). A neuron
    z of bounds l < 0 < u lies below the line u (z − l) / (u − l) and above a z, where a is the
    step's ``below``, else 1 if u > −l, else 0  [Zhang2020]. ``parallel``: a = u / (u − l), the
    convex outer polytope's  [WongKolter2018]; then c has two columns, and A' · in + c[…, 1] <=
    A · out too.
    """
    constant = matrix.new_zeros(1, 1, 2 if parallel else 1)
    for step in reversed(steps):
        if isinstance(step.layer, Residual):
            branches = [backward(b.steps, matrix, parallel=parallel) for b in step.branches]
            matrix, more = (added(parts) for parts in zip(*branches, strict=True))
        else:
            matrix, more = _through(step, matrix, parallel)
        constant = constant + more
    return matrix, constant


def _through(step: LayerBounds, matrix: Tensor, parallel: bool) -> tuple[Tensor, Tensor]:
    """``backward`` through one layer."""
    layer, nothing = step.layer, matrix.new_zeros(1, 1, 1)
    if isinstance(layer, nn.Flatten):
        return matrix.unflatten(2, step.lower.shape[1:]), nothing
    if isinstance(layer, nn.Linear):
        return matrix @ layer.weight, (matrix @ layer.bias).unsqueeze(2)
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None  # build_baseline's layers have one
        constant = (matrix.flatten(3).sum(3) @ layer.bias).unsqueeze(2)
        return _conv_transpose(layer, matrix, step.lower.shape[2:]), constant
    if isinstance(layer, nn.BatchNorm2d | Normalize):
        assert step.affine is not None  # interval_trace records it
        scale, shift = step.affine
        return matrix * scale, (matrix * shift).flatten(2).sum(2, keepdim=True)
    if isinstance(layer, nn.ReLU):
        return _relu(step, matrix, parallel)
    raise TypeError(
        "backward: layers must be Linear, Conv2d, BatchNorm2d, Normalize, ReLU, Flatten or "
        f"Residual; got {type(layer).__name__}, which has no linear relaxation here. Bound it by "
        "intervals."
    )


def _conv_transpose(layer: nn.Conv2d, matrix: Tensor, size: Sequence[int]) -> Tensor:
    """A times the convolution's matrix, for an input of height and width ``size``."""
    assert isinstance(layer.padding, tuple)  # in pixels, not "same"
    # What the input's size leaves over once the last stride has been taken.
    rest = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) % stride
        for side, padding, dilation, kernel, stride in zip(
            size, layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    rows = F.conv_transpose2d(
        matrix.flatten(0, 1),
        layer.weight,
        None,
        layer.stride,
        layer.padding,
        rest,
        layer.groups,
        layer.dilation,
    )
    return rows.unflatten(0, matrix.shape[:2])


def chord(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the line over a ReLU on [lower, upper]: u (z − l) / (u − l).

    That is z where l >= 0, and 0 where u <= 0. The line of the same slope through 0 lies below.
    """
    low, high = lower.clamp_max(0), upper.clamp_min(0)
    slope = high / (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    slope = torch.where(lower >= 0, 1.0, slope)
    return slope, -low * slope


def _relu(step: LayerBounds, matrix: Tensor, parallel: bool) -> tuple[Tensor, Tensor]:
    """The upper line where A > 0, the lower line where A < 0."""
    slope, offset = chord(step.lower, step.upper)
    offset = offset.flatten(1).unsqueeze(2)
    positive = matrix.clamp_min(0)
    constant = positive.flatten(2) @ offset
    if parallel:
        below = matrix.clamp_max(0).flatten(2) @ offset
        return matrix * slope.unsqueeze(1), torch.cat((constant, below), 2)
    least = (step.upper > -step.lower).to(slope.dtype) if step.below is None else step.below
    return matrix * least.unsqueeze(1) + positive * (slope - least).unsqueeze(1), constant


def upper_bounds(
    trace: Trace, matrix: Tensor, constant: Tensor, *, parallel: bool = False
) -> Tensor:
    """Upper bounds of A · features + c on the pass's box of inputs; shape (batch, rows)."""
    matrix, more = backward(trace.steps, matrix, parallel=parallel)
    first = trace.steps[0]
    middle, radius = concrete(matrix, first.lower, first.upper)
    return middle + radius + more[..., 0] + constant


def crown_ibp_margins(trace: Trace, last: nn.Linear, labels: Tensor, beta: float) -> Tensor:
    """β m_CROWN + (1 − β) m_IBP, upper bounds of logit_k − logit_y  [Zhang2020].

    ``trace`` is the interval pass through all layers but the ``last``; CROWN goes backward once
    from the margins to the input, with the pass's intervals for the neurons. Shape
    (batch, num_classes), 0 at k = y. Cost: a backward pass of num_classes rows; none at β = 0.
    """
    _check_beta(beta, "crown_ibp_margins")
    _, by_interval = margin_bounds(last, trace.lower, trace.upper, labels)
    if beta == 0:
        return by_interval
    by_relaxation = upper_bounds(trace, *merged(last, labels))
    return beta * by_relaxation + (1 - beta) * by_interval


def fused_loss_bound(trace: Trace, last: nn.Linear, labels: Tensor, beta: float) -> Tensor:
    """An upper bound of the cross entropy itself, image by image: loss fusion  [Xu2020].

    CE = log Σ_k exp(m_k) with m_k = logit_k − logit_y. Between the intervals' bounds of m_k the
    exponential lies below its chord, so Σ_k exp(m_k) lies below one linear function of the
    features, which goes backward as one row whatever the number of classes. The mixture with
    intervals, Σ_k exp(upper_k), is of the sums, inside the logarithm. Shape (batch,).
    """
    _check_beta(beta, "fused_loss_bound")
    low, high = margin_bounds(last, trace.lower, trace.upper, labels)
    # exp(m − top), top >= 0 as m_y = 0, neither overflows nor changes the logarithm's value.
    top = high.detach().amax(1, keepdim=True)
    total = (high - top).exp().sum(1)
    if beta > 0:
        width = (high - low).clamp_min(1e-6)
        slope = (high - top).exp() * -torch.expm1(-width) / width
        matrix, constant = merged(last, labels)
        fused = slope.unsqueeze(1)
        intercepts = ((low - top).exp() - slope * low + slope * constant).sum(1, keepdim=True)
        linear = upper_bounds(trace, fused @ matrix, intercepts).squeeze(1)
        total = beta * linear + (1 - beta) * total
    # The sum holds exp(m_y) = 1: below it there is rounding only.
    least = (-top.squeeze(1)).exp().clamp_min(torch.finfo(total.dtype).tiny)
    return torch.maximum(total, least).log() + top.squeeze(1)


def _check_beta(beta: float, caller: str) -> None:
    if not 0 <= beta <= 1:
        raise ValueError(
            f"{caller}: beta must be in [0, 1]; got {beta}. It weighs the linear relaxation: 0 is "
            "IBP."
        )
