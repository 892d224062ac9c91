"""``lse_dist``: the l_inf distance smoothed by LogSumExp, from two matrix products.

Centre c_i in the middle of x's range of feature i, and let X_b = max_i |x_bi − c_i|,
W_j = max_i |w_ji − c_i|. With the factors

    E±_bi = e^(t(±(x_bi − c_i) − X_b)),    F±_ji = e^(t(±(w_ji − c_i) − W_j)),

    total_bj = (E⁺ F⁻ᵀ + E⁻ F⁺ᵀ)_bj = e^(−t(X_b + W_j)) Σ_i [e^(td) + e^(−td)],  d = x_bi − w_ji.

No factor is above 1: nothing overflows. A factor below twice the smallest normal number, 2^-125 in
float32, is raised to it: a pair's total, of 2n products, grows by 2n 2^-125 at most. The total is
at least e^(−2t min(X_b, W_j)), since |d| ≥ |X_b − W_j| for the i that attains the larger of the
two; and X_b is at most half of ``spread``, the widest range of a feature of x. So with
t · spread ≤ 60 in float32, where e^-60 > 2^-87, a total is off by less than 2n 2^-38 of itself;
f_t ≥ log(2n) / t turns that into less than 2n 2^-38 / log(2n) of f_t: for n = 5120, 4e-9. In
float64 the same holds with 2^-1021 and 600.

Beyond that bound the direct sum, which subtracts each pair's own maximum, is right for every t.
"""

import math

import torch
from torch import Tensor

from linfdist.ops import native, reference
from linfdist.ops.checks import check_pair, check_t
from linfdist.ops.lp_distance import as_rows, lp_dist, plain, uses_native

LARGEST_EXPONENT = {torch.float32: 60.0, torch.float64: 600.0}  # of t · spread


def lse_dist(x: Tensor, weight: Tensor, t: float) -> Tensor:
    """f_t(x)_j = (1/t) log Σ_i [e^(t(x_i − w_ji)) + e^(−t(x_i − w_ji))] for every neuron j.

    0 ≤ f_t − ‖x − w_j‖_∞ ≤ log(2 in_features) / t, and f_t is 1-Lipschitz in l_inf for every t:
    its gradient is a sign vector weighted by a probability, ∂f_t/∂x_i = (e^(td) − e^(−td)) / Σ. At
    t = ∞ it is ``lp_dist``. ``x`` has in_features in its last axis, ``weight`` the shape
    (out_features, in_features); the result has x's leading axes and out_features in its last.
    float32 or float64. Without features it is 0, as ``lp_dist``.

    Where t times the widest range of a feature of x, over the leading axes, is at most 60 (600 in
    float64), two matrix products do it, and four the backward pass; the result then depends on the
    other rows by rounding. Beyond, each pair's exponentials are summed by themselves: right for
    every t, and on a CPU about as fast as ``lp_dist`` at a real p. On a GPU that sum is the
    reference's, correct but slow, and the choice waits for the device. Finite input gives finite
    results, an entry that is not finite one that is not.

    The products are torch's: ``torch.set_float32_matmul_precision("medium")`` lets it take bfloat16
    where the processor has matrix units for it; then f_t is off by up to 2e-4 and a gradient by
    3e-3 of the largest entry, at t = 1.5 and 2048 Gaussian features.

    Raises TypeError for a dtype, ValueError for a shape, a device or t ≤ 0.
    """
    t = check_t("lse_dist", t)
    check_pair("lse_dist", x, weight)
    if t > torch.finfo(x.dtype).max / 2 or x.shape[-1] == 0:
        return lp_dist(x, weight)
    distance, _ = torch.ops.linfdist.lse_dist(as_rows(x), weight, t)
    return distance.reshape(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("linfdist::lse_dist", mutates_args=())
def _lse_dist(x: Tensor, weight: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The distance and the total that the backward pass divides by."""
    if x.numel() == 0 or weight.numel() == 0:
        empty = x.new_zeros(x.shape[0], weight.shape[0])
        return empty, torch.zeros_like(empty)
    centre = _centre(x, t)
    if centre is None:
        return _direct(x, weight, t)
    (reach_x, *e), (reach_w, *f) = (_factors(values, centre, t) for values in (x, weight))
    total = (e[0] @ f[1].t()).addmm_(e[1], f[0].t())
    return total.log() / t + (reach_x + reach_w.t()), total


@_lse_dist.register_fake
def _(x: Tensor, weight: Tensor, t: float) -> tuple[Tensor, Tensor]:
    distance = x.new_empty(x.shape[0], weight.shape[0])
    return distance, torch.empty_like(distance)


@torch.library.custom_op("linfdist::lse_dist_backward", mutates_args=())
def _lse_dist_backward(
    grad: Tensor, x: Tensor, weight: Tensor, total: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    if x.numel() == 0 or weight.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(weight)
    centre = _centre(x, t)
    if centre is None:
        return _direct_backward(grad, x, weight, total, t)
    (_, *e), (_, *f) = (_factors(values, centre, t) for values in (x, weight))
    share = grad / total
    grad_x = (share @ f[1]).mul_(e[0]).sub_((share @ f[0]).mul_(e[1]))
    grad_weight = (share.t() @ e[1]).mul_(f[0]).sub_((share.t() @ e[0]).mul_(f[1]))
    return grad_x, grad_weight


@_lse_dist_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, total: Tensor, t: float):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _direct(x: Tensor, weight: Tensor, t: float) -> tuple[Tensor, Tensor]:
    if not _on_cpu(x, weight):
        return reference.lse_dist(x, weight, t)
    distance = x.new_empty(x.shape[0], weight.shape[0])
    total = torch.empty_like(distance)
    native.call("lse_forward", plain(x), plain(weight), distance, total, t)
    return distance, total


def _direct_backward(
    grad: Tensor, x: Tensor, weight: Tensor, total: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    if not _on_cpu(x, weight):
        return reference.lse_dist_backward(grad, x, weight, total, t)
    grad_x, grad_weight = torch.empty_like(plain(x)), torch.empty_like(plain(weight))
    native.call(
        "lse_backward", plain(grad), plain(x), plain(weight), plain(total), grad_x, grad_weight, t
    )
    return grad_x, grad_weight


def _on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the direct sum runs natively: there is no CUDA kernel of it."""
    return x.device.type == "cpu" and uses_native(x, weight)


def _centre(x: Tensor, t: float) -> Tensor | None:
    """c, if two products of factors lose nothing; None too where an entry of x is not finite."""
    low, high = x.amin(0), x.amax(0)
    spread = (high - low).amax()
    return low + (high - low) / 2 if bool(t * spread <= LARGEST_EXPONENT[x.dtype]) else None


def _factors(values: Tensor, centre: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """(X, E⁺, E⁻) of x or (W, F⁺, F⁻) of the weights; in place, since new memory costs most."""
    plus = values - centre
    reach = torch.maximum(plus.amax(1, keepdim=True), -plus.amin(1, keepdim=True))
    minus = torch.sub(-reach, plus)
    plus -= reach
    least = math.log(2 * torch.finfo(values.dtype).tiny)  # exp rounds: not below normal numbers
    for exponents in (plus, minus):
        exponents.mul_(t).clamp_min_(least).exp_()
    return reach, plus, minus


def _setup(ctx, inputs, output) -> None:
    x, weight, ctx.t = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _grad(ctx, grad: Tensor, _total_grad):
    return *torch.ops.linfdist.lse_dist_backward(grad, *ctx.saved_tensors, ctx.t), None


_lse_dist.register_autograd(_grad, setup_context=_setup)
