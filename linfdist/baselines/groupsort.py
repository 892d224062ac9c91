"""Linear layers that are 1-Lipschitz in l_inf  [Anil2019]."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def project_rows(weight: Tensor) -> Tensor:
    """The nearest matrix, in l_2, whose rows have l_1 norm at most 1, so that ‖W‖_∞ <= 1.

    A row of larger norm becomes sign(w) [|w| − θ]_+, with θ the one value that gives norm 1: after
    sorting |w| downward, (Σ_{i<=k} |w|_i − 1) / k at its largest over k. Differentiable. Cost: a
    sort of every row.
    """
    size = weight.abs()
    ordered = size.sort(1, descending=True).values
    counts = torch.arange(1, weight.shape[1] + 1, device=weight.device, dtype=weight.dtype)
    theta = ((ordered.cumsum(1) - 1) / counts).amax(1, keepdim=True).clamp_min(0)
    nearest = weight.sign() * (size - theta).clamp_min(0)
    # θ is rounded in units of |w|: what that leaves above norm 1 is divided out.
    return nearest / nearest.detach().abs().sum(1, keepdim=True).clamp_min(1)


class UnitRows(nn.Module):
    """``project_rows`` as a parametrisation of a layer's weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return project_rows(weight)


def unit_linear(in_features: int, out_features: int) -> nn.Linear:
    """A Linear whose weight is, wherever it is read, projected to ‖W‖_∞ <= 1.

    |(W x)_j − (W z)_j| <= ‖x − z‖_∞. No optimiser can leave the ball: it moves the matrix before
    the projection. ``parametrize.cached()`` around an evaluation projects once.
    """
    return parametrize.register_parametrization(
        nn.Linear(in_features, out_features), "weight", UnitRows()
    )
