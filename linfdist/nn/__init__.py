"""l_inf-dist layers and networks."""

from linfdist.nn.config import NetConfig
from linfdist.nn.counts import flop_count, parameter_count
from linfdist.nn.distance import LpDist, LpDistConv2d
from linfdist.nn.frozen import frozen, refuse_wrapped
from linfdist.nn.head import LARGEST, BoundedLinear, BoundedTanh, sums_hold
from linfdist.nn.logsumexp import LogSumExp, mean_distances, set_mean_distances
from linfdist.nn.mean_shift import MeanShift, by_running_means, reestimate_mean_shift, synchronized
from linfdist.nn.nets import DistFeatures, LinfDistNet, LinfDistNetMLP, build_net, check_pixels
from linfdist.nn.normalize import Normalize

__all__ = [
    "LARGEST",
    "BoundedLinear",
    "BoundedTanh",
    "DistFeatures",
    "LinfDistNet",
    "LinfDistNetMLP",
    "LogSumExp",
    "LpDist",
    "LpDistConv2d",
    "MeanShift",
    "NetConfig",
    "Normalize",
    "build_net",
    "by_running_means",
    "check_pixels",
    "flop_count",
    "frozen",
    "mean_distances",
    "parameter_count",
    "reestimate_mean_shift",
    "refuse_wrapped",
    "set_mean_distances",
    "sums_hold",
    "synchronized",
]
