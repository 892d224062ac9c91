"""What images, labels and weights must be before anything is claimed of them."""

from itertools import chain

import torch
from torch import Tensor, nn

from linfdist.nn import Normalize, refuse_wrapped


def check_net(net: nn.Module, caller: str, *needed: str) -> None:
    """Refuse what torch wraps around a network, and what lacks one of these of a ``Classifier``."""
    refuse_wrapped(net, caller)
    for name in ("num_classes", *needed):
        if not hasattr(net, name):
            raise TypeError(
                f"{caller}: net must be a linfdist.robust.Classifier; {type(net).__name__} has no "
                f"{name}. Give it what the protocol names."
            )


def check_finite(net: nn.Module, caller: str) -> None:
    """Refuse a network with a parameter or buffer that is not finite, or holds no values.

    Buffers outside of the state dict count, too.
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


def check_images(net: nn.Module, images: Tensor, labels: Tensor, caller: str) -> None:
    """Refuse images that are not finite pixels in [0, 1], and labels that do not fit them."""
    check_net(net, caller)
    if not images.is_floating_point():
        raise TypeError(
            f"{caller}: images must be floating point in [0, 1]; got {images.dtype}. Convert them "
            "with linfdist.data.to_pixels."
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{caller}: labels must have shape ({len(images)},), one for each image; got "
            f"{tuple(labels.shape)}."
        )
    if not images.isfinite().all():
        raise ValueError(
            f"{caller}: images must be finite; got NaN or infinity. Nothing can be certified of "
            "them: clean the data first."
        )
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise ValueError(
            f"{caller}: images must be pixels in [0, 1]; got values from {float(images.min()):g} "
            f"to {float(images.max()):g}. The network normalises them itself."
        )
    check_labels(labels, net.num_classes, caller)


def check_labels(labels: Tensor, num_classes: int, caller: str) -> None:
    """Refuse labels that the network has no class for."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.numel():
        raise ValueError(
            f"{caller}: labels must be in 0..{num_classes - 1}, the network's classes; got "
            f"{int(outside[0])}. Build the network with num_classes of the data set."
        )


def check_eps(eps: Tensor, caller: str) -> None:
    """Refuse a radius that is negative or NaN."""
    if not bool((eps >= 0).all()):
        raise ValueError(f"{caller}: eps must be at least 0, in pixels; got {eps.min().item()}.")


def radius(eps: object, images: Tensor, caller: str) -> Tensor:
    """eps, a number or one for each image, in float64 so that 8/255 is not rounded to 0.03137…"""
    value = eps if isinstance(eps, Tensor) else float(eps)
    value = torch.as_tensor(value, dtype=torch.float64, device=images.device)
    check_eps(value, caller)
    return value
