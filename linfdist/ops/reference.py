"""Pure-torch references: the fallback on any device, and the standard for the native kernels.

They broadcast to (batch, out, in) in chunks of the batch, so that memory stays bounded. Autograd
passes through them, so their gradients are torch's own and not a second copy of our formulas.
"""

import math

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24  # 64 MiB of float32 for one broadcast temporary


def _rows_per_chunk(weight: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // max(1, weight.numel()))


def _lp_norm(difference: Tensor, p: float) -> Tensor:
    """‖·‖_p over the last axis, scaled by the largest entry so that no power overflows."""
    magnitude = difference.abs()
    if magnitude.shape[-1] == 0:
        return magnitude.sum(-1)
    largest = magnitude.amax(-1, keepdim=True)
    if math.isinf(p):
        return largest.squeeze(-1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return (magnitude / scale).pow(p).sum(-1).pow(1 / p) * scale.squeeze(-1)


def lp_dist(x: Tensor, weight: Tensor, p: float) -> Tensor:
    """‖x − w‖_p for every row of x, shape (batch, in), and of weight, shape (out, in)."""
    chunks = x.split(_rows_per_chunk(weight))
    return torch.cat([_lp_norm(chunk.unsqueeze(1) - weight, p) for chunk in chunks])


def first_index(x: Tensor, weight: Tensor) -> Tensor:
    """Index of the first i with |x_i − w_i| = ‖x − w‖_∞, shape (batch, out), int32."""
    if weight.shape[1] == 0:
        return torch.zeros(x.shape[0], weight.shape[0], dtype=torch.int32, device=x.device)
    parts = []
    for chunk in x.split(_rows_per_chunk(weight)):
        parts.append((chunk.unsqueeze(1) - weight).abs().argmax(-1).to(torch.int32))
    return torch.cat(parts)


def lp_dist_backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """Gradients of lp_dist for finite p: Σ_j g_j (|d|/out)^(p−1) sign(d), 0 where out = 0.

    Where out is not finite, the gradients of its sample and of its neuron are NaN.

    Args:
        grad: gradients of the distances, shape (batch, out).
        x: shape (batch, in).
        weight: shape (out, in).
        out: the distances, shape (batch, out).
        p: p of the distance, finite.
    """
    grad_x, grad_weight = [], torch.zeros_like(weight)
    rows = _rows_per_chunk(weight)
    grad = torch.where(out.isfinite(), grad, math.nan)
    for g, chunk, norm in zip(grad.split(rows), x.split(rows), out.split(rows), strict=True):
        difference = chunk.unsqueeze(1) - weight
        norm = norm.unsqueeze(-1)
        ratio = torch.where(norm > 0, difference.abs() / norm, torch.zeros_like(difference))
        term = g.unsqueeze(-1) * ratio.pow(p - 1) * difference.sign()
        grad_x.append(term.sum(1))
        grad_weight -= term.sum(0)
    return torch.cat(grad_x), grad_weight


def linf_dist_backward(
    grad: Tensor, x: Tensor, weight: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of lp_dist at p = ∞: all of g_bj goes to entry index[b, j]. NaN stays."""
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    if x.numel() == 0 or weight.numel() == 0:
        return grad_x, grad_weight
    index = index.long()
    neurons = torch.arange(weight.shape[0], device=x.device).expand_as(index)
    difference = x.gather(1, index) - weight[neurons, index]
    signed = grad * torch.where(difference.isnan(), difference, difference.sign())
    grad_x.scatter_add_(1, index, signed)
    grad_weight.scatter_add_(1, index.t(), -signed.t())
    return grad_x, grad_weight


def lse_dist(x: Tensor, weight: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """f_t of every pair, and total = Σ_i [e^(t(|d_i| − top)) + e^(−t(|d_i| + top))], top = max |d|.

    No exponent is above 0, and total is at least 1.
    """
    distance, totals = [], []
    for chunk in x.split(_rows_per_chunk(weight)):
        magnitude, top = _magnitude_and_top(chunk, weight)
        total = (t * (magnitude - top)).exp() + (-t * (magnitude + top)).exp()
        totals.append(total.sum(-1))
        distance.append(totals[-1].log() / t + top.squeeze(-1))
    return torch.cat(distance), torch.cat(totals)


def lse_dist_backward(
    grad: Tensor, x: Tensor, weight: Tensor, total: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    """Gradients of lse_dist: Σ_j g_j sign(d) (e^(t(|d| − top)) − e^(−t(|d| + top))) / total.

    Where total is not finite, the gradients of its sample and of its neuron are NaN.

    Args:
        grad: gradients of the distances, shape (batch, out).
        x: shape (batch, in).
        weight: shape (out, in).
        total: the totals of ``lse_dist``, shape (batch, out).
        t: t of ``lse_dist``.
    """
    grad_x, grad_weight = [], torch.zeros_like(weight)
    rows = _rows_per_chunk(weight)
    share = torch.where(total.isfinite(), grad / total, math.nan)
    for g, chunk in zip(share.split(rows), x.split(rows), strict=True):
        magnitude, top = _magnitude_and_top(chunk, weight)
        shape = (t * (magnitude - top)).exp() * -torch.expm1(-2 * t * magnitude)
        term = g.unsqueeze(-1) * shape * (chunk.unsqueeze(1) - weight).sign()
        grad_x.append(term.sum(1))
        grad_weight -= term.sum(0)
    return torch.cat(grad_x), grad_weight


def _magnitude_and_top(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """|x − w| and its largest entry, or 0 if that entry is not finite, so that ∞ stays ∞."""
    magnitude = (x.unsqueeze(1) - weight).abs()
    top = magnitude.amax(-1, keepdim=True)
    return magnitude, torch.where(top.isfinite(), top, 0.0)


def linf_interval(lower: Tensor, upper: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Exact range of ‖x − w‖_∞ over the box lower ≤ x ≤ upper."""
    lows, highs = [], []
    rows = _rows_per_chunk(weight)
    for low, high in zip(lower.split(rows), upper.split(rows), strict=True):
        below = low.unsqueeze(1) - weight
        above = weight - high.unsqueeze(1)
        if weight.shape[1] == 0:
            lows.append(below.sum(-1))
            highs.append(below.sum(-1))
            continue
        lows.append(torch.maximum(below, above).amax(-1).clamp_min(0))
        highs.append(torch.maximum(-below, -above).amax(-1))
    return torch.cat(lows), torch.cat(highs)


def linf_interval_backward(
    grad_low: Tensor, grad_high: Tensor, lower: Tensor, upper: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of linf_interval: the first difference that attains a bound gets its gradient.

    Args:
        grad_low: gradients of the lower bounds, shape (batch, out).
        grad_high: gradients of the upper bounds, shape (batch, out).
        lower: shape (batch, in).
        upper: shape (batch, in).
        weight: shape (out, in).
    """
    grad_lower, grad_upper = torch.zeros_like(lower), torch.zeros_like(upper)
    grad_weight = torch.zeros_like(weight)
    if lower.numel() == 0 or weight.numel() == 0:
        return grad_lower, grad_upper, grad_weight
    step = _rows_per_chunk(weight)
    for first in range(0, lower.shape[0], step):
        rows = slice(first, first + step)
        below = lower[rows].unsqueeze(1) - weight  # upper bounds take it negated
        above = weight - upper[rows].unsqueeze(1)
        both = torch.cat((below, above), -1)
        taken = torch.zeros_like(both)
        for sign, grad in ((1, grad_low[rows]), (-1, grad_high[rows])):
            top = (sign * both).argmax(-1, keepdim=True)
            reached = (sign * both).gather(-1, top) > 0  # a lower bound of 0 has no gradient
            taken.scatter_add_(-1, top, sign * grad.unsqueeze(-1) * reached)
        to_below, to_above = taken.split(weight.shape[1], -1)
        grad_lower[rows] = to_below.sum(1)
        grad_upper[rows] = -to_above.sum(1)
        grad_weight += (to_above - to_below).sum(0)
    return grad_lower, grad_upper, grad_weight
