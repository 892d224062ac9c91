"""The distance of a dist layer: l_p, or l_inf smoothed by LogSumExp."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linfdist.ops import lp_dist, lse_dist
from linfdist.system import distributed
from linfdist.system.inputs import real

MOMENTUM = 0.1
MEASURED_EVERY = 8  # measures one row in eight, which costs an eighth of a forward pass at p = ∞


@dataclass(frozen=True)
class LogSumExp:
    """An argument in place of p for a network's ``forward``: layers then use ``lse_dist`` at t.

    Like a finite p, a LogSumExp smooths training. Certificates always use p = ∞.

    The l_p distance at p is the counterpart of a matched t = p − 1. In both, a difference that lies
    m_l / (p − 1) below the largest has about 1/e of the largest one's gradient.

    Args:
        t: in (0, ∞); the larger t, the nearer the l_inf distance.
        matched: t is in units of each layer's own distances. Layer l takes t_l = t / m_l, where m_l
            is the running mean of its ‖x − w_j‖_∞.
    """

    t: float
    matched: bool = False

    def __post_init__(self) -> None:
        if not 0 < real(self.t, "LogSumExp", "t") < math.inf:
            raise ValueError(
                f"LogSumExp: t must be in (0, inf); got {self.t}. Pass p=math.inf itself for the "
                "l_inf distance."
            )


class Distance(nn.Module):
    """The distances of a dist layer, and their running mean for a matched temperature.

    ``mean`` is the running mean of ‖x − w_j‖_∞ over every eighth sample and all neurons. It covers
    the samples of all processes: the same samples as in a single process if each process's share
    of the batch is a multiple of eight.

    In training mode a matched ``LogSumExp`` updates ``mean`` before using it, and treats it as a
    constant. Before the first training batch, each batch's own mean takes its place.

    ``mean`` is a buffer outside the state dict: p = ∞ does not need it, and weights fit any network
    regardless of their training.
    """

    mean: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None, persistent=False)

    def forward(self, x: Tensor, weight: Tensor, p: float | LogSumExp) -> Tensor:
        if not isinstance(p, LogSumExp):
            return lp_dist(x, weight, p)
        if not p.matched:
            return lse_dist(x, weight, p.t)
        mean = self._mean(x.detach(), weight.detach())
        # m f_t(x / m, w / m) = f_(t / m)(x, w): t stays on the host, m on the device.
        return mean * lse_dist(x / mean, weight / mean, p.t)

    def _mean(self, x: Tensor, weight: Tensor) -> Tensor:
        """The running mean; in training mode it includes this batch."""
        if self.mean is not None and not self.training:
            return self.mean
        distance = lp_dist(x.reshape(-1, weight.shape[1])[::MEASURED_EVERY], weight)
        if distance.numel() == 0 and not (self.training and distributed.size() > 1):
            return x.new_ones(()) if self.mean is None else self.mean
        sums = torch.stack((distance.sum(), distance.new_tensor(distance.numel())))
        if self.training:
            sums = distributed.total(sums)
        mean = (sums[0] / sums[1]).clamp_min(torch.finfo(x.dtype).tiny)  # 0 where x = w
        if self.training:
            self.mean = mean = mean if self.mean is None else self.mean.lerp(mean, MOMENTUM)
        return mean


def mean_distances(net: nn.Module) -> list[Tensor | None]:
    """The running means of all layers, in order: training state that no state dict holds."""
    return [layer.mean for layer in _distances(net)]


def set_mean_distances(net: nn.Module, means: Sequence[Tensor | None]) -> None:
    """Restore the means that ``mean_distances`` returned."""
    for layer, mean in zip(_distances(net), means, strict=True):
        layer.mean = mean


def _distances(net: nn.Module) -> list[Distance]:
    return [module for module in net.modules() if isinstance(module, Distance)]
