"""The methods that the paper compares with: their networks and their bounds, on one CPU or GPU.

IBP [Gowal2018], CROWN-IBP [Zhang2020] and its loss fusion [Xu2020], CAP [WongKolter2018],
GroupSort [Anil2019]. DiffAI [Mirman2019] in its box domain is IBP on ``resnet_tiny``, with the loss
(1 − λ) CE(logits) + λ CE(worst margins), λ rising to 1/2 with eps.

COLT [Balunovic2020] trains layer by layer against attacks on the zonotope of the layers before. Its
authors bound that zonotope's neurons by random projections, and certify with a commercial solver of
mixed-integer programs; here the neurons have intervals for bounds in training, and linear
relaxations certify, which is weaker.

PVT [Dvijotham2018] trains a second network with the first, which proposes dual variables of the
bound. Neither network nor the code was ever public; here it proposes the slopes of the lines below
the ReLUs, which are those variables once the others are at their best, from each neuron's bounds.
"""

from linfdist.baselines.cap import cap_margins
from linfdist.baselines.colt import instability, latent_attack, prefix_length, zonotope_point
from linfdist.baselines.config import BaselineConfig
from linfdist.baselines.crown import crown_ibp_margins, fused_loss_bound
from linfdist.baselines.ibp import Trace, interval_trace, margin_bounds
from linfdist.baselines.nets import (
    BaselineNet,
    CapNet,
    ColtNet,
    GroupSortNet,
    PvtNet,
    build_baseline,
)

__all__ = [
    "BaselineConfig",
    "BaselineNet",
    "CapNet",
    "ColtNet",
    "GroupSortNet",
    "PvtNet",
    "Trace",
    "build_baseline",
    "cap_margins",
    "crown_ibp_margins",
    "fused_loss_bound",
    "instability",
    "interval_trace",
    "latent_attack",
    "margin_bounds",
    "prefix_length",
    "zonotope_point",
]
