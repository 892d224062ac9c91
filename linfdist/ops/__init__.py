"""The distance operations as torch custom ops that call native kernels.

``lp_dist(x, weight, p)``, ``lse_dist(x, weight, t)`` and ``linf_interval(lower, upper, weight)``
work with autograd, ``torch.compile(fullgraph=True)`` and fake tensors; ``backend(device)`` names
the implementation that runs.
"""

from linfdist.ops.interval import linf_interval
from linfdist.ops.lp_distance import lp_dist
from linfdist.ops.lse_distance import lse_dist
from linfdist.ops.native import backend

__all__ = ["backend", "linf_interval", "lp_dist", "lse_dist"]
