"""Robustness: losses, certificates and attacks."""

from linfdist.robust.attacks import Attack, pgd
from linfdist.robust.certificates import interval_certified, interval_radius, margin_radius
from linfdist.robust.losses import HingeLoss, IBPLoss, hinge_loss, ibp_loss

__all__ = [
    "Attack",
    "HingeLoss",
    "IBPLoss",
    "hinge_loss",
    "ibp_loss",
    "interval_certified",
    "interval_radius",
    "margin_radius",
    "pgd",
]
