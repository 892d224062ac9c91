"""The paper's optimizer and schedules."""

from linfdist.optim.lp_adamw import LpAdamW, lp_decay_, param_groups, set_p
from linfdist.optim.schedules import eps_at, lr_at, p_at

__all__ = ["LpAdamW", "eps_at", "lp_decay_", "lr_at", "p_at", "param_groups", "set_p"]
