"""The methods that the paper compares with: their networks and their bounds, on one CPU or GPU.

IBP [Gowal2018], CROWN-IBP [Zhang2020] and its loss fusion [Xu2020], CAP [WongKolter2018],
GroupSort [Anil2019]. DiffAI [Mirman2019] in its box domain is IBP on ``resnet_tiny``, with the loss
(1 − λ) CE(logits) + λ CE(worst margins), λ rising to 1/2 with eps.

Not built: COLT [Balunovic2020] and PVT [Dvijotham2018]. COLT trains layer by layer against attacks
on the relaxed outputs of the layers before: that would need a zonotope domain with its projection
and a trainer of stages, and its numbers come from a mixed-integer solver, without which the
certificate is a weaker one. PVT trains a second network that proposes dual variables of the bound:
that would need the dual of any feasible point, where CAP and CROWN take one in closed form, and the
second network; the authors' code and architecture were never public.
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
