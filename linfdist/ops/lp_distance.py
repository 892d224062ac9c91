"""``lp_dist``: all distances ‖x_b − w_j‖_p between samples and neurons.

There are two custom ops, because their backward passes differ:

- ``linfdist::lp_dist``, for finite p, has a dense gradient;
- ``linfdist::linf_dist``, for p = ∞, also returns the index that attains each maximum, and its
  gradient touches only that entry.
"""

import math

import torch
from torch import Tensor

from linfdist.ops import native, reference
from linfdist.ops.checks import cast_in_autocast, check_p, check_pair


def lp_dist(x: Tensor, weight: Tensor, p: float = math.inf) -> Tensor:
    """‖x − w_j‖_p for every neuron j: the l_p-dist neuron without its bias [Zhang2021, Eq. 2].

    ``x`` has in_features in its last axis, and ``weight`` has the shape (out_features,
    in_features). The result has x's leading axes and out_features in its last axis. The dtype is
    float32 or float64. Inside ``torch.autocast`` half precision is accepted too, and the
    computation stays in float32.

    At p = ∞ the map is 1-Lipschitz in l_inf. The result is exact up to the one rounding of each
    subtraction, and bit-for-bit the same on any number of threads. At finite p the map's Lipschitz
    constant in l_inf is in_features^(1/p). Sums are scaled by the largest difference, so results
    are finite even at p = 1000.

    Gradients are (|d|/‖d‖_p)^(p−1) sign(d), and 0 where x = w. An entry below 2^-64 of its pair's
    largest possible entry is 0. In float32 the relative error of the gradients is about 5e-7 p. At
    p = ∞ the first index that attains the maximum gets the whole gradient. The backward pass is
    not itself differentiable.

    NaN and ∞ − ∞ give NaN. At p = ∞ the index is then that of the first such entry, whose gradient
    is NaN. At finite p, a distance that is not finite makes all gradients of its sample and of its
    neuron NaN. Other pairs keep their results.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or a device is wrong, or p < 1.
    """
    p = check_p("lp_dist", p)
    check_pair("lp_dist", x, weight)
    rows = as_rows(x)
    if p < math.inf:  # torch.compile can trace this test for a p that changes
        distance = torch.ops.linfdist.lp_dist(rows, weight, p)
    elif torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        distance, _ = torch.ops.linfdist.linf_dist(rows, weight)
    else:
        distance = torch.ops.linfdist.lp_dist(rows, weight, p)
    return distance.reshape(*x.shape[:-1], weight.shape[0])


def as_rows(x: Tensor) -> Tensor:
    """Merge all leading axes into one; −1 would be ambiguous for a last axis of length 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def uses_native(x: Tensor, weight: Tensor) -> bool:
    """Whether native kernels accept these tensors; the reference accepts all, empty ones too."""
    if not native.runs_on(x.device):
        native.warn_reference(x.device.type)
        return False
    return x.numel() > 0 and weight.numel() > 0


def for_native(tensor: Tensor) -> Tensor:
    """Contiguous and detached, for the native module: DLPack exports no tensor that needs grad."""
    return tensor.detach().contiguous()


@torch.library.custom_op("linfdist::lp_dist", mutates_args=())
def _lp_dist(x: Tensor, weight: Tensor, p: float) -> Tensor:
    if not uses_native(x, weight):
        return reference.lp_dist(x, weight, p)
    distance = x.new_empty(x.shape[0], weight.shape[0])
    native.call("forward", for_native(x), for_native(weight), distance, p)
    return distance


@_lp_dist.register_fake
def _(x: Tensor, weight: Tensor, p: float) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("linfdist::lp_dist_backward", mutates_args=())
def _lp_dist_backward(
    grad: Tensor, x: Tensor, weight: Tensor, distance: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    if not uses_native(x, weight):
        return reference.lp_dist_backward(grad, x, weight, distance, p)
    grad_x, grad_weight = torch.empty_like(for_native(x)), torch.empty_like(for_native(weight))
    native.call(
        "backward",
        for_native(grad),
        for_native(x),
        for_native(weight),
        for_native(distance),
        grad_x,
        grad_weight,
        *native.backward_workspace(x, weight, p),
        p,
    )
    return grad_x, grad_weight


@_lp_dist_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, distance: Tensor, p: float):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@torch.library.custom_op("linfdist::linf_dist", mutates_args=())
def _linf_dist(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if not uses_native(x, weight):
        return reference.lp_dist(x, weight, math.inf), reference.first_index(x, weight)
    distance = x.new_empty(x.shape[0], weight.shape[0])
    index = torch.empty_like(distance, dtype=torch.int32)
    native.call("forward_with_index", for_native(x), for_native(weight), distance, index)
    return distance, index


@_linf_dist.register_fake
def _(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    distance = x.new_empty(x.shape[0], weight.shape[0])
    return distance, torch.empty_like(distance, dtype=torch.int32)


@torch.library.custom_op("linfdist::linf_dist_backward", mutates_args=())
def _linf_dist_backward(
    grad: Tensor, x: Tensor, weight: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    if not uses_native(x, weight):
        return reference.linf_dist_backward(grad, x, weight, index)
    grad_x, grad_weight = torch.empty_like(for_native(x)), torch.empty_like(for_native(weight))
    native.call(
        "backward_with_index",
        for_native(grad),
        for_native(x),
        for_native(weight),
        index.contiguous(),
        grad_x,
        grad_weight,
        *native.backward_workspace(x, weight, math.inf),
    )
    return grad_x, grad_weight


@_linf_dist_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, index: Tensor):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _lp_dist_setup(ctx, inputs, output) -> None:
    x, weight, ctx.p = inputs
    ctx.save_for_backward(x, weight, output)


def _lp_dist_grad(ctx, grad: Tensor):
    x, weight, distance = ctx.saved_tensors
    if math.isinf(ctx.p):  # the caller used torch.ops.linfdist.lp_dist directly
        _, index = torch.ops.linfdist.linf_dist(x, weight)
        return *torch.ops.linfdist.linf_dist_backward(grad, x, weight, index), None
    return *torch.ops.linfdist.lp_dist_backward(grad, x, weight, distance, ctx.p), None


def _linf_dist_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _linf_dist_grad(ctx, grad: Tensor, _index_grad):
    return torch.ops.linfdist.linf_dist_backward(grad, *ctx.saved_tensors)


_lp_dist.register_autograd(_lp_dist_grad, setup_context=_lp_dist_setup)
_linf_dist.register_autograd(_linf_dist_grad, setup_context=_linf_dist_setup)
for _op in (_lp_dist, _lp_dist_backward, _linf_dist, _linf_dist_backward):
    cast_in_autocast(_op)
