"""Layers of l_p-distance neurons: fully connected and convolutional."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.nn.logsumexp import Distance, LogSumExp
from linfdist.ops import linf_interval
from linfdist.system.inputs import finite
from linfdist.system.values import whole


def _init_weight(weight: Tensor, identity_value: float | None, groups: int = 1) -> None:
    """Draw from N(0, 1), then write the identity map into each group that has in <= out.

    The identity map sets entry (i, i mod in) of each row i, at the centre tap of a kernel.
    """
    nn.init.normal_(weight)
    in_features, out_features = weight.shape[1], weight.shape[0] // groups
    if identity_value is None or in_features > out_features:
        return
    rows = torch.arange(len(weight), device=weight.device)
    centre = tuple(size // 2 for size in weight.shape[2:])
    with torch.no_grad():
        index: Any = (rows, rows % out_features % in_features, *centre)
        weight[index] = identity_value


class LpDist(nn.Module):
    """‖x − w_j‖_p (+ b_j) for every row w_j of ``weight``  [Zhang2021, Eq. 3].

    At p = ∞ the layer is 1-Lipschitz with respect to l_inf; at finite p it is not (Remark 3.5).
    ``forward`` takes x of shape (..., in_features) and returns (..., out_features). p is an
    argument of ``forward``: no module stores a p, so no certificate can use a wrong one. A
    ``LogSumExp`` in place of p smooths the l_inf distance; the layer is then 1-Lipschitz.

    Initialisation:

    - ``weight``, of shape (out_features, in_features), starts as N(0, 1).
    - With ``identity_value`` (the paper's C_0 = −10), every weight[i, i mod in_features] is then
      set to that value. Output i copies input i mod in_features up to a constant, also where
      in_features < out_features.
    - A layer with fewer outputs than inputs cannot copy its input. It stays Gaussian, as in the
      authors' code.
    - ``bias`` starts at 0.

    Args:
        in_features: size of the last axis of x.
        out_features: number of neurons.
        bias: whether the layer adds a bias b_j.
        identity_value: value of the identity map; None for a Gaussian initialisation.
        device: device of the parameters.
        dtype: precision of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        identity_value: float | None = -10.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = whole(in_features, "LpDist: in_features", least=None)
        self.out_features = whole(out_features, "LpDist: out_features", least=None)
        if identity_value is not None:
            identity_value = finite(identity_value, "LpDist", "identity_value")
        if self.in_features < 1 or self.out_features < 1:
            raise ValueError(
                "LpDist: in_features and out_features must be at least 1; got "
                f"{in_features} and {out_features}."
            )
        shape = (self.out_features, self.in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        zeros = torch.zeros(self.out_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(zeros) if bias else None
        self.distance = Distance()
        _init_weight(self.weight, identity_value)

    def forward(self, x: Tensor, p: float | LogSumExp = math.inf) -> Tensor:
        self._check(x)
        out = self.distance(x, self.weight, p)
        return out if self.bias is None else out + self.bias

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The exact range of the layer at p = ∞ on the box lower <= x <= upper."""
        self._check(lower)
        lower, upper = linf_interval(lower, upper, self.weight)
        return (lower, upper) if self.bias is None else (lower + self.bias, upper + self.bias)

    def _check(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"LpDist: x must have in_features={self.in_features} in its last axis; got "
                f"{tuple(x.shape)}. Flatten it first."
            )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


def _pair(name: str, value: object, *, least: int = 1) -> tuple[int, int]:
    """The values for height and width, from one integer for both or from two integers."""
    if isinstance(value, str):
        raise TypeError(
            f"LpDistConv2d: {name} must be one integer or two; got {value!r}. The size stays the "
            "same with a stride of 1 and padding = dilation * (kernel_size - 1) // 2, for an odd "
            "kernel_size."
        )
    if not isinstance(value, Sequence):
        value = (value, value)
    if len(value) != 2:
        raise ValueError(f"LpDistConv2d: {name} must be one integer or two; got {value!r}.")
    height, width = (whole(part, f"LpDistConv2d: {name}", least=least) for part in value)
    return height, width


class LpDistConv2d(nn.Module):
    """‖patch − w_j‖_p for every patch of the image and every kernel w_j  [Zhang2021, App. F].

    x of shape (batch, in_channels, height, width) becomes (batch, out_channels, height', width').
    Padded pixels are zeros that take part in the distance. At p = ∞ the layer is 1-Lipschitz with
    respect to l_inf. ``weight`` has shape (out_channels, in_channels / groups, *kernel_size). Each
    group of it starts as in ``LpDist``, with the identity value on the centre tap of each kernel.

    Cost: the layer writes out the patches, so its memory is that of x times the kernel size: 2.4 GB
    for the largest layer of the paper's net [Zhang2021, Table 8] at batch 512. Counting bytes and
    instructions, writing the patches takes about a tenth of the time of forward and backward on a
    GPU at p = 8. Gathering the patches in the kernel would cost about as many instructions.

    Args:
        in_channels: channels of x.
        out_channels: number of kernels.
        kernel_size: height and width of a kernel, one integer or two.
        stride: as in ``nn.Conv2d``, one integer or two.
        padding: as in ``nn.Conv2d``, one integer or two.
        dilation: as in ``nn.Conv2d``, one integer or two.
        groups: as in ``nn.Conv2d``.
        identity_value: as in ``LpDist``.
        device: device of the weight.
        dtype: precision of the weight.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        *,
        identity_value: float | None = -10.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = whole(in_channels, "LpDistConv2d: in_channels", least=1)
        self.out_channels = whole(out_channels, "LpDistConv2d: out_channels", least=1)
        self.groups = whole(groups, "LpDistConv2d: groups", least=1)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"LpDistConv2d: groups must divide in_channels={in_channels} and "
                f"out_channels={out_channels}; got groups={groups}."
            )
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.stride = _pair("stride", stride)
        self.padding = _pair("padding", padding, least=0)
        self.dilation = _pair("dilation", dilation)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.distances = nn.ModuleList(Distance() for _ in range(self.groups))
        _init_weight(self.weight, identity_value, self.groups)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for an image of the given height and width."""
        sizes = []
        for axis, size in enumerate((height, width)):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
            sizes.append((size + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1)
        return sizes[0], sizes[1]

    def forward(self, x: Tensor, p: float | LogSumExp = math.inf) -> Tensor:
        groups = zip(self.distances, self._patches(x), self._weights(), strict=True)
        return self._image(x, [distance(patches, w, p) for distance, patches, w in groups])

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The exact range of each output at p = ∞ on the box lower <= x <= upper."""
        groups = zip(self._patches(lower), self._patches(upper), self._weights(), strict=True)
        bounds = [linf_interval(low, high, weight) for low, high, weight in groups]
        return (
            self._image(lower, [low for low, _ in bounds]),
            self._image(upper, [high for _, high in bounds]),
        )

    def _weights(self) -> tuple[Tensor, ...]:
        """One (out, in) matrix per group."""
        return self.weight.flatten(1).chunk(self.groups)

    def _patches(self, x: Tensor) -> list[Tensor]:
        """One (batch, patches, in) tensor per group."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"LpDistConv2d: x must be (batch, in_channels={self.in_channels}, height, width); "
                f"got {tuple(x.shape)}."
            )
        columns = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        return [part.transpose(1, 2) for part in columns.chunk(self.groups, dim=1)]

    def _image(self, x: Tensor, groups: list[Tensor]) -> Tensor:
        out = torch.cat(groups, dim=-1).transpose(1, 2)
        return out.unflatten(2, self.output_size(*x.shape[2:]))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}"
        )
