"""Linear layers that are 1-Lipschitz in l_inf  [Anil2019]."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def project_rows(weight: Tensor) -> Tensor:
    """The nearest matrix, in l_2, whose rows have l_1 norm at most 1, so that ‖W‖_∞ <= 1.

    A row of larger norm becomes sign(w) [|w| − θ]_+ with the one θ that gives norm 1, found by
    Newton's method: Σ [|w| − θ]_+ is convex and piecewise linear in θ, so that from θ = 0 the steps
    grow and end, mostly within ten, exactly. Differentiable. Cost: two sums of the rows a step, in
    all about half of a sort of every row.
    """
    if weight.is_meta:  # a shape without values
        return weight
    size = weight.abs()
    above = _above(size.detach())
    excess = (size * above).sum(1, keepdim=True) - 1
    theta = (excess / above.sum(1, keepdim=True).clamp_min(1)).clamp_min(0)
    nearest = weight.sign() * (size - theta).clamp_min(0)
    # θ is rounded in units of |w|: what that leaves above norm 1 is divided out.
    return nearest / nearest.detach().abs().sum(1, keepdim=True).clamp_min(1)


def _above(size: Tensor) -> Tensor:
    """Which entries are above their row's θ."""
    theta = size.new_zeros(len(size), 1)
    while True:
        above = size > theta
        excess = (size * above).sum(1, keepdim=True) - 1
        # Never downward, as rounding alone would go: so the steps end.
        following = torch.maximum(theta, excess / above.sum(1, keepdim=True).clamp_min(1))
        if torch.equal(following, theta):
            return above
        theta = following


class UnitRows(nn.Module):
    """``project_rows`` as a parametrisation of a layer's weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return project_rows(weight)


def unit_linear(in_features: int, out_features: int) -> nn.Linear:
    """A Linear whose weight is, wherever it is read, projected to ‖W‖_∞ <= 1.

    |(W x)_j − (W z)_j| <= ‖x − z‖_∞. No optimiser can leave the ball: it moves the matrix before
    the projection. ``linfdist.nn.frozen`` projects once for an evaluation.
    """
    layer = nn.Linear(in_features, out_features)
    parametrize.register_parametrization(layer, "weight", UnitRows())
    return layer
