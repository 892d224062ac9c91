"""Check and convert the arguments of public functions; an error names the refused argument."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from linfdist.system.values import shown, whole

# float is the base of np.float64. Python's bool is an int, so ``is_real`` excludes it separately.
_REALS = (int, float, Fraction, np.integer, np.float16, np.float32)


def is_real(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a real number of Python or numpy, not a bool, text or a tensor."""
    return isinstance(value, _REALS) and not isinstance(value, bool)


def real(value: object, caller: str, name: str) -> float:
    """A real number of Python or numpy as a float: finite, infinite or NaN.

    Raises:
        TypeError: ``value`` has another type.
        ValueError: the number is too large for float64.
    """
    if not is_real(value):
        raise TypeError(
            f"{caller}: {name} must be a number; got {shown(value)}. Pass a float or a Fraction."
        )
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{caller}: {name} must fit into float64; got a larger number.") from error


def finite(value: object, caller: str, name: str) -> float:
    """``real``, but neither infinite nor NaN."""
    number = real(value, caller, name)
    if not math.isfinite(number):
        raise ValueError(f"{caller}: {name} must be finite; got {number}.")
    return number


def checked_generator(value: object, caller: str) -> torch.Generator | None:
    """``value`` if it is a ``torch.Generator`` or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(
            f"{caller}: generator must be a torch.Generator or None; got {shown(value)}. Pass "
            "torch.Generator().manual_seed(0)."
        )
    return value


def pixel_radius(value: object, caller: str, name: str = "eps") -> Fraction:
    """A radius in pixels as the exact rational number of ``value``.

    ``value`` is a ``Fraction``, a number of Python or numpy, or a 0-d floating-point tensor or
    array. Text and ``Decimal`` are refused: the float nearest to them may lie below them.

    Raises:
        TypeError: ``value`` has another type.
        ValueError: ``value`` is not in [0, 1].
    """
    number = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(number, Tensor) and number.ndim == 0 and number.is_floating_point():
        if number.is_meta:
            raise ValueError(f"{caller}: {name} must have a value; got a tensor on device meta.")
        number = number.item()
    if not is_real(number):
        raise TypeError(
            f"{caller}: {name} must be a number of pixels, such as Fraction(8, 255) or 0.1; got "
            f"{shown(value)}. A Fraction is exact: Fraction(8, 255), Fraction('0.1')."
        )
    if not number >= 0:
        raise ValueError(f"{caller}: {name} must be at least 0, in pixels; got {number}.")
    if number > 1:
        levels = number <= 255 and number == int(number)
        meant = f"Fraction({int(number)}, 255)" if levels else "1, which reaches every image"
        raise ValueError(
            f"{caller}: {name} must be at most 1, because pixels are in [0, 1]; got {number}. Did "
            f"you mean {meant}?"
        )
    return Fraction(number.item() if isinstance(number, np.generic) else number)


def float_above(exact: Fraction) -> float:
    """The least float64 number that is at least ``exact``: a radius is never made smaller."""
    value = float(exact)
    return math.nextafter(value, math.inf) if Fraction(value) < exact else value


def image_shape(value: object, caller: str, name: str = "input_shape") -> tuple[int, int, int]:
    """(channels, height, width), each at least 1."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise TypeError(
            f"{caller}: {name} must be (channels, height, width); got {shown(value)}. Grey images "
            "of 28x28 are (1, 28, 28)."
        )
    channels, height, width = (whole(side, f"{caller}: each of {name}", least=1) for side in value)
    return channels, height, width


def class_count(value: object, caller: str) -> int:
    """The number of classes of a network: at least 2."""
    return whole(value, f"{caller}: num_classes", least=2)


def channel_means(value: object, channels: int, caller: str) -> tuple[float, ...]:
    """One finite number per channel, from a sequence, a numpy array or a tensor."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"{caller}: mean must be a sequence of one number per channel; got {shown(value)}. For "
            "grey images pass (0.5,)."
        )
    means = tuple(finite(number, caller, "each of mean") for number in value)
    if len(means) != channels:
        raise ValueError(
            f"{caller}: mean must have one value for each of the {channels} channels of "
            f"input_shape; got {len(means)}."
        )
    return means


def deviation(value: object, caller: str) -> float:
    """The std of all channels: one number above 0."""
    if isinstance(value, Sequence | np.ndarray) or (isinstance(value, Tensor) and value.ndim):
        raise TypeError(
            f"{caller}: std must be one number for all channels, so that an l_inf ball stays an "
            f"l_inf ball; got {shown(value)}. Pass their mean."
        )
    number = finite(value.item() if isinstance(value, Tensor) else value, caller, "std")
    if not number > 0:
        raise ValueError(f"{caller}: std must be positive; got {number}.")
    return number


def wholes(value: object, caller: str, name: str) -> tuple[int, ...]:
    """A sequence of whole numbers, which may be empty."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"{caller}: {name} must be a sequence of whole numbers; got {shown(value)}. A single "
            "one is (64,)."
        )
    return tuple(whole(number, f"{caller}: each of {name}", least=None) for number in value)


def positive(value: object, caller: str, name: str) -> float:
    """A finite number above 0."""
    number = finite(value, caller, name)
    if not number > 0:
        raise ValueError(f"{caller}: {name} must be positive; got {number}.")
    return number


def float_tensor(value: object, caller: str, name: str, ndim: int | None = None) -> Tensor:
    """A floating-point tensor, with ``ndim`` axes if given. Only metadata is read."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(
            f"{caller}: {name} must be a tensor of floating point; got {shown(value)}. Use "
            "torch.as_tensor and .float()."
        )
    if ndim is not None and value.ndim != ndim:
        raise ValueError(
            f"{caller}: {name} must have {ndim} axes; got the shape {tuple(value.shape)}."
        )
    return value


def check_function(value: object, caller: str, name: str = "function") -> None:
    """Raise TypeError unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{caller}: {name} must be a function; got {shown(value)}.")


def detached(tensor: Tensor) -> Tensor:
    """The tensor without its graph; outside of inference mode it is no inference tensor either."""
    tensor = tensor.detach()
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return tensor.clone()
    return tensor


def refuse_inference_tensors(net: nn.Module, caller: str) -> None:
    """Refuse weights that are inference tensors: torch only uses them in inference mode."""
    if torch.is_inference_mode_enabled():
        return
    if any(weight.is_inference() for weight in (*net.parameters(), *net.buffers())):
        raise ValueError(
            f"{caller}: net must not hold inference tensors; got {type(net).__name__}. Build and "
            "load it outside torch.inference_mode()."
        )


def integer_labels(
    labels: Tensor | np.ndarray,
    images: Tensor,
    caller: str,
    row: str = "image",
    *,
    count: bool = True,
) -> Tensor:
    """The labels in int64 on the images' device.

    Only metadata is read, so nothing synchronises with the device.

    Args:
        labels: a tensor or numpy array of any integer type.
        images: a tensor with one row per image; its device is the result's.
        caller: the name of the public function, for errors.
        row: the name of a row of ``images``, for errors.
        count: whether there must be one label per row of ``images``.

    Raises:
        TypeError: ``labels`` has another type, such as floating point, bool or a list.
        ValueError: there is not one label per row, or the labels are on the device meta and the
            images are not.
    """
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        labels = torch.from_numpy(labels.astype(np.int64, order="C"))
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{caller}: labels must be a tensor or numpy array of integers; got {shown(labels)}. "
            "Convert a list with torch.tensor."
        )
    dtype = labels.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool or labels.is_quantized:
        raise TypeError(
            f"{caller}: labels must be integers; got {dtype}. Convert classes with labels.long(), "
            "one-hot rows with labels.argmax(1)."
        )
    if count and labels.shape != images.shape[:1]:
        raise ValueError(
            f"{caller}: labels must have shape {tuple(images.shape[:1])}, one for each {row}; got "
            f"{tuple(labels.shape)}."
        )
    if labels.is_meta and not images.is_meta:
        raise ValueError(f"{caller}: labels must have values; got labels on the device meta.")
    return detached(labels).to(images.device, torch.int64)
