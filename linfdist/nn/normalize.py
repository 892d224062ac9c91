"""The input normalisation, as the network's first layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x − mean[c]) / std: pixels in [0, 1] to the network's units.

    x has shape (batch, channels, height, width). ``mean`` has one value a channel, ``std`` is one
    scalar, so that an l_inf ball stays an l_inf ball; ``lipschitz`` = 1 / std is what a
    certificate in the network's units is divided by to be one in pixels.
    """

    mean: Tensor
    divisor: Tensor

    def __init__(self, mean: Sequence[float], std: float) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"Normalize: std must be positive; got {std}.")
        self.std = float(std)
        # Part of the configuration, not of the trained state.
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1), persistent=False)
        # A tensor: by a number CUDA would multiply with its inverse, and round another way.
        self.register_buffer("divisor", torch.tensor(self.std), persistent=False)

    @property
    def lipschitz(self) -> float:
        return 1 / self.std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.divisor

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The range on a box: the layer is increasing."""
        return self(lower), self(upper)

    def extra_repr(self) -> str:
        return f"channels={len(self.mean)}, std={self.std}"
