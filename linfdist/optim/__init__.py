"""The paper's optimizer and schedules."""

from linfdist.optim.adamw_step import lp_decay_
from linfdist.optim.lp_adamw import LpAdamW, param_groups, set_p
from linfdist.optim.schedules import eps_at, lr_at, p_at, relaxation_at, weight_at

__all__ = [
    "LpAdamW",
    "eps_at",
    "lp_decay_",
    "lr_at",
    "p_at",
    "param_groups",
    "relaxation_at",
    "set_p",
    "weight_at",
]
