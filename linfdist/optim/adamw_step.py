"""One optimizer step of one parameter: decay, then Adam.

The native kernel makes one pass over weight, gradient and moments; torch's ops make about twenty.
"""

import math

import torch
from torch import Tensor

from linfdist.ops import native
from linfdist.ops.checks import FLOATS, check_p

LEAST_NORMAL = 1e-37  # above float32's smallest normal number, so that no logarithm is infinite
_ADVICE = (
    "A state must belong to this very parameter. If you replaced the parameter's data, make a new "
    "optimizer and run the backward pass again. If you loaded the state, it must come from the "
    "same parameters in the same order."
)
SMALLEST = -60.0  # e^-60 of the largest decay is negligible; times lr it is normal


def lp_decay_(weight: Tensor, p: float, rate: float) -> None:
    """weight −= rate (|w| / ‖w‖_p)^(p−2) w for each output row, in place  [Zhang2021, Eq. 6].

    A row is weight[j] flattened. A vector has rows of one entry, for which the formula is plain
    decay, as at p = 2. At p = ∞ only the largest entry decays, by w −= rate w; at a tie the first
    one does. A row of zeros stays unchanged, and NaN stays NaN.
    """
    p = check_p("lp_decay_", p)
    if weight.numel() == 0 or rate == 0:
        return
    if weight.ndim < 2 or p == 2:
        weight.mul_(1 - rate)
        return
    rows = weight.flatten(1).contiguous()  # a copy if weight is not contiguous
    _decay_rows_(rows, p, rate)
    if rows.data_ptr() != weight.data_ptr():
        weight.copy_(rows.view_as(weight))


def _decay_rows_(rows: Tensor, p: float, rate: float) -> None:
    magnitude = rows.abs()
    if math.isinf(p):
        largest = magnitude.argmax(1, keepdim=True)
        rows.scatter_add_(1, largest, rows.gather(1, largest) * -rate)
        return
    # With m = max|w|, t = (|w| / m)^(p−1) and s = Σ t |w| / m = (‖w‖_p / m)^p the decay is
    # sign(w) m t s^((2−p)/p): one power per entry, none above 1, and no 0 to a negative power.
    # exp and log are several times faster than pow. Clamping at SMALLEST avoids denormals.
    largest = magnitude.amax(1, keepdim=True)
    ratio = magnitude.div_(largest.clamp_min(LEAST_NORMAL)).clamp_min_(LEAST_NORMAL)
    power = ratio.log().mul_(p - 1).clamp_min_(SMALLEST).exp_()
    total = ratio.mul_(power).sum(1, keepdim=True).clamp_min_(1)  # 1 is the largest entry's term
    rows.addcmul_(rows.sign().mul_(power), total.pow_((2 - p) / p).mul_(largest), value=-rate)


def adamw_step_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    p: float,
    rate: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    steps: int,
) -> None:
    """``lp_decay_(weight, p, rate)``, then Adam's step number ``steps``, all in place.

    Adam's arithmetic is torch's: eps is added to the root of the corrected second moment. The CPU
    kernel treats denormals as 0.

    Args:
        weight: the parameter, changed in place.
        grad: its gradient.
        exp_avg: Adam's first moment, changed in place.
        exp_avg_sq: Adam's second moment, changed in place.
        p: p of the decay.
        rate: rate of the decay.
        lr: Adam's learning rate.
        betas: Adam's decay rates of the two moments.
        eps: Adam's eps.
        steps: number of this step, from 1.

    Raises:
        TypeError: one of the four tensors is not a dense tensor of weight's dtype.
        ValueError: one of them differs from weight in shape or device.
    """
    check_like(weight, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    if weight.numel() == 0:
        return
    if not _uses_native(weight, exp_avg, exp_avg_sq):
        lp_decay_(weight, p, rate)
        _adam_(weight, grad, exp_avg, exp_avg_sq, lr, betas, eps, steps)
        return
    if weight.ndim < 2:  # rows of one entry have plain decay
        p = 2.0
    rows = [
        tensor.detach().view(len(weight) if weight.ndim > 1 else 1, -1)
        for tensor in (weight, grad.contiguous(), exp_avg, exp_avg_sq)
    ]
    native.call("adamw", *rows, p, rate, lr, *betas, eps, steps)
    torch.autograd.graph.increment_version((weight, exp_avg, exp_avg_sq))


def check_like(weight: Tensor, **others: Tensor) -> None:
    """Refuse tensors unlike ``weight``. This reads only metadata: a step never waits for a GPU."""
    if not weight.is_floating_point():
        raise TypeError(
            f"LpAdamW: a parameter must hold real numbers; got {weight.dtype}. Convert it with "
            "parameter.float() first."
        )
    for name, value in others.items():
        if not isinstance(value, Tensor) or (value.dtype, value.layout) != (
            weight.dtype,
            weight.layout,
        ):
            actual = type(value).__name__
            if isinstance(value, Tensor):
                actual = f"{value.dtype}, {value.layout}"
            raise TypeError(
                f"LpAdamW: {name} must be a tensor like its parameter, {weight.dtype}, "
                f"{weight.layout}; got {actual}. {_ADVICE}"
            )
        if value.shape != weight.shape:
            raise ValueError(
                f"LpAdamW: {name} must have the shape of its parameter, {tuple(weight.shape)}; got "
                f"{tuple(value.shape)}. {_ADVICE}"
            )
        if value.device != weight.device:
            raise ValueError(
                f"LpAdamW: {name} must be on the device of its parameter, {weight.device}; got "
                f"{value.device}. {_ADVICE}"
            )


def _uses_native(*tensors: Tensor) -> bool:
    return native.runs_on(tensors[0].device) and all(
        tensor.dtype in FLOATS and tensor.is_contiguous() for tensor in tensors
    )


def _adam_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    steps: int,
) -> None:
    beta1, beta2 = betas
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**steps))
    weight.addcdiv_(exp_avg, root.add_(eps), value=-lr / (1 - beta1**steps))
