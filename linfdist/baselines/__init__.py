"""The methods that the paper compares with: their networks and their bounds, on one CPU or GPU.

IBP [Gowal2018], CROWN-IBP [Zhang2020] and its loss fusion [Xu2020], CAP [WongKolter2018],
GroupSort [Anil2019]. DiffAI [Mirman2019] in its box domain is IBP on ``resnet_tiny``, with the loss
(1 − λ) CE(logits) + λ CE(worst margins), λ rising to 1/2 with eps.
"""

from linfdist.baselines.bounds import Trace, interval, margin_bounds
from linfdist.baselines.config import BaselineConfig
from linfdist.baselines.convex import cap_margins
from linfdist.baselines.counts import flop_count, parameter_count
from linfdist.baselines.crown import crown_ibp_margins, fused_loss_bound
from linfdist.baselines.nets import BaselineNet, CapNet, GroupSortNet, build_baseline

__all__ = [
    "BaselineConfig",
    "BaselineNet",
    "CapNet",
    "GroupSortNet",
    "Trace",
    "build_baseline",
    "cap_margins",
    "crown_ibp_margins",
    "flop_count",
    "fused_loss_bound",
    "interval",
    "margin_bounds",
    "parameter_count",
]
