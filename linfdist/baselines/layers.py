"""Layers that torch does not have: a residual sum, and GroupSort's activation."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """body(x) + shortcut(x), each a sequence of layers."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class MaxMin(nn.Module):
    """The larger and the smaller of x_i and x_{i + n/2}, for every i < n/2  [Anil2019, GroupSort2].

    x of shape (batch, n) keeps its shape; n must be even. A permutation of the inputs, so
    1-Lipschitz in every norm l_p, and increasing in every input.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(
                "MaxMin: the number of inputs must be even, because MaxMin pairs them; got "
                f"{x.shape[1]}. Make the preceding layer one wider."
            )
        first, second = x.chunk(2, 1)
        return torch.cat((torch.maximum(first, second), torch.minimum(first, second)), 1)
