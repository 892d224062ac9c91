"""``linf_interval``: interval bounds through an l_inf-dist layer, exact neuron by neuron."""

import torch
from torch import Tensor

from linfdist.ops import native, reference
from linfdist.ops.checks import cast_in_autocast, check_pair
from linfdist.ops.lp_distance import as_rows, for_native, uses_native


def linf_interval(lower: Tensor, upper: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The exact range of ‖x − w_j‖_∞ over the box lower ≤ x ≤ upper, for every neuron j.

    lower_j = max_i max(l_i − w_ji, w_ji − u_i, 0) and upper_j = max_i max(u_i − w_ji, w_ji − l_i):
    interval bound propagation [Gowal2018] through one layer. ``lower`` and ``upper`` have
    in_features in their last axis, and ``weight`` has the shape (out_features, in_features). Both
    results have out_features in their last axis.

    The range is exact for each single neuron. The box of all neurons together holds points that no
    input reaches. The caller must ensure lower ≤ upper; the function does not check it. NaN and
    ∞ − ∞ give NaN in both bounds. ``torch.autocast`` acts as on ``lp_dist``.

    Cost: about twice a forward pass. The gradient runs through the pure-torch reference: correct
    but slow, meant for analysis.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or a device is wrong.
    """
    check_pair("linf_interval", lower, weight, "lower")
    check_pair("linf_interval", upper, weight, "upper")
    if lower.shape != upper.shape:
        raise ValueError(
            "linf_interval: lower and upper must have one shape; got "
            f"{tuple(lower.shape)} and {tuple(upper.shape)}. Broadcast one with expand_as."
        )
    low, high = torch.ops.linfdist.linf_interval(as_rows(lower), as_rows(upper), weight)
    shape = (*lower.shape[:-1], weight.shape[0])
    return low.reshape(shape), high.reshape(shape)


@torch.library.custom_op("linfdist::linf_interval", mutates_args=())
def _linf_interval(lower: Tensor, upper: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if not uses_native(lower, weight):
        return reference.linf_interval(lower, upper, weight)
    low = lower.new_empty(lower.shape[0], weight.shape[0])
    high = torch.empty_like(low)
    native.call("interval", for_native(lower), for_native(upper), for_native(weight), low, high)
    return low, high


@_linf_interval.register_fake
def _(lower: Tensor, upper: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    low = lower.new_empty(lower.shape[0], weight.shape[0])
    return low, torch.empty_like(low)


@torch.library.custom_op("linfdist::linf_interval_backward", mutates_args=())
def _linf_interval_backward(
    grad_low: Tensor, grad_high: Tensor, lower: Tensor, upper: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.linf_interval_backward(grad_low, grad_high, lower, upper, weight)


@_linf_interval_backward.register_fake
def _(grad_low: Tensor, grad_high: Tensor, lower: Tensor, upper: Tensor, weight: Tensor):
    return tuple(value.new_empty(value.shape) for value in (lower, upper, weight))


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _grad(ctx, grad_low: Tensor, grad_high: Tensor):
    return torch.ops.linfdist.linf_interval_backward(grad_low, grad_high, *ctx.saved_tensors)


_linf_interval.register_autograd(_grad, setup_context=_setup)
for _op in (_linf_interval, _linf_interval_backward):
    cast_in_autocast(_op)
