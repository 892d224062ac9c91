"""Argument checks that all ops share. They read only metadata: no element, no synchronisation."""

import torch
from torch import Tensor
from torch.library import CustomOpDef

FLOATS = (torch.float32, torch.float64)


def check_p(op: str, p: float) -> float:
    """``p`` as a float in [1, ∞]."""
    if isinstance(p, Tensor):
        raise TypeError(f"{op}: p must be a Python number; got a tensor. Pass p.item().")
    value = float(p)
    if not value >= 1:
        raise ValueError(
            f"{op}: p must be in [1, inf], because there is no norm below 1; got p={value}. Use "
            "math.inf for the l_inf distance."
        )
    return value


def check_t(op: str, t: float) -> float:
    """``t`` as a float in (0, ∞]."""
    if isinstance(t, Tensor):
        raise TypeError(f"{op}: t must be a Python number; got a tensor. Pass t.item().")
    value = float(t)
    if not value > 0:
        raise ValueError(
            f"{op}: t must be in (0, inf]; got t={value}. The distance approaches the l_inf "
            "distance as t grows; math.inf is the l_inf distance itself."
        )
    return value


def dtype_in_op(value: Tensor) -> torch.dtype:
    """The dtype that the op computes in: inside ``torch.autocast`` float32 for half precision."""
    half = value.dtype in (torch.float16, torch.bfloat16)
    if half and torch.is_autocast_enabled(value.device.type):
        return torch.float32
    return value.dtype


def cast_in_autocast(op: CustomOpDef) -> None:
    """Run ``op`` and its products in float32 inside ``torch.autocast``, as torch.cdist does."""
    for device_type in ("cpu", "cuda"):
        op.register_autocast(device_type, torch.float32)


def check_pair(op: str, x: Tensor, weight: Tensor, name: str = "x") -> None:
    """Check x (…, in_features) and weight (out_features, in_features): one dtype, one device.

    Half precision passes inside ``torch.autocast``: ``cast_in_autocast`` converts it to float32.
    """
    for label, value in ((name, x), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{op}: {label} must be a torch.Tensor; got {type(value).__name__}. "
                "Use torch.as_tensor."
            )
        if dtype_in_op(value) not in FLOATS:
            raise TypeError(
                f"{op}: {label} must be float32 or float64; got {value.dtype}. "
                f"Convert it with {label}.float()."
            )
    if dtype_in_op(x) != dtype_in_op(weight):
        raise TypeError(
            f"{op}: {name} and weight must share one dtype; got {x.dtype} and {weight.dtype}. "
            f"Convert one of them, for example {name}.to(weight.dtype)."
        )
    if x.device != weight.device:
        raise ValueError(
            f"{op}: {name} and weight must be on one device; got {x.device} and {weight.device}. "
            f"Move one of them, for example {name}.to(weight.device)."
        )
    if weight.dim() != 2:
        raise ValueError(
            f"{op}: weight must have shape (out_features, in_features); got {tuple(weight.shape)}."
        )
    if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{op}: {name} must have in_features={weight.shape[1]} in its last axis; "
            f"got {tuple(x.shape)}. Flatten or transpose it first."
        )
