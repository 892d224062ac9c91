"""The conventional head of Net+MLP, with the interval rules of IBP."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.system.inputs import integer_labels
from linfdist.system.values import whole

LARGEST = 2.0**120  # 2^8 below float32's largest: room for differences and sums of bounds


def sums_hold(lower: Tensor, upper: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Whether W x + b and its bounds on a box stay free of float32 overflow; shape (batch,).

    Every partial sum, in any order, is at most max |x| max_j Σ_i |W_ji|. ``weight`` has one row per
    output. The result is False for NaN too.
    """
    size = torch.maximum(lower.abs(), upper.abs()).flatten(1).amax(1)
    reach = weight.abs().flatten(1).sum(1).amax()
    fixed = (reach <= LARGEST) & (bias.abs().amax() <= LARGEST)
    return (size <= LARGEST) & (size * reach <= LARGEST) & fixed


class BoundedLinear(nn.Module):
    """W x / √in_features + b, with the authors' scaling; W starts from N(0, 1), b from 0.

    x of shape (batch, in_features) becomes (batch, out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features = whole(in_features, "BoundedLinear: in_features", least=1)
        out_features = whole(out_features, "BoundedLinear: out_features", least=1)
        self.in_features = in_features
        self.out_features = out_features
        weight = torch.empty(out_features, in_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        self.scale = 1 / math.sqrt(self.in_features)
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(
                f"BoundedLinear: x must be (batch, in_features={self.in_features}); got "
                f"{tuple(x.shape)}."
            )
        return F.linear(x, self.weight) * self.scale + self.bias

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """W μ + b ∓ |W| r, where μ is the middle and r the half width  [Zhang2021, Eq. 19]."""
        middle = self((lower + upper) / 2)
        radius = F.linear((upper - lower) / 2, self.weight.abs()) * self.scale
        return middle - radius, middle + radius

    def worst_case_margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """Upper bounds of out_k − out_y on the box, 0 at k = y  [Zhang2021, Eq. 21].

        The difference is one linear map, (W_k − W_y) x + (b_k − b_y). Its bound is tighter than the
        difference of the two bounds. The result has shape (batch, out_features). Cost: one product
        with a matrix of out_features² rows computes the bound for every pair (y, k).
        """
        labels = integer_labels(labels, lower, "worst_case_margins")
        middle = self((lower + upper) / 2)
        differences = (self.weight.unsqueeze(0) - self.weight.unsqueeze(1)).abs()  # [y, k, in]
        radius = F.linear((upper - lower) / 2, differences.flatten(0, 1)) * self.scale
        radius = radius.unflatten(1, (self.out_features, self.out_features))
        column = labels.unsqueeze(1)
        own = column.unsqueeze(2).expand(-1, 1, self.out_features)
        margins = middle - middle.gather(1, column) + radius.gather(1, own).squeeze(1)
        return margins.scatter(1, column, 0.0)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class BoundedTanh(nn.Tanh):
    """tanh with its interval rule: tanh is increasing, so it maps bounds to bounds."""

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self(lower), self(upper)
