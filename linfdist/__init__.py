"""linfdist: certified l_inf robustness with l_inf-distance networks.

Networks of neurons ‖x − w‖_∞ + b are 1-Lipschitz in l_inf, so one forward pass certifies them
[Zhang2021]. Submodules: ``ops`` (distances), ``nn`` (layers and networks), ``optim``, ``robust``
(losses, certificates, attacks), ``baselines`` (the compared methods), ``theory``, ``data``,
``training``, ``evaluation``, ``experiments`` (the paper's settings and numbers), ``records``,
``report``, ``bench``.
"""

import os

from linfdist.nn import (
    LinfDistNet,
    LinfDistNetMLP,
    LpDist,
    LpDistConv2d,
    MeanShift,
    NetConfig,
    build_net,
    reestimate_mean_shift,
)
from linfdist.ops import backend, linf_interval, lp_dist, lse_dist
from linfdist.optim import LpAdamW
from linfdist.robust import interval_certified, interval_radius, margin_radius, pgd

if os.name != "posix":
    raise ImportError(
        f"linfdist: the system must be POSIX, as Linux and macOS are; got {os.name!r}. On Windows "
        "use its Subsystem for Linux."
    )

__all__ = [
    "LinfDistNet",
    "LinfDistNetMLP",
    "LpAdamW",
    "LpDist",
    "LpDistConv2d",
    "MeanShift",
    "NetConfig",
    "backend",
    "build_net",
    "interval_certified",
    "interval_radius",
    "linf_interval",
    "lp_dist",
    "lse_dist",
    "margin_radius",
    "pgd",
    "reestimate_mean_shift",
]
