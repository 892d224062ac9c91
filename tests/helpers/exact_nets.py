"""The networks at p = ∞ in exact rational arithmetic; tanh to 200 bits. Slow, and plainly right."""

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
from torch import Tensor, nn

from linfdist.nn import BoundedLinear, LinfDistNet, LpDistConv2d, MeanShift

mpmath.mp.prec = 200


def fractions(values: Tensor) -> np.ndarray:
    """The numbers of a tensor as they are."""
    return _each(Fraction, values.detach().double().numpy())


def ball(levels: np.ndarray, given: np.ndarray, eps: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """The ends of all that is within eps of level / 255 or of the float32 pixel, in [0, 1]."""
    nearest = _each(lambda level: Fraction(int(level), 255), levels)
    lower, upper = np.minimum(nearest, given) - eps, np.maximum(nearest, given) + eps
    return np.maximum(lower, Fraction(0)), np.minimum(upper, Fraction(1))


def features(net: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Of images, shape (batch, channels, height, width), as Fractions."""
    normalize = net.features.normalize
    x = (pixels - fractions(normalize.mean)) / fractions(normalize.divisor)[()]
    # From here on integers over one denominator, of which every float32 number is a multiple.
    unit = math.lcm(*(value.denominator for value in x.ravel())) << 149
    x = _whole(x, unit)
    for layer in net.features.layers:
        if isinstance(layer, nn.Flatten):
            x = x.reshape(len(x), -1)
        elif isinstance(layer, MeanShift):
            mean = _whole(fractions(layer.running_mean), unit)
            x = x - mean.reshape(-1, *[1] * (x.ndim - 2))
        elif isinstance(layer, LpDistConv2d):
            x = _convolved(layer, x, unit)
        else:
            x = _distances(x, _whole(fractions(layer.weight), unit))
    return _each(lambda value: Fraction(value, unit), x)


def logits(net: nn.Module, features: np.ndarray) -> np.ndarray:
    """Of features, shape (batch, features): Fractions, or mpmath numbers where there is a tanh."""
    if isinstance(net, LinfDistNet):
        return -(_distances(features, fractions(net.last.weight)) + fractions(net.last.bias))
    x = _each(lambda value: mpmath.mpf(value.numerator) / value.denominator, features)
    return _linear(net.fc2, _each(mpmath.tanh, _linear(net.fc1, x)))


def _each(function: Callable, values: np.ndarray) -> np.ndarray:
    return np.array([function(value) for value in values.ravel()], object).reshape(values.shape)


def _whole(values: np.ndarray, unit: int) -> np.ndarray:
    return _each(lambda value: value.numerator * (unit // value.denominator), values)


def _distances(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.abs(x[:, None] - weight).max(-1)


def _convolved(layer: LpDistConv2d, x: np.ndarray, unit: int) -> np.ndarray:
    """3 × 3, padding 1, a stride, no groups: what NetConfig makes."""
    assert layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.groups == 1
    padded = np.full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2), 0, object)
    padded[:, :, 1:-1, 1:-1] = x
    weight = _whole(fractions(layer.weight.flatten(1)), unit)
    height, width = layer.output_size(*x.shape[2:])
    out = np.empty((len(x), len(weight), height, width), object)
    for i, j in np.ndindex(height, width):
        top, left = i * layer.stride[0], j * layer.stride[1]
        patch = padded[:, :, top : top + 3, left : left + 3].reshape(len(x), -1)
        out[:, :, i, j] = _distances(patch, weight)
    return out


def _linear(layer: BoundedLinear, x: np.ndarray) -> np.ndarray:
    weight, bias = (
        _each(mpmath.mpf, value.detach().double().numpy()) for value in (layer.weight, layer.bias)
    )
    return x @ weight.T * mpmath.mpf(float(np.float32(layer.scale))) + bias
