"""Checks of images, labels, radii, weights and networks, before certificates and attacks."""

import inspect
import math
from collections.abc import Iterator
from itertools import chain
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from linfdist.nn import LogSumExp, Normalize, refuse_wrapped
from linfdist.ops.checks import FLOATS
from linfdist.system.inputs import (
    detached,
    float_above,
    image_shape,
    integer_labels,
    pixel_radius,
    real,
    refuse_inference_tensors,
)
from linfdist.system.values import shown, whole

ROUNDED = 1e-3  # pixels: values this far outside [0, 1] count as rounding
PROTOCOL = (
    "A network is an nn.Module with num_classes, input_shape, forward(x, p) and, for certificates, "
    "worst_case_margins_on_box: see linfdist.robust.Classifier. If a wrapper holds the network, "
    "pass net.module."
)


def check_finite(net: "Classifier", caller: str) -> None:
    """Refuse a network with a parameter or buffer that is not finite or holds no values.

    Buffers outside the state dict count too.
    """
    for layer in net.modules():
        if isinstance(layer, Normalize):
            layer.check(caller)
    for name, tensor in chain(net.named_parameters(), net.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"{caller}: weights must be finite; {name} is on the device meta, which holds no "
                "values. Call net.to_empty(device=...), then net.load_state_dict."
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{caller}: weights must be finite; {name} holds NaN or infinity. The training "
                "diverged or the file is damaged: load other weights."
            )


def check_net(net: object, caller: str, *needed: str) -> None:
    """Refuse a network that is not a ``Classifier`` by type, methods and weights.

    ``needed`` names further methods that the network must have.

    Raises:
        TypeError: the network is not a module, is a torch wrapper of one, or lacks an attribute, a
            method or the argument p; or its weights have several precisions, or one other than
            float32 and float64.
        ValueError: the weights are on several devices, have no values, or are inference tensors.
    """
    name = type(net).__name__
    refuse_wrapped(net, caller)
    if not isinstance(net, nn.Module):
        raise TypeError(f"{caller}: net must be a network; got {shown(net)}. {PROTOCOL}")
    lacking = [part for part in ("num_classes", "input_shape", *needed) if not hasattr(net, part)]
    if lacking:
        raise TypeError(
            f"{caller}: net must have {', '.join(lacking)}; got {name}, which does not. {PROTOCOL}"
        )
    if not _takes_p(net):
        raise TypeError(
            f"{caller}: net must take p, as forward(x, p); got {name}, whose forward does not. "
            f"{PROTOCOL}"
        )
    whole(net.num_classes, f"{caller}: net.num_classes", least=2)
    image_shape(net.input_shape, caller, "net.input_shape")
    weights = [*net.parameters(), *net.buffers()]
    precisions = {w.dtype for w in weights if w.is_floating_point() or w.is_complex()}
    if len(precisions) > 1 or not precisions <= {*FLOATS}:
        raise TypeError(
            f"{caller}: net must be in float32 or in float64; got {name} in "
            f"{' and '.join(sorted(map(str, precisions)))}. Convert it with net.float()."
        )
    devices = sorted({str(weight.device) for weight in weights})
    if len(devices) > 1:
        raise ValueError(
            f"{caller}: net must be on one device; got {' and '.join(devices)}. Move it with "
            "net.to(device)."
        )
    if devices == ["meta"]:
        raise ValueError(
            f"{caller}: net must have weights; got {name} on the device meta, which holds no "
            "values. Call net.to_empty(device=...), then net.load_state_dict."
        )
    refuse_inference_tensors(net, caller)


def _takes_p(net: nn.Module) -> bool:
    try:
        signature = inspect.signature(net.forward)
    except (TypeError, ValueError):  # compiled code has none
        return True
    try:
        signature.bind(None, math.inf)
    except TypeError:
        return False
    return True


def check_images(
    net: "Classifier",
    images: Tensor,
    labels: Tensor | np.ndarray,
    caller: str,
    *needed: str,
    any_precision: bool = False,
) -> tuple[Tensor, Tensor]:
    """Checked images and labels: plain tensors without gradients, and int64 labels.

    Args:
        net: the network; it must pass ``check_net``.
        images: finite pixels in [0, 1], with the network's shape and on its device.
        labels: one class per image.
        caller: the name of the calling function in errors.
        needed: further methods that the network must have.
        any_precision: accept images of more precision than the network's weights.

    Raises:
        TypeError: a type or precision is wrong.
        ValueError: a shape, device or value is wrong.
    """
    check_net(net, caller, *needed)
    weight = next((w for w in net.parameters() if w.is_floating_point()), None)
    images = _pixels(images, caller)
    if images.dtype == torch.float64 and not (any_precision or weight is None):
        if weight.dtype != torch.float64:
            raise TypeError(
                f"{caller}: images must be in the network's precision, {weight.dtype}; got "
                f"{images.dtype}. Convert them with images.float()."
            )
    if tuple(images.shape[1:]) != tuple(net.input_shape):
        shape = ", ".join(map(str, net.input_shape))
        raise ValueError(
            f"{caller}: images must be pixels of shape (batch, {shape}), the network's "
            f"input_shape; got {tuple(images.shape)}."
        )
    if images.is_meta or (weight is not None and weight.device != images.device):
        raise ValueError(
            f"{caller}: images must be on the network's device, "
            f"{images.device if weight is None else weight.device}; got {images.device}. Move "
            "them with images.to(device)."
        )
    labels = integer_labels(labels, images, caller)
    if not images.isfinite().all():
        raise ValueError(
            f"{caller}: images must be finite; got NaN or infinity. Nothing can be certified for "
            "such images: clean the data first."
        )
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= 1:
        low, high = float(images.min()), float(images.max())
        small = max(-low, high - 1) <= ROUNDED
        advice = (
            "If resizing rounded them out of range, call images.clamp(0, 1)."
            if small
            else "The network normalises images itself. Divide levels of 0 to 255 by 255."
        )
        raise ValueError(
            f"{caller}: images must be pixels in [0, 1]; got values from {low!r} to {high!r}. "
            f"{advice}"
        )
    check_labels(labels, net.num_classes, caller)
    return images, labels


def _pixels(images: Tensor, caller: str) -> Tensor:
    """Floating-point images, detached from any graph and usable in a new one."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{caller}: images must be a torch.Tensor of pixels in [0, 1]; got {shown(images)}. "
            "Use torch.as_tensor."
        )
    if images.dtype not in FLOATS or images.layout != torch.strided:
        fix = "linfdist.data.sets.to_pixels" if images.dtype == torch.uint8 else "images.float()"
        layout = "" if images.layout == torch.strided else f", {images.layout}"
        raise TypeError(
            f"{caller}: images must be floating point in [0, 1], float32 or float64 and dense; got "
            f"{images.dtype}{layout}. Convert them with {fix}."
        )
    return detached(images)


def check_labels(labels: Tensor, num_classes: int, caller: str) -> None:
    """Refuse labels for which the network has no class."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.numel():
        raise ValueError(
            f"{caller}: labels must be in 0..{num_classes - 1}, the network's classes; got "
            f"{int(outside[0])}. Build the network with num_classes of the data set."
        )


def radius(
    eps: object, images: Tensor, caller: str, name: str = "eps", *, up: bool = False
) -> Tensor:
    """Radii in [0, 1] in float64, so that 8/255 is not rounded to 0.03137…: 0-d or (batch,).

    Args:
        eps: one radius that ``pixel_radius`` accepts, or a floating-point tensor or numpy array
            with one radius per image.
        images: the images, which set the batch size and the device.
        caller: the name of the calling function in errors.
        name: the name of the radius in errors.
        up: round one radius to the least number that is not below it, not to the nearest.

    Raises:
        TypeError: eps has another type.
        ValueError: a radius is not in [0, 1], or there is not one per image.
    """
    several = isinstance(eps, Tensor | np.ndarray) and eps.ndim > 0
    if not several:
        exact = pixel_radius(eps, caller, name)
        value = float_above(exact) if up else float(exact)
        return torch.tensor(value, dtype=torch.float64, device=images.device)
    if isinstance(eps, np.ndarray) and eps.dtype.kind == "f" and eps.dtype.itemsize <= 8:
        eps = torch.from_numpy(eps.astype(np.float64, order="C"))
    if not isinstance(eps, Tensor) or not eps.is_floating_point():
        raise TypeError(f"{caller}: {name} must be floating point, in pixels; got {shown(eps)}.")
    if eps.shape != images.shape[:1]:
        raise ValueError(
            f"{caller}: {name} must have shape ({len(images)},), one for each image, or be one "
            f"number; got {tuple(eps.shape)}."
        )
    if eps.is_meta:
        raise ValueError(f"{caller}: {name} must have values; got a tensor on device meta.")
    eps = detached(eps).to(images.device, torch.float64)
    if not bool((eps >= 0).all()):
        raise ValueError(f"{caller}: {name} must be at least 0, in pixels; got {eps.min().item()}.")
    if bool((eps > 1).any()):
        raise ValueError(
            f"{caller}: {name} must be at most 1, because pixels are in [0, 1]; got "
            f"{eps.max().item()}. Divide levels by 255; cut larger radii with clamp(max=1)."
        )
    return eps


def norm(p: object, caller: str, name: str = "p") -> float | LogSumExp:
    """p as a network accepts it: a number in [1, ∞] or a ``LogSumExp``."""
    if isinstance(p, LogSumExp):
        return p
    value = real(p, caller, name)
    if not value >= 1:
        raise ValueError(
            f"{caller}: {name} must be in [1, inf] or a LogSumExp, because there is no norm below "
            f"1; got {value}. Use math.inf for the l_inf distance."
        )
    return value


def checked_lipschitz(net: "Lipschitz", caller: str) -> float:
    """``net.lipschitz``, the divisor of a margin: finite and above 0."""
    given: object = net.lipschitz
    if isinstance(given, Tensor) and given.numel() == 1:
        given = given.item()
    value = real(given, caller, "net.lipschitz")
    if not 0 < value < math.inf:
        raise ValueError(f"{caller}: net.lipschitz must be finite and above 0; got {value}.")
    return value


class Classifier(Protocol):
    """An ``nn.Module`` that maps pixels, (batch, *input_shape), to logits, (batch, num_classes).

    ``worst_case_margins_on_box`` returns upper bounds of logit_k − logit_y at p = ∞ on the box
    lower <= pixels <= upper, 0 at k = y, shape (batch, num_classes). The last methods are those of
    every ``nn.Module`` that checks and evaluations use.
    """

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...

    def __call__(self, x: Tensor, p: float | LogSumExp = ...) -> Tensor: ...

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...

    def to(self, device: torch.device) -> object: ...


@runtime_checkable
class Lipschitz(Protocol):
    """Every logit is ``lipschitz``-Lipschitz in the pixels, in l_inf, at p = ∞."""

    @property
    def lipschitz(self) -> float: ...
