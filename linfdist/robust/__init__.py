"""Robustness: losses, certificates and attacks."""

from linfdist.robust.attacks import Attack, pgd
from linfdist.robust.certificates import interval_certified, interval_radius, margin_radius
from linfdist.robust.losses import HingeLoss, IBPLoss, hinge_loss, ibp_loss
from linfdist.robust.protocols import Classifier, Lipschitz

__all__ = [
    "Attack",
    "Classifier",
    "HingeLoss",
    "IBPLoss",
    "Lipschitz",
    "hinge_loss",
    "ibp_loss",
    "interval_certified",
    "interval_radius",
    "margin_radius",
    "pgd",
]
